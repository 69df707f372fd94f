# SPDX-License-Identifier: GPL-2.0-only
"""Signals: a process has actions and a shared queue; each thread has a mask, a queue and an alternate stack of its own.

Queues are kept in order, with their siginfo.
"""

from __future__ import annotations

import struct

from pycriu.images import messages as m
from pycriu.kernel import ptrace
from pycriu.record import record
from pycriu.tracing.tracee import Remote, Row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

NSIG = 64
SIGKILL, SIGSTOP, SIGCHLD = 9, 19, 17
_KERNEL_SIGACTION = struct.Struct("<QQQQ")  # handler, flags, restorer, mask (include/uapi/asm-generic/signal.h)
_STACK_T = struct.Struct("<QIIQ")  # ss_sp, ss_flags, padding, ss_size
SIGSET_SIZE = 8
SS_ONSTACK, SS_DISABLE = 1, 2
SIGNALS = tuple(n for n in range(1, NSIG + 1) if n not in (SIGKILL, SIGSTOP))


Actions = tuple[tuple[int, int, int, int], ...]
"""One per signal of SIGNALS: handler, flags, restorer, mask."""

Stack = tuple[int, int, int]
"""The alternate stack: address, size in bytes, flags."""


@record
class Own:
    """What one thread has of its own."""

    mask: int
    queue: tuple[bytes, ...]


def look(pid: int) -> tuple[bytes, ...]:
    """The shared queue of a stopped process."""
    return ptrace.peek_siginfo(pid, shared=True)


def look_thread(tid: int) -> Own:
    """Mask and queue of a stopped thread whose signals nobody has blocked yet."""
    return Own(ptrace.get_sigmask(tid), ptrace.peek_siginfo(tid, shared=False))


def ask(remote: Remote) -> tuple[list[Row], Callable[[list[int]], Actions]]:
    """rt_sigaction(2) of every signal."""
    size = _KERNEL_SIGACTION.size
    actions = remote.room(size * len(SIGNALS))
    rows = [Row("rt_sigaction", n, 0, actions + i * size, SIGSET_SIZE) for i, n in enumerate(SIGNALS)]

    def answer(_results: list[int]) -> Actions:
        raw = remote.task.read(actions, size * len(SIGNALS))
        return tuple(_KERNEL_SIGACTION.unpack_from(raw, i * size) for i in range(len(SIGNALS)))

    return rows, answer


def ask_thread(remote: Remote) -> tuple[list[Row], Callable[[list[int]], Stack]]:
    """sigaltstack(2)."""
    stack = remote.room(_STACK_T.size)

    def answer(_results: list[int]) -> Stack:
        sp, flags, _, length = _STACK_T.unpack(remote.task.read(stack, _STACK_T.size))
        return sp, length, flags

    return [Row("sigaltstack", 0, stack)], answer


def action_entries(actions: Actions) -> list[Any]:
    """The 62 sa_entry of a core image, SIGKILL and SIGSTOP left out."""
    return [
        m.sa_entry(sigaction=handler, flags=flags, restorer=restorer, mask=mask)
        for handler, flags, restorer, mask in actions
    ]


def queue_entry(queue: tuple[bytes, ...]) -> Any:
    """One pending queue."""
    return m.signal_queue_entry(signals=[m.siginfo_entry(siginfo=info) for info in queue])


def stack_entry(stack: Stack) -> Any:
    """The alternate stack. SS_ONSTACK is not a setting: it follows from the stack pointer."""
    sp, size, flags = stack
    return m.thread_sas_entry(ss_sp=sp, ss_size=size, ss_flags=flags & ~SS_ONSTACK)


# ---------------------------------------------------------------------------------------------------------- restore


def forget_children_rows(remote: Remote) -> list[Row]:
    """Drop a pending SIGCHLD: setting the default action, which ignores it, discards it. Children that were zombies at
    the dump have died again just now; the signal of their first death came before the dump, or is in the image.
    """
    default = remote.data(bytes(_KERNEL_SIGACTION.size))
    return [Row("rt_sigaction", SIGCHLD, default, 0, SIGSET_SIZE)]


def rows(core: Any, pid: int, remote: Remote) -> list[Row]:
    """Actions, then the shared queue; every signal is blocked while this runs."""
    out = []
    for number, entry in zip(SIGNALS, core.tc.sigactions, strict=True):
        raw = _KERNEL_SIGACTION.pack(entry.sigaction, entry.flags, entry.restorer, entry.mask)
        if any(raw) or number == SIGCHLD:
            out.append(Row("rt_sigaction", number, remote.data(raw), 0, SIGSET_SIZE, what=f"signal {number}"))
    for entry in core.tc.signals_s.signals:
        out.append(Row("rt_sigqueueinfo", pid, _number(entry), remote.data(entry.siginfo), what="a pending signal"))
    return out


def thread_rows(thread: Any, pid: int, tid: int, remote: Remote) -> list[Row]:
    """Alternate stack and queue of one thread, once the actions are in place: a signal that is ignored is lost."""
    out = []
    sas = thread.sas
    if thread.HasField("sas") and not sas.ss_flags & SS_DISABLE:
        out.append(Row("sigaltstack", remote.data(_STACK_T.pack(sas.ss_sp, sas.ss_flags, 0, sas.ss_size)), 0))
    for entry in thread.signals_p.signals:
        number, info = _number(entry), remote.data(entry.siginfo)
        out.append(Row("rt_tgsigqueueinfo", pid, tid, number, info, what="a pending signal"))
    return out


def _number(entry: Any) -> int:
    number: int = struct.unpack_from("<i", entry.siginfo)[0]
    return number


def mask(core: Any) -> int:
    """The mask of a thread."""
    thread = core.thread_core
    found: int = thread.blk_sigset if thread.HasField("blk_sigset") else core.tc.blk_sigset
    return found
