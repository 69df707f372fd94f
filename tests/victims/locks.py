# SPDX-License-Identifier: GPL-2.0-only
"""File locks of all four kinds: flock (shared by a child), POSIX locks of two tasks on ranges of one file, open file
description locks, leases that tell of a breaker; a task that waits for a lock.

Options: --file-locks
"""

import fcntl
import os
import signal
import struct
from collections.abc import Callable, Iterator

import victim

OFD_SETLK, OFD_GETLK, SETSIG = 37, 36, 10


def scenario() -> Iterator[victim.Damage]:
    for name in ("flock", "posix", "ofd", "wait"):
        with open(name, "wb") as file:
            file.write(bytes(100))
    shared, whole = os.open("flock", os.O_RDWR), os.open("wait", os.O_RDWR)
    fcntl.flock(shared, fcntl.LOCK_SH)
    fcntl.flock(whole, fcntl.LOCK_EX)
    posix, ofd = os.open("posix", os.O_RDWR), os.open("ofd", os.O_RDWR)
    fcntl.lockf(posix, fcntl.LOCK_EX, 10, 5)
    fcntl.lockf(posix, fcntl.LOCK_SH, 0, 50)
    fcntl.fcntl(ofd, OFD_SETLK, lock(fcntl.F_WRLCK, 0, 7))
    check_read_lease = leased("read-lease", fcntl.F_RDLCK, os.O_WRONLY)
    check_write_lease = leased("write-lease", fcntl.F_WRLCK, os.O_RDONLY)
    turn, my_turn = os.pipe()
    said, say = os.pipe()
    child = victim.child(lambda: other_range(turn, my_turn, say, whole))
    os.close(turn)
    os.close(say)
    victim.equal(os.read(said, 1), b"1", "the child has its lock")
    waiter = victim.child(lambda: wait_for_lock(whole))
    victim.wait_until(lambda: victim.sleeping(waiter), "the other child waits for the lock")
    yield lambda: (fcntl.flock(shared, fcntl.LOCK_UN), fcntl.flock(whole, fcntl.LOCK_UN))
    check_flocks()
    check_ranges(child)
    check_read_lease()
    check_write_lease()
    victim.check(victim.sleeping(waiter), "the child has the lock that it waits for")
    fcntl.flock(whole, fcntl.LOCK_UN)
    victim.join(waiter, "the child that waited for the lock")
    os.write(my_turn, b"x")
    victim.join(child, "the child with a lock of its own")


def check_flocks() -> None:
    victim.equal(flock_refused("flock", fcntl.LOCK_EX), True, "an exclusive flock beside the shared one is refused")
    victim.equal(flock_refused("flock", fcntl.LOCK_SH), False, "a shared flock beside the shared one is refused")
    victim.equal(flock_refused("wait", fcntl.LOCK_SH), True, "a shared flock beside the exclusive one is refused")


def check_ranges(child: int) -> None:
    held = [asked("posix", at, 1, fcntl.F_WRLCK) for at in (4, 5, 14, 15, 20, 29, 49, 50, 10**9)]
    me = os.getpid()
    victim.equal(held, [0, me, me, 0, child, child, 0, me, me], "who holds which byte")
    victim.equal(asked("posix", 60, 1, fcntl.F_RDLCK), 0, "the lock at the end is shared")
    victim.equal(
        [asked("ofd", at, 1, fcntl.F_RDLCK) for at in (6, 7)], [-1, 0], "the lock of the open file description"
    )


def leased(name: str, kind: int, breaker: int) -> Callable[[], None]:
    """Take a lease; what it gives back judges it, by opening the file with the flags `breaker`."""
    with open(name, "wb"):
        pass
    lease = os.open(name, os.O_RDONLY if kind == fcntl.F_RDLCK else os.O_RDWR)
    broken: list[int] = []
    number = signal.SIGRTMIN + 1 + kind
    signal.signal(number, lambda *_: broken.append(1))
    fcntl.fcntl(lease, SETSIG, number)
    fcntl.fcntl(lease, fcntl.F_SETLEASE, kind)

    def judge() -> None:
        victim.equal(broken, [], f"signals that the lease of {name} is broken")
        victim.equal(fcntl.fcntl(lease, fcntl.F_GETLEASE), kind, f"the lease of {name}")
        victim.join(victim.child(lambda: break_lease(name, breaker)), "the breaker, who has to wait")
        victim.wait_until(lambda: broken == [1], f"the signal that the lease of {name} is broken", 10)
        fcntl.fcntl(lease, fcntl.F_SETLEASE, fcntl.F_UNLCK)

    return judge


def break_lease(name: str, flags: int) -> None:
    try:
        os.open(name, flags | os.O_NONBLOCK)
    except BlockingIOError:
        return
    victim.check(False, f"{name} could be opened")


def lock(kind: int, start: int, length: int) -> bytes:
    """struct flock."""
    return struct.pack("=hh4xqqi4x", kind, os.SEEK_SET, start, length, 0)


def asked(name: str, start: int, length: int, kind: int) -> int:
    """Who stands in the way of a lock that a stranger would take: 0 nobody, -1 an open file."""
    fd = os.open(name, os.O_RDWR)
    answer = struct.unpack("=hh4xqqi4x", fcntl.fcntl(fd, OFD_GETLK, lock(kind, start, length)))
    # Closing any descriptor of a file gives up all POSIX locks that the process has on it: these stay open.
    return 0 if answer[0] == fcntl.F_UNLCK else answer[4]


def flock_refused(name: str, operation: int) -> bool:
    with open(name, "rb") as file:
        try:
            fcntl.flock(file, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def other_range(turn: int, my_turn: int, say: int, whole: int) -> None:
    os.close(my_turn)
    os.close(whole)
    posix = os.open("posix", os.O_RDWR)
    fcntl.lockf(posix, fcntl.LOCK_EX, 10, 20)
    os.write(say, b"1")
    os.read(turn, 1)


def wait_for_lock(whole: int) -> None:
    os.close(whole)
    with open("wait", "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)


victim.play(scenario)
