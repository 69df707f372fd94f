# SPDX-License-Identifier: GPL-2.0-only
"""Interval timers (setitimer(2)). See posix_timers for those of timer_create(2)."""

from __future__ import annotations

import struct

from pycriu.images import messages as m
from pycriu.tracing.tracee import Remote, Row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_ITIMERVAL = struct.Struct("<4q")  # interval seconds, microseconds; value seconds, microseconds
_REAL, _VIRTUAL, _PROF = 0, 1, 2
Itimers = tuple[tuple[int, int, int, int], ...]


def ask(remote: Remote) -> tuple[list[Row], Callable[[list[int]], Itimers]]:
    """getitimer(2) of the three clocks: what is left, and the interval."""
    room = remote.room(3 * _ITIMERVAL.size)
    rows = [Row("getitimer", which, room + which * _ITIMERVAL.size) for which in (_REAL, _VIRTUAL, _PROF)]

    def answer(_results: list[int]) -> Itimers:
        raw = remote.task.read(room, 3 * _ITIMERVAL.size)
        return tuple(_ITIMERVAL.unpack_from(raw, which * _ITIMERVAL.size) for which in (_REAL, _VIRTUAL, _PROF))

    return rows, answer


def entry(itimers: Itimers, posix: list[Any]) -> Any:
    """task_timers_entry, with the entries of the POSIX timers."""
    real, virt, prof = (m.itimer_entry(isec=i, iusec=iu, vsec=v, vusec=vu) for i, iu, v, vu in itimers)
    return m.task_timers_entry(real=real, virt=virt, prof=prof, posix=posix)


def rows(core: Any, remote: Remote) -> list[Row]:
    """Start the timers that ran, with what they had left."""
    timers = core.tc.timers
    out = []
    for which, t in ((_REAL, timers.real), (_VIRTUAL, timers.virt), (_PROF, timers.prof)):
        # A periodic timer with nothing left has just expired: its signal is pending, and the kernel starts the next
        # period when that is delivered. setitimer(2) with a value of 0 would stop it for good.
        left = (t.vsec, t.vusec) if t.vsec or t.vusec else (t.isec, t.iusec)
        if any(left):
            out.append(Row("setitimer", which, remote.data(_ITIMERVAL.pack(t.isec, t.iusec, *left)), 0))
    return out
