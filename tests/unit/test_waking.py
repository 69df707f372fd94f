# SPDX-License-Identifier: GPL-2.0-only
"""A signal ends the wait for a client wherever it comes, above all close behind another one."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from contextlib import suppress

from pycriu.kernel import waking

ROUNDS = 6000  # with a bare accept(2) about ten of them hang


class _EndedError(Exception):
    """What the handler raises."""


def _end(*_: object) -> None:
    raise _EndedError


def _reap(*_: object) -> None:
    """As a service does, whose worker has ended."""
    with suppress(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def _waits(listener: socket.socket, writer: int) -> None:
    for number, handler in ((signal.SIGUSR1, _end), (signal.SIGUSR2, _reap)):
        signal.signal(number, handler)
    for _ in range(ROUNDS):
        with suppress(_EndedError):
            os.write(writer, b"x")
            waking.accept(listener)
    os.write(writer, b"x")


def test_no_signal_is_missed() -> None:
    reader, writer = os.pipe()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(b"")
        listener.listen()
        child = os.fork()
        if not child:
            status = 1
            try:
                _waits(listener, writer)
                status = 0
            finally:
                os._exit(status)
        try:
            for number in range(ROUNDS):
                assert select.select([reader], [], [], 10)[0], f"round {number}: the wait has not ended"
                os.read(reader, 1)
                time.sleep(0.0001)
                os.kill(child, signal.SIGUSR2)
                for _ in range(number % 97 * 4):
                    pass
                os.kill(child, signal.SIGUSR1)
            assert select.select([reader], [], [], 10)[0]
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    os.close(reader)
    os.close(writer)


def test_a_client_comes_and_everything_is_as_before() -> None:
    open_before = os.listdir("/proc/self/fd")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(b"")
        listener.listen()
        client.connect(listener.getsockname())
        connection, _ = waking.accept(listener)
        with connection:
            client.send(b"here")
            assert connection.recv(8) == b"here"
    assert os.listdir("/proc/self/fd") == open_before
    assert signal.set_wakeup_fd(-1) == -1
