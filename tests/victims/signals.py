# SPDX-License-Identifier: GPL-2.0-only
"""Signals: actions (handler, ignored, default), the mask, pending ones that arrive once and only when let in.

Kept: signal actions, mask, alternate stack, pending signals
"""

import os
import signal
from collections.abc import Iterator
from types import FrameType

import victim

MASKED = {signal.SIGUSR1, signal.SIGUSR2, signal.SIGRTMIN}


def scenario() -> Iterator[victim.Damage]:
    arrived: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        arrived.append(number)

    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGRTMIN, signal.SIGHUP):
        signal.signal(number, note)
    signal.signal(signal.SIGWINCH, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, MASKED)
    os.kill(os.getpid(), signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGUSR1)  # a standard signal is pending once
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGRTMIN)  # a real-time signal is pending each time
    names = ("SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt")
    before = victim.status_lines(*names)
    yield lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL)
    victim.equal(victim.status_lines(*names), before, "pending, blocked, ignored and caught")
    victim.equal(signal.sigpending(), {signal.SIGUSR1, signal.SIGRTMIN}, "what is pending")
    victim.equal(arrived, [], "what arrived while it was masked")
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    # By the time the next line runs, the interpreter has run the handlers.
    os.kill(os.getpid(), signal.SIGHUP)
    victim.wait_until(lambda: signal.SIGHUP in arrived, "SIGHUP")
    # Python's own handlers are run once per number, however often the signal came; so the kernel's queue is what is
    # compared above, and here that each number arrived.
    victim.equal(sorted(set(arrived)), sorted({signal.SIGUSR1, signal.SIGRTMIN, signal.SIGHUP}), "what arrived")
    victim.equal(arrived.count(signal.SIGUSR1), 1, "how often SIGUSR1 arrived")


victim.play(scenario)
