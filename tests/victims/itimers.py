# SPDX-License-Identifier: GPL-2.0-only
"""Interval timers: what is left of a long one, the period of a short one, and that it goes on firing.

Kept: interval timers
"""

import os
import signal
import time
from collections.abc import Iterator
from types import FrameType

import victim

LONG = 5000.0
TICK = 0.02  # the kernel rounds what is left of a CPU-time timer up to its tick
PERIOD = 0.25


def scenario() -> Iterator[victim.Damage]:
    ticks: list[int] = []

    def tick(number: int, frame: FrameType | None) -> None:
        ticks.append(number)

    signal.signal(signal.SIGALRM, tick)
    signal.signal(signal.SIGVTALRM, tick)
    hold, release = os.pipe()
    sleeper = victim.child(lambda: judge_long(hold, release))
    os.close(hold)
    signal.setitimer(signal.ITIMER_VIRTUAL, LONG, 3.0)
    signal.setitimer(signal.ITIMER_PROF, LONG, 4.0)
    signal.setitimer(signal.ITIMER_REAL, PERIOD, PERIOD)
    victim.wait_until(lambda: len(ticks) > 1, "the first ticks")
    yield lambda: signal.setitimer(signal.ITIMER_REAL, 0)
    seen = len(ticks)
    victim.wait_until(lambda: len(ticks) > seen + 2, "ticks afterwards", 8)
    victim.equal(signal.getitimer(signal.ITIMER_REAL)[1], PERIOD, "the period")
    for kind, period in ((signal.ITIMER_VIRTUAL, 3.0), (signal.ITIMER_PROF, 4.0)):
        left, again = signal.getitimer(kind)
        victim.check(
            LONG - 300 < left <= LONG + TICK and again == period, f"timer {kind}: {left} s left, every {again} s"
        )
    os.close(release)
    victim.join(sleeper, "the child with a long timer")


def judge_long(hold: int, release: int) -> None:
    os.close(release)
    start = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, LONG, 0)
    os.read(hold, 1)
    left, again = signal.getitimer(signal.ITIMER_REAL)
    passed = time.monotonic() - start
    # The time between dump and restore may count or not; nothing may be added.
    victim.check(
        LONG - passed - 1 < left <= LONG + TICK and again == 0,
        f"{left} s left of {LONG} after {passed}, every {again} s",
    )


victim.play(scenario)
