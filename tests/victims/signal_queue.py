# SPDX-License-Identifier: GPL-2.0-only
"""The queue of pending real-time signals: how many, in which order, from whom.

Kept: queued real-time signals with their siginfo
"""

import os
import signal
from collections.abc import Iterator

import victim

QUEUE = [signal.SIGRTMIN + 2, signal.SIGRTMIN, signal.SIGRTMIN + 2, signal.SIGRTMIN + 1, signal.SIGRTMIN]


def scenario() -> Iterator[victim.Damage]:
    signal.pthread_sigmask(signal.SIG_BLOCK, set(QUEUE))
    for number in QUEUE:
        os.kill(os.getpid(), number)
    yield lambda: signal.sigwaitinfo(QUEUE)
    got = []
    while (info := signal.sigtimedwait(QUEUE, 0)) is not None:
        got.append((info.si_signo, info.si_pid, info.si_code))
    victim.equal(got, [(number, os.getpid(), 0) for number in sorted(QUEUE)], "number, sender and code in the queue")


victim.play(scenario)
