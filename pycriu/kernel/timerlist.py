# SPDX-License-Identifier: GPL-2.0-only
"""/proc/timer_list: when the sleeps of all threads of the machine would end. It does not say whose they are.

A thread that waits for something, with a limit, sleeps on a high-resolution timer, which is in the list as long as it
does. Root may read it. Source: kernel/time/timer_list.c.
"""

from __future__ import annotations

from pycriu.record import record

_CLOCK_MONOTONIC = " clock 0:"
_WAKES_A_THREAD = " hrtimer_wakeup,"


@record
class Timers:
    """What the list said at the time `now`, in nanoseconds of CLOCK_MONOTONIC.

    `sleeps`: address (which tells timers apart), first and last nanosecond at which it may expire.
    """

    now: int
    sleeps: frozenset[tuple[str, int, int]]


def read() -> Timers | None:
    """The list of this moment; None where it cannot be had."""
    try:
        with open("/proc/timer_list") as file:
            return parse(file.read())
    except OSError:
        return None


def parse(text: str) -> Timers:
    """The text of the file."""
    now, clock, address = 0, "", ""
    sleeps = []
    for line in text.splitlines():
        if line.startswith(" # expires at ") and address:
            first, _, last = line.split()[3].partition("-")
            sleeps.append((address, int(first), int(last)))
            address = ""
        elif line.startswith(" #"):
            address = line.split()[1].rstrip(",") if clock == _CLOCK_MONOTONIC and _WAKES_A_THREAD in line else ""
        elif line.startswith(" clock "):
            clock = line
        elif line.startswith("now at "):
            now = int(line.split()[2])
    return Timers(now, frozenset(sleeps))
