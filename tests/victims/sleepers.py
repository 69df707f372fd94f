# SPDX-License-Identifier: GPL-2.0-only
"""Calls with a timeout: sleeps, poll, select, epoll_wait, futex, relative and absolute; none ends early or with EINTR.

Missing: relative sleeps and futexes begin anew at a restore; EINTR: sigtimedwait, semtimedop, sockets with a timeout
"""

import ctypes
import os
import platform
import select
import signal
import struct
import time
from collections.abc import Callable, Iterator

import victim

LIMIT = 4.0  # seconds: longer than a dump takes to begin
libc = ctypes.CDLL(None, use_errno=True)
FUTEX = 202 if platform.machine() == "x86_64" else 98
TIMER_ABSTIME = 1
BITSET_ABSOLUTE = 9 | 128  # FUTEX_WAIT_BITSET, private: its timeout is absolute
ETIMEDOUT = 110


def spec(seconds: float) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(struct.pack("qq", int(seconds), int(seconds % 1 * 1e9)), 16)


def soon() -> ctypes.Array[ctypes.c_char]:
    return spec(time.clock_gettime(time.CLOCK_MONOTONIC) + LIMIT)


def error(result: int) -> int:
    return ctypes.get_errno() if result < 0 else 0


def result_of_poll() -> int:
    """By the C library itself: Python would repeat a call that came back with EINTR."""
    fds = ctypes.create_string_buffer(struct.pack("ihh", os.pipe()[0], 1, 0), 8)
    return error(libc.poll(fds, 1, int(LIMIT * 1000)))


def result_of_select() -> int:
    read = os.pipe()[0]
    bits = ctypes.create_string_buffer((1 << read).to_bytes(128, "little"), 128)
    limit = ctypes.create_string_buffer(struct.pack("qq", int(LIMIT), 0), 16)
    return error(libc.select(read + 1, bits, None, None, limit))


def result_of_epoll() -> int:
    """The kernel ends this call at any stop; its limit must go on all the same."""
    with select.epoll() as watches:
        watches.register(os.pipe()[0], select.EPOLLIN)
        return error(libc.epoll_wait(watches.fileno(), ctypes.create_string_buffer(16), 1, int(LIMIT * 1000)))


def result_of_futex() -> int:
    word = ctypes.create_string_buffer(4)
    return error(libc.syscall(FUTEX, word, 128, 0, spec(LIMIT), None, 0)) - ETIMEDOUT


def result_of_absolute_futex() -> int:
    word = ctypes.create_string_buffer(4)
    return error(libc.syscall(FUTEX, word, BITSET_ABSOLUTE, 0, soon(), None, 0xFFFFFFFF)) - ETIMEDOUT


WAYS: dict[str, Callable[[], int]] = {
    "nanosleep": lambda: error(libc.nanosleep(spec(LIMIT), None)),
    "nanosleep that tells the rest": lambda: error(libc.nanosleep(spec(LIMIT), spec(0))),
    "clock_nanosleep": lambda: libc.clock_nanosleep(time.CLOCK_MONOTONIC, 0, spec(LIMIT), None),
    "absolute clock_nanosleep": lambda: libc.clock_nanosleep(time.CLOCK_MONOTONIC, TIMER_ABSTIME, soon(), None),
    "poll": result_of_poll,
    "select": result_of_select,
    "epoll_wait": result_of_epoll,
    "futex": result_of_futex,
    "absolute futex": result_of_absolute_futex,
}


def scenario() -> Iterator[victim.Damage]:
    def live(name: str, call: Callable[[], int]) -> None:
        begin = time.monotonic()
        victim.equal(call(), 0, f"the error of {name}")
        passed = time.monotonic() - begin
        victim.check(passed > LIMIT - 0.01, f"{name} of {LIMIT} s ended after {passed}")
        if "absolute" in name:
            print(f"{name}: {passed:.2f} s", flush=True)

    children = {name: victim.child(lambda name=name, way=way: live(name, way)) for name, way in WAYS.items()}  # type: ignore[misc]
    for name, pid in children.items():
        victim.wait_until(lambda pid=pid: victim.sleeping(pid), f"{name} in its call")  # type: ignore[misc]
    yield lambda: os.kill(next(iter(children.values())), signal.SIGUSR1)
    for name, pid in children.items():
        victim.join(pid, f"the child in {name}")


victim.play(scenario)
