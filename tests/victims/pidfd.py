# SPDX-License-Identifier: GPL-2.0-only
"""Processes and threads by descriptor: of itself, a child, a zombie, a parent, threads of its own and of a child, and
of processes that have ended, with how they did; waiting, polling and signalling by them.

Missing: pidfds of processes outside the tree (refused).
"""

import fcntl
import os
import select
import signal
import struct
import threading
from collections.abc import Iterator

import victim

THREAD = os.O_EXCL
GET_INFO, INFO_EXIT = 0xC040FF0B, 8


def scenario() -> Iterator[victim.Damage]:
    mine = os.pidfd_open(os.getpid(), os.O_NONBLOCK)
    child = victim.child(lambda: wait_for_parents_signal(os.getppid()))
    sleeper = victim.child(signal.pause)
    childs, sleepers = os.pidfd_open(child), os.pidfd_open(sleeper)
    thread = thread_of(os.getpid())
    worker = Worker()
    there, back = os.pipe()
    other = victim.child(lambda: has_a_thread(back))
    others = thread_of(int(os.read(there, 20)))
    zombie = os.fork()
    if not zombie:
        os._exit(5)
    zombies = os.pidfd_open(zombie)
    victim.check(ready(zombies, 10), "the zombie has not ended")
    dead = [ended(lambda: os._exit(3)), ended(lambda: os.kill(os.getpid(), signal.SIGKILL))]
    told = [info(fds[0]) for fds in dead]
    set_ = select.epoll()
    set_.register(sleepers, select.EPOLLIN)
    victim.wait_until(lambda: victim.sleeping(child), "the child waits")
    yield lambda: os.set_blocking(mine, True)
    victim.equal(pid_of(mine), os.getpid(), "the process behind its own descriptor")
    victim.check(not os.get_blocking(mine), "O_NONBLOCK was lost")
    judge_threads(thread, worker, others, other)
    for fds, before in zip(dead, told, strict=True):
        victim.equal([pid_of(fd) for fd in fds], [-1, -1], "processes that have ended")
        victim.equal([ready(fd, 0) for fd in fds], [True, True], "what poll says of those that have ended")
        victim.equal([info(fd) for fd in fds], [before, before], "how they ended")
    victim.equal(os.waitid(os.P_PIDFD, zombies, os.WEXITED).si_status, 5, "the status of the zombie")
    victim.equal(set_.poll(0), [], "events of a process that has not ended")
    signal.pidfd_send_signal(childs, signal.SIGUSR1)
    found = os.waitid(os.P_PIDFD, childs, os.WEXITED)
    victim.equal((found.si_pid, found.si_status), (child, 0), "the child that waited for its parent's signal")
    victim.forget(child)
    os.kill(sleeper, signal.SIGKILL)
    victim.equal(set_.poll(10), [(sleepers, select.EPOLLIN)], "events of a process that has ended")
    os.waitpid(sleeper, 0)
    victim.forget(sleeper)


class Worker(threading.Thread):
    """A thread with a pidfd, that ends when it, and no other, is sent a signal."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        self.start()
        self.fd = thread_of(self.native_id or 0)

    def run(self) -> None:
        signal.sigwait({signal.SIGUSR2})

    def judge(self) -> None:
        victim.equal((pid_of(self.fd), flags(self.fd) & THREAD), (self.native_id, THREAD), "the other thread")
        victim.check(not ready(self.fd, 0), "the other thread counts as ended")
        signal.pidfd_send_signal(self.fd, signal.SIGUSR2)
        victim.check(ready(self.fd, 10), "the end of the other thread goes unnoticed")


def judge_threads(first: int, worker: Worker, others: int, other: int) -> None:
    """The first thread, another one, and one of the child `other`."""
    if first < 0:
        os.kill(other, signal.SIGUSR2)
    else:
        victim.equal((pid_of(first), flags(first) & THREAD), (os.getpid(), THREAD), "the thread")
        worker.judge()
        signal.pidfd_send_signal(others, signal.SIGUSR2)
    victim.join(other, "the child whose thread was sent a signal")


def has_a_thread(back: int) -> None:
    """A process with a thread that awaits a signal, which it is told the id of."""
    worker = Worker()
    os.write(back, b"%d" % (worker.native_id or 0))
    worker.join()


def wait_for_parents_signal(parent: int) -> None:
    """End well when the signal has come and the parent is who it was."""
    fd = os.pidfd_open(parent)
    signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    signal.sigwait({signal.SIGUSR1})
    victim.equal((pid_of(fd), ready(fd, 0)), (os.getppid(), False), "the parent")


def ended(end: victim.Damage) -> list[int]:
    """Two descriptors of a process that has ended and been waited for."""
    pid = os.fork()
    if not pid:
        end()
    fds = [os.pidfd_open(pid), os.pidfd_open(pid)]
    os.waitpid(pid, 0)
    return fds


def thread_of(pid: int) -> int:
    try:
        return os.pidfd_open(pid, THREAD)
    except OSError:
        return -1  # before Linux 6.9


def pid_of(fd: int) -> int:
    return field(fd, "Pid", 10)


def flags(fd: int) -> int:
    return field(fd, "flags", 8)


def field(fd: int, name: str, base: int) -> int:
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as lines:
        return next(int(line.split()[1], base) for line in lines if line.startswith(name + ":"))


def info(fd: int) -> int | None:
    """The wait status of one that has ended, where the kernel tells (Linux 6.15)."""
    try:
        answer = fcntl.ioctl(fd, GET_INFO, struct.pack("=Q56x", INFO_EXIT))
    except OSError:
        return None
    mask, status = struct.unpack("=Q52xi", answer)
    return status if mask & INFO_EXIT else None


def ready(fd: int, seconds: float) -> bool:
    return bool(select.select([fd], [], [], seconds)[0])


victim.play(scenario)
