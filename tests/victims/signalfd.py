# SPDX-License-Identifier: GPL-2.0-only
"""Signals that are read: the mask, O_NONBLOCK, signals that wait to be read, with their senders and values."""

import ctypes
import os
import signal
import struct
from collections.abc import Iterator

import victim

SFD_NONBLOCK = os.O_NONBLOCK
SIZE = 128  # struct signalfd_siginfo
WANTED = (signal.SIGUSR1, signal.SIGRTMIN + 3, 64)
VALUE = 12345
libc = ctypes.CDLL(None, use_errno=True)
libc.sigqueue.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p]


def scenario() -> Iterator[victim.Damage]:
    signal.pthread_sigmask(signal.SIG_BLOCK, {*WANTED, signal.SIGUSR2})
    fd = libc.signalfd(-1, struct.pack("=Q", sum(1 << number - 1 for number in WANTED)), SFD_NONBLOCK)
    victim.check(fd >= 0, "signalfd")
    before = victim_mask(fd)
    os.kill(os.getpid(), signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGUSR2)
    for value in (VALUE, VALUE + 1):
        libc.sigqueue(os.getpid(), signal.SIGRTMIN + 3, value)
    yield lambda: os.read(fd, SIZE)
    victim.equal(victim_mask(fd), before, "the mask")
    victim.check(not os.get_blocking(fd), "O_NONBLOCK was lost")
    victim.equal(
        [taken(fd), taken(fd), taken(fd)],
        [(signal.SIGUSR1, 0), (signal.SIGRTMIN + 3, VALUE), (signal.SIGRTMIN + 3, VALUE + 1)],
        "the signals that wait to be read",
    )
    victim.equal(taken(fd), None, "one signal more")
    libc.sigqueue(os.getpid(), 64, 7)
    victim.equal(taken(fd), (64, 7), "a signal sent now")
    victim.equal(signal.sigtimedwait({signal.SIGUSR2}, 0) is None, False, "the signal that is not in the mask was lost")


def victim_mask(fd: int) -> list[str]:
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as info:
        return [line for line in info if line.startswith(("sigmask", "flags"))]


def taken(fd: int) -> tuple[int, int] | None:
    """Number and value of the next signal."""
    try:
        data = os.read(fd, SIZE)
    except BlockingIOError:
        return None
    (number, sender), value = struct.unpack_from("=I8xI", data), struct.unpack_from("=i", data, 44)[0]
    victim.equal(sender, os.getpid(), "the sender of a signal")
    return number, value


victim.play(scenario)
