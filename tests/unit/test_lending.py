# SPDX-License-Identifier: GPL-2.0-only
"""Children that do something in our place: they end when they are to, whatever else has been forked, or comes up."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from pycriu.errors import KernelError
from pycriu.kernel import libc
from pycriu.kernel.lending import Lender


class _InterruptedError(Exception):
    pass


def _interrupt(*_: object) -> None:
    raise _InterruptedError


def _limited(work: object) -> None:
    """Do it; a minute is long enough."""
    before = signal.signal(signal.SIGALRM, _interrupt)
    signal.alarm(60)
    try:
        work()  # type: ignore[operator]
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_descriptors_are_lent() -> None:
    with Lender(os.fork, lambda: os.open("/dev/null", os.O_RDONLY).to_bytes(4, "little")) as child:
        (fd,) = child.fetch([int.from_bytes(child.answer, "little")])
    assert os.path.samestat(os.fstat(fd), os.stat("/dev/null"))
    os.close(fd)


def test_it_ends_while_another_child_has_the_same_pipes() -> None:
    def lend() -> None:
        with Lender(os.fork, lambda: b"here"):
            others.append(os.fork())
            if not others[0]:
                time.sleep(100)
                os._exit(0)

    others: list[int] = []
    try:
        _limited(lend)
    finally:
        os.kill(others[0], signal.SIGKILL)
        os.waitpid(others[0], 0)


def test_one_that_was_killed() -> None:
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        with Lender(os.fork, lambda: os.kill(os.getpid(), signal.SIGKILL) or b"") as child:
            assert child.answer == b""
    finally:
        signal.signal(signal.SIGPIPE, before)


def test_nothing_is_left_when_a_signal_ends_the_wait_for_the_answer() -> None:
    before = os.listdir("/proc/self/fd")
    forked: list[int] = []

    def fork() -> int:
        forked.append(os.fork())
        return forked[-1]

    def work() -> bytes:
        time.sleep(0.3)
        os.kill(os.getppid(), signal.SIGALRM)
        time.sleep(0.3)
        return b""

    def lend() -> None:
        with pytest.raises(_InterruptedError):
            Lender(fork, work)

    _limited(lend)
    assert os.listdir("/proc/self/fd") == before
    with pytest.raises(ChildProcessError):
        os.waitpid(forked[0], os.WNOHANG)


def test_what_comes_up_in_a_child_between_does_not_go_on_there() -> None:
    """In a program with threads, a process of a chosen PID is made by such a child."""
    over = threading.Event()
    other = threading.Thread(target=over.wait)
    other.start()
    reader, writer = os.pipe()
    try:
        with pytest.raises(KernelError):
            libc.clone3_set_tid("none", flags=0, exit_signal=signal.SIGCHLD)  # type: ignore[arg-type]
    finally:
        os.write(writer, b"x")  # by each that gets here
        os.close(writer)
        over.set()
        other.join()
    assert os.read(reader, 10) == b"x"
    os.close(reader)
