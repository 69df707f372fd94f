# SPDX-License-Identifier: GPL-2.0-only
"""Owners of files that announce themselves by signals: F_SETOWN to oneself, to a child, to a process group, F_SETSIG,
O_ASYNC; the signal still comes, with the right si_fd, after a restore.

Missing: dnotify (F_NOTIFY), which the kernel does not show.
"""

import fcntl
import os
import signal
import struct
from collections.abc import Iterator

import victim

SETSIG, GETSIG, SETOWN_EX, GETOWN_EX, GETOWNER_UIDS = 10, 11, 15, 16, 17
TID, PID, PGRP = range(3)


def scenario() -> Iterator[victim.Damage]:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO, signal.SIGRTMIN + 3})
    mine, to_me = os.pipe()
    fcntl.fcntl(mine, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(mine, SETSIG, signal.SIGRTMIN + 3)
    fcntl.fcntl(mine, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    plain, to_plain = os.pipe()
    set_owner(plain, TID, os.getpid())
    fcntl.fcntl(plain, fcntl.F_SETFL, os.O_ASYNC)
    child = victim.child(await_signal)
    for_child, to_child = os.pipe()
    set_owner(for_child, PID, child)
    fcntl.fcntl(for_child, fcntl.F_SETFL, os.O_ASYNC)
    group, _ = os.pipe()
    set_owner(group, PGRP, os.getpgrp())
    with open("file", "wb") as made:
        file = os.dup(made.fileno())
    fcntl.fcntl(file, fcntl.F_SETOWN, child)
    victim.wait_until(lambda: victim.sleeping(child), "the child waits")
    everybody = (mine, plain, for_child, group, file)
    before = [owned(fd) for fd in everybody]
    yield lambda: fcntl.fcntl(mine, fcntl.F_SETOWN, 0)
    victim.equal([owned(fd) for fd in everybody], before, "owners, signals, flags and ids")
    victim.equal(signal.sigpending(), set(), "signals that came too early")
    os.write(to_me, b"x")
    came = signal.sigwaitinfo({signal.SIGRTMIN + 3}) if signal.sigpending() else None
    victim.check(came is not None, "no signal for data in the pipe")
    victim.equal(came and (came.si_code, came.si_band & 1), (1, 1), "si_code (POLL_IN) and si_band")
    os.write(to_plain, b"x")
    victim.equal(signal.sigpending(), {signal.SIGIO}, "the signal of the pipe without F_SETSIG")
    os.write(to_child, b"x")
    victim.join(child, "the child that waits for its signal")


def set_owner(fd: int, kind: int, number: int) -> None:
    fcntl.fcntl(fd, SETOWN_EX, struct.pack("ii", kind, number))


def owned(fd: int) -> list[object]:
    owner = struct.unpack("ii", fcntl.fcntl(fd, GETOWN_EX, bytes(8)))
    uids = struct.unpack("II", fcntl.fcntl(fd, GETOWNER_UIDS, bytes(8)))
    return [owner, uids, fcntl.fcntl(fd, GETSIG), fcntl.fcntl(fd, fcntl.F_GETFL)]


def await_signal() -> None:
    came = signal.sigtimedwait({signal.SIGIO}, 600)
    victim.check(came is not None, "no signal came")


victim.play(scenario)
