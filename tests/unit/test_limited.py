# SPDX-License-Identifier: GPL-2.0-only
"""Waits with a limit: whose timer is whose in what /proc/timer_list said on Linux 6.18."""

from __future__ import annotations

import os
import select
import threading
import time

import pytest

from pycriu.kernel import timerlist
from pycriu.kernel.timerlist import Timers
from pycriu.tracing import limited

SAMPLE = """\
Timer List Version: v0.10
HRTIMER_MAX_CLOCK_BASES: 8
now at 14721488678931 nsecs

cpu: 0
 clock 0:
  .base:       000000006db86db4
  .index:      0
  .resolution: 1 nsecs
  .offset:     0 nsecs
active timers:
 #0: <00000000bccb23c8>, hrtimer_wakeup, S:01
 # expires at 14721491296421-14721491346421 nsecs [in 2617490 to 2667490 nsecs]
 #1: <00000000949499a1>, tick_nohz_handler, S:01
 # expires at 14721492000000-14721492000000 nsecs [in 3321069 to 3321069 nsecs]
 #2: <0000000068f8f1d1>, hrtimer_wakeup, S:01
 # expires at 14729488678931-14729496678931 nsecs [in 8000000000 to 8008000000 nsecs]
 clock 1:
  .base:       00000000d8aa4a38
active timers:
 #0: <00000000aaaaaaaa>, hrtimer_wakeup, S:01
 # expires at 1700000000000000000-1700000000000050000 nsecs [in 5 to 50005 nsecs]
"""
MS, S = 10**6, 10**9


def test_the_list() -> None:
    timers = timerlist.parse(SAMPLE)
    assert timers.now == 14721488678931
    assert timers.sleeps == {
        ("<00000000bccb23c8>", 14721491296421, 14721491346421), ("<0000000068f8f1d1>", 14729488678931, 14729496678931),
    }  # fmt: skip


def sleeps(*spans: tuple[int, int]) -> Timers:
    return Timers(
        100 * S, frozenset((f"<{number}>", first, first + width) for number, (first, width) in enumerate(spans))
    )


NOBODY = Timers(100 * S, frozenset())


@pytest.mark.parametrize(
    ("spans", "limit", "found"),
    [
        ([(105 * S, 8 * MS)], 8 * S, 105 * S),  # a thousandth of eight seconds
        ([(105 * S, 8 * MS - 3)], 8 * S, 105 * S),  # some time had passed when the kernel divided
        ([(105 * S, 40 * MS)], 8 * S, 105 * S),  # a nice task
        ([(105 * S, 50_000)], 8 * S, None),  # a sleep
        ([(109 * S, 8 * MS)], 8 * S, None),  # it began later
        ([(105 * S, 8 * MS), (107 * S, 8 * MS)], 8 * S, 107 * S),  # somebody waits for as long: never too short
        ([(400 * S, 100 * MS)], 600 * S, 400 * S),  # no coarser than a tenth of a second
        ([(100 * S + 9 * MS, 50_000)], 10 * MS, 100 * S + 9 * MS),  # no finer than the slack
    ],
)
def test_whose_timer_it_is(spans: list[tuple[int, int]], limit: int, found: int | None) -> None:
    assert limited.expiry(sleeps(*spans), NOBODY, limit, 50_000) == found


def test_a_timer_that_is_still_there_is_of_somebody_else() -> None:
    timers = sleeps((105 * S, 8 * MS))
    assert limited.expiry(timers, timers, 8 * S, 50_000) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="/proc/timer_list is for root")
def test_the_timer_of_a_thread_of_ours() -> None:
    reader, writer = os.pipe()
    with select.epoll() as watches:
        watches.register(reader, select.EPOLLIN)
        begin = time.monotonic_ns()
        waits = threading.Thread(target=watches.poll, args=(7.5,))
        waits.start()
        time.sleep(0.2)
        before = timerlist.read()
        os.write(writer, b"x")
        waits.join()
        after = timerlist.read()
        os.close(reader)
        os.close(writer)
    assert before is not None
    assert after is not None
    end = limited.expiry(before, after, 7500 * MS, 50_000)
    assert end is not None
    assert 7.5 * S <= end - begin < 7.7 * S
