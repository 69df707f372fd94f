# SPDX-License-Identifier: GPL-2.0-only
"""System calls that a dump interrupts: sleep, read, poll, wait4, epoll_wait and sigwaitinfo must end as if nothing had
been.

The calls are made through ctypes: Python's own wrappers would repeat a call that came back with EINTR, and hide it.

Kept: interrupted system calls
Missing: a relative sleep begins anew at a restore
"""

import ctypes
import os
import select
import signal
import time
from collections.abc import Callable, Iterator

import victim

SLEEP = 4  # seconds: longer than a dump takes to begin
libc = ctypes.CDLL(None, use_errno=True)


class Timespec(ctypes.Structure):
    """struct timespec."""

    _fields_ = (("sec", ctypes.c_long), ("nsec", ctypes.c_long))


class Pollfd(ctypes.Structure):
    """struct pollfd."""

    _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))


def scenario() -> Iterator[victim.Damage]:
    ends = [os.pipe() for _ in range(4)]
    works: list[Callable[[], None]] = [
        nap,
        lambda: read(ends[0][0]),
        lambda: poll(ends[1][0], -1),
        lambda: poll(ends[2][0], 500_000),
        wait,
        lambda: epoll(ends[3][0]),
        await_signal,
    ]
    children = [victim.child(work) for work in works]
    for pid in children:
        victim.wait_until(lambda pid=pid: victim.sleeping(pid), f"child {pid} in its call")  # type: ignore[misc]
    yield lambda: os.kill(children[1], signal.SIGUSR1)
    for _, write in ends:
        os.write(write, b"x")
    os.kill(children[-1], signal.SIGUSR2)
    names = ("nanosleep", "read", "poll", "poll with a limit", "wait4", "epoll_wait", "sigwaitinfo")
    for pid, what in zip(children, names, strict=True):
        victim.join(pid, what)


def result(value: int, what: str, expected: int) -> None:
    why = os.strerror(ctypes.get_errno()) if value < 0 else ""
    victim.check(value == expected, f"{what} returned {value} {why}")


def nap() -> None:
    start = time.monotonic()
    result(libc.nanosleep(ctypes.byref(Timespec(SLEEP, 0)), None), "nanosleep", 0)
    passed = time.monotonic() - start
    victim.check(passed > SLEEP - 0.01, f"nanosleep of {SLEEP} s returned after {passed}")


def read(fd: int) -> None:
    buffer = ctypes.create_string_buffer(10)
    result(libc.read(fd, buffer, 10), "read", 1)


def poll(fd: int, limit: int) -> None:
    asked = Pollfd(fd, 1, 0)
    result(libc.poll(ctypes.byref(asked), 1, limit), "poll", 1)
    victim.equal(asked.revents, 1, "what poll saw")


def epoll(fd: int) -> None:
    """The kernel alone ends this call at any stop (signal(7)); a dump is to be less than a stop."""
    with select.epoll() as watches:
        watches.register(fd, select.EPOLLIN)
        result(libc.epoll_wait(watches.fileno(), ctypes.create_string_buffer(16), 1, -1), "epoll_wait", 1)


def await_signal() -> None:
    """The same."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    wanted = (ctypes.c_uint64 * 16)(1 << signal.SIGUSR2 - 1)
    result(libc.sigwaitinfo(wanted, None), "sigwaitinfo", signal.SIGUSR2)


def wait() -> None:
    grandchild = victim.child(lambda: time.sleep(SLEEP))
    status = ctypes.c_int(-1)
    result(libc.wait4(grandchild, ctypes.byref(status), 0, None), "wait4", grandchild)
    victim.forget(grandchild)
    victim.equal(status.value, 0, "the grandchild's status")


victim.play(scenario)
