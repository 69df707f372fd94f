# SPDX-License-Identifier: GPL-2.0-only
"""Waits for events with a limit: epoll_wait(2) and its kin, which the kernel ends with EINTR at any stop, and poll(2).

The former are made again, with what is left of their limit; the latter goes on by itself, but not in a new task.

Nobody says when a call began; but the timer on which the thread sleeps is in /proc/timer_list before the thread is
stopped, and is not when it has been. Of those timers that have gone meanwhile, and whose precision is what the kernel
gives to a wait of this length, the last one counts: where another thread's is taken for ours the wait gets longer, and
never shorter. A thread that has run in between, or whose timer is not found, gets its EINTR, for which programs must be
prepared (signal(7)); its poll begins anew.

Not so treated, and so ended with EINTR: sigtimedwait, semtimedop, io_getevents, whose limit is in the memory of the
program, and calls on sockets with SO_RCVTIMEO or SO_SNDTIMEO, whose timers nobody lists. For the first reason relative
sleeps and futexes, which have to be made again in a new task, begin anew there.
"""

from __future__ import annotations

import struct
import time

from pycriu.errors import PycriuError, TraceeGone
from pycriu.kernel import procfs, timerlist
from pycriu.tracing import interrupted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pycriu.arch.description import Arch
    from pycriu.tracing.tracee import Tracee

_LIMIT, _LIMIT_OF_POLL = 3, 2  # which argument
_MS, _S = 10**6, 10**9
# select_estimate_accuracy() of fs/select.c: a thousandth of what is to be waited, or a two-hundredth for a nice task.
_PRECISIONS, _COARSEST, _OFF = (1000, 200), 10**8, 10**4


class Waiting:
    """One thread that was in such a call when it was looked at."""

    __slots__ = ("before", "called", "switches")

    def __init__(self, called: list[int], switches: int) -> None:
        self.called, self.switches = called, switches
        self.before: timerlist.Timers | None = None


class Limited:
    """Those of a tree: `note` each before it is asked to stop, `look` when all are noted, `again` when they stand."""

    def __init__(self, arch: Arch) -> None:
        self._arch = arch
        self._milliseconds = interrupted.numbers(arch, ("epoll_wait", "epoll_pwait"))
        self._timespec = interrupted.numbers(arch, ("epoll_pwait2",))
        self._poll = interrupted.numbers(arch, ("poll",))
        self._waiting: dict[int, Waiting] = {}
        self._until: dict[int, float] = {}

    def note(self, tid: int, called: list[int]) -> None:
        """`called` is what interrupted.called said."""
        number = called[0]
        limit = called[1 + self._place(number)] & 0xFFFF_FFFF
        in_milliseconds = number in self._milliseconds or number in self._poll
        if number in self._timespec or (in_milliseconds and 0 < limit < 1 << 31):
            try:
                self._waiting[tid] = Waiting(called, _switches(tid))
            except TraceeGone:
                return  # the wait for its stop will tell

    def _place(self, number: int) -> int:
        return _LIMIT_OF_POLL if number in self._poll else _LIMIT

    def look(self) -> None:
        """Those that have been noted are about to be stopped."""
        fresh = [one for one in self._waiting.values() if one.before is None]
        listed = timerlist.read() if fresh else None
        for one in fresh:
            one.before = listed

    def again(self, stopped: list[Tracee]) -> None:
        """Let those that stand now, after `look`, go on with their calls."""
        mine = [(task, self._waiting.pop(task.tid)) for task in stopped if task.tid in self._waiting]
        after = timerlist.read() if mine else None
        for task, one in mine:
            if one.before is None or after is None:
                continue
            try:
                self._settle(task, one, one.before, after)
            except TraceeGone:
                continue  # it was killed by somebody else meanwhile

    def _settle(self, task: Tracee, one: Waiting, before: timerlist.Timers, after: timerlist.Timers) -> None:
        if _switches(task.tid) > one.switches + 1:
            return
        end = expiry(before, after, self._limit(task, one.called), _slack(task.tid))
        if end is None:
            return
        left = (end - after.now) / _S
        if one.called[0] in self._poll:
            task.rest = _milliseconds(left)
        else:
            self._make_again(task, one.called, time.monotonic() + left)

    def _make_again(self, task: Tracee, called: list[int], end: float) -> None:
        gpr = interrupted.ended_by_us(task, called)
        if gpr is None:
            return
        number = called[0]
        if number in self._timespec:  # the same call, whose limit is not in memory
            (number,) = interrupted.numbers(self._arch, ("epoll_pwait",))
        self._arch.call_again(gpr, number, called[1])
        self._until[task.tid] = end
        gpr[self._arch.args[_LIMIT]] = _milliseconds(end - time.monotonic())
        task.set_registers(gpr)

    def _limit(self, task: Tracee, called: list[int]) -> int:
        """In nanoseconds; 0 where it cannot be read."""
        value = called[1 + self._place(called[0])]
        if called[0] not in self._timespec:
            return (value & 0xFFFF_FFFF) * _MS
        try:
            seconds, nanoseconds = struct.unpack("=qq", task.read(value, 16)) if value else (0, 0)
        except (PycriuError, OSError):
            return 0
        return int(seconds * _S + nanoseconds)

    def go_on(self, task: Tracee) -> None:
        """The thread is about to run: the time for which it stood counts, too."""
        if task.tid in self._until:
            gpr = task.registers()
            gpr[self._arch.args[_LIMIT]] = _milliseconds(self._until.pop(task.tid) - time.monotonic())
            task.set_registers(gpr)


def _milliseconds(seconds: float) -> int:
    """Rounded up."""
    return min(max(-int(-1000 * seconds // 1), 0), 0x7FFF_FFFF)


def expiry(before: timerlist.Timers, after: timerlist.Timers, limit: int, slack: int) -> int | None:
    """When a wait of `limit` ns that has ended between the two lists would have; None where no timer was for it.

    `slack` is the timer slack of the thread.
    """
    widths = [max(slack, min(limit // part, _COARSEST)) for part in _PRECISIONS]
    found = [
        first
        for _, first, last in before.sleeps - after.sleeps
        if first <= before.now + limit and any(0 <= width - (last - first) <= _OFF for width in widths)
    ]
    return max(found, default=None)


def _switches(tid: int) -> int:
    """How often the thread has gone to sleep."""
    return int(procfs.parse_status(procfs.text(tid, "status"))["voluntary_ctxt_switches"])


def _slack(tid: int) -> int:
    try:
        return int(procfs.text(tid, "timerslack_ns"))
    except (PycriuError, OSError):
        return 0
