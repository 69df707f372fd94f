# SPDX-License-Identifier: GPL-2.0-only
"""Event counters: counts of any size, semaphores, O_NONBLOCK, close-on-exec, shared by two processes, waited for.

Missing: that a counter is shared with a process outside the tree goes unnoticed.
"""

import os
from collections.abc import Iterator

import victim

HUGE = (1 << 64) - 2  # as much as one can hold


def scenario() -> Iterator[victim.Damage]:
    empty = os.eventfd(0, os.EFD_NONBLOCK)
    full = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    os.eventfd_write(full, HUGE)
    semaphore = os.eventfd(3, os.EFD_SEMAPHORE | os.EFD_NONBLOCK)
    blocking = os.eventfd(5, 0)
    again = os.dup(blocking)
    ask, answer = os.eventfd(0), os.eventfd(0)
    child = victim.child(lambda: os.eventfd_write(answer, os.eventfd_read(ask) + os.eventfd_read(blocking)))
    victim.wait_until(lambda: victim.sleeping(child), "the child reads")
    yield lambda: os.eventfd_read(semaphore)
    victim.equal(refused(lambda: os.eventfd_read(empty)), True, "an empty counter can be read")
    victim.equal(refused(lambda: os.eventfd_write(full, 1)), True, "a full counter takes one more")
    victim.equal(os.eventfd_read(full), HUGE, "the full counter")
    victim.equal([os.eventfd_read(semaphore) for _ in range(3)], [1, 1, 1], "the semaphore")
    victim.equal(refused(lambda: os.eventfd_read(semaphore)), True, "the semaphore has more than it had")
    victim.check(os.get_blocking(blocking), "O_NONBLOCK came from nowhere")
    victim.check(not os.get_inheritable(full), "close-on-exec was lost")
    os.eventfd_write(again, 1)
    os.eventfd_write(ask, 1000)
    victim.equal(os.eventfd_read(answer), 1006, "what the child added up from two counters")
    victim.join(child, "the child")


def refused(act: victim.Damage) -> bool:
    try:
        act()
    except BlockingIOError:
        return True
    return False


victim.play(scenario)
