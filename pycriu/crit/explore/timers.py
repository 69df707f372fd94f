# SPDX-License-Identifier: GPL-2.0-only
"""Timers and signals."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

from pycriu.crit.explore.view import View

_CLOCKS = {
    0: "REALTIME", 1: "MONOTONIC", 2: "PROCESS_CPUTIME", 3: "THREAD_CPUTIME", 7: "BOOTTIME", 8: "REALTIME_ALARM",
    9: "BOOTTIME_ALARM",
}  # fmt: skip
_ACTIONS = {0: "default", 1: "ignored"}
_SIGNO, _CODE = slice(0, 4), slice(8, 12)  # of siginfo_t


def name_of(number: int) -> str:
    """SIGTERM, SIGRTMIN+3, … of a number."""
    if number in signal.valid_signals() and number < signal.SIGRTMIN:
        return signal.Signals(number).name
    return f"SIGRTMIN+{number - signal.SIGRTMIN}" if signal.SIGRTMIN <= number <= 64 else f"signal {number}"


def _clock(number: int) -> str:
    return _CLOCKS.get(number, f"clock {number}")


def _span(seconds: int, rest: int, unit: int) -> str:
    digits = 6 if unit == 10**6 else 9
    return f"{seconds}.{rest:0{digits}d} s"


def timers(view: View) -> Iterator[str]:
    """What is left of each timer, and its period; times in seconds."""
    for process in view.living():
        lines = [*_interval(view.core(process.pid).tc.timers), *_posix(view.core(process.pid).tc.timers)]
        lines += [line for one in view.descriptors(process.pid) if (line := _timerfd(view, one))]
        if lines:
            yield f"{process.pid} {view.comm(process.pid)}"
            yield from (f"\t{line}" for line in lines)


def _interval(entry: Any) -> Iterator[str]:
    for name in ("real", "virt", "prof"):
        one = getattr(entry, name)
        if one.vsec or one.vusec:
            period = f", every {_span(one.isec, one.iusec, 10**6)}" if one.isec or one.iusec else ""
            yield f"itimer {name}: in {_span(one.vsec, one.vusec, 10**6)}{period}"


def _posix(entry: Any) -> Iterator[str]:
    for one in entry.posix:
        overrun = f", overrun {one.overrun}" if one.overrun else ""
        yield f"timer {one.it_id}: {_clock(one.clock_id)}, {_when(one)}, {name_of(one.si_signo)}{overrun}"


def _when(one: Any) -> str:
    period = f", every {_span(one.isec, one.insec, 10**9)}" if one.isec or one.insec else ""
    left = f"in {_span(one.vsec, one.vnsec, 10**9)}" if one.vsec or one.vnsec else "not armed"
    return left + period


def _timerfd(view: View, descriptor: Any) -> str:
    entry = view.files.get(descriptor.id)
    if entry is None or not entry.HasField("tfd"):
        return ""
    one = entry.tfd
    ticks = f", {one.ticks} ticks unread" if one.ticks else ""
    return f"timerfd {descriptor.fd}: {_clock(one.clockid)}, {_when(one)}{ticks}"


def signals(view: View) -> Iterator[str]:
    """Actions that are not the default, blocked signals, pending ones with their codes."""
    for process in view.living():
        tc = view.core(process.pid).tc
        yield f"{process.pid} {tc.comm}"
        actions = [(number, one) for number, one in _numbered(tc.sigactions) if one.sigaction]
        for number, one in actions:
            what = _ACTIONS.get(one.sigaction, f"handler {one.sigaction:#x}")
            mask = f", blocks {_names(one.mask)}" if one.mask else ""
            yield f"\t{name_of(number)}: {what}, flags {one.flags:#x}{mask}"
        yield from (f"\tpending: {_info(one.siginfo)}" for one in tc.signals_s.signals)
        for tid in process.threads:
            yield from (f"\t{line}" for line in _of_thread(view, tid))


def _numbered(actions: Any) -> Iterator[tuple[int, Any]]:
    """Actions with their signals; SIGKILL and SIGSTOP have none."""
    numbers = [number for number in range(1, 65) if number not in (signal.SIGKILL, signal.SIGSTOP)]
    return zip(numbers, actions, strict=False)


def _of_thread(view: View, tid: int) -> Iterator[str]:
    core = view.core(tid)
    mask = core.thread_core.blk_sigset if core.thread_core.HasField("blk_sigset") else core.tc.blk_sigset
    if mask:
        yield f"thread {tid} blocks {_names(mask)}"
    yield from (f"thread {tid} pending: {_info(one.siginfo)}" for one in core.thread_core.signals_p.signals)


def _names(mask: int) -> str:
    return " ".join(name_of(number) for number in range(1, 65) if mask >> (number - 1) & 1)


def _info(data: bytes) -> str:
    number, code = int.from_bytes(data[_SIGNO], "little"), int.from_bytes(data[_CODE], "little", signed=True)
    return f"{name_of(number)}, code {code}"
