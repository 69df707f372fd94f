# SPDX-License-Identifier: GPL-2.0-only
"""Stopped processes: they stay stopped, by the signal that did it, and go on with SIGCONT; parents see each stop once.

Missing: that a parent has not yet seen that a process goes on (WCONTINUED).
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

import victim

LOOK = os.WNOHANG | os.WSTOPPED | os.WNOWAIT


def state(pid: int) -> str:
    with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
        return stat.read().rpartition(") ")[2][0]


def unseen(pid: int) -> int:
    """The signal of a stop that has not been waited for, 0 if none."""
    info = os.waitid(os.P_PID, pid, LOOK)
    return 0 if info is None else info.si_status


def spin() -> None:
    while not os.path.exists("end"):
        pass


def sleep() -> None:
    victim.await_file("end")


def with_threads(tell: int) -> None:
    others = [threading.Thread(target=sleep) for _ in range(2)]
    for one in others:
        one.start()
    os.write(tell, b"x")
    sleep()
    for one in others:
        one.join()


def stop(pid: int, number: int, *, seen: bool) -> None:
    """Stop a child, and look at that or not."""
    if number != signal.SIGSTOP:
        # The kernel lets nothing but SIGSTOP stop a group without a parent in its session.
        os.setpgid(pid, pid)
    os.kill(pid, number)
    # Its first thread may have stopped before the others have.
    victim.wait_until(lambda: unseen(pid) != 0, f"stop of {pid}")
    victim.equal(unseen(pid), number, "the stop")
    if seen:
        os.waitpid(pid, os.WUNTRACED)


def scenario() -> Iterator[victim.Damage]:
    ended: list[int] = []

    def count(number: int, frame: FrameType | None) -> None:
        ended.append(number)

    hold, tell = os.pipe()
    # what it does, by which signal it is stopped, whether the parent looks at that
    ways: list[tuple[Callable[[], None], int, bool]] = [
        (spin, signal.SIGSTOP, True),
        (sleep, signal.SIGSTOP, False),
        (sleep, signal.SIGTSTP, True),
        (sleep, signal.SIGTTIN, False),
        (lambda: with_threads(tell), signal.SIGSTOP, True),
    ]
    children = [victim.child(work) for work, _, _ in ways]
    os.read(hold, 1)
    for pid, (_, number, seen) in zip(children, ways, strict=True):
        stop(pid, number, seen=seen)
    before = [unseen(pid) for pid in children]
    signal.signal(signal.SIGCHLD, count)
    yield lambda: os.kill(children[0], signal.SIGCONT)
    time.sleep(0.3)
    victim.equal([state(pid) for pid in children], ["T"] * len(children), "the states of the children")
    victim.equal([unseen(pid) for pid in children], before, "stops that have not been seen")
    victim.equal(ended, [], "SIGCHLD that have come")
    with open("end", "w", encoding="ascii"):
        pass
    for pid in children:
        os.kill(pid, signal.SIGCONT)
    for pid in children:
        victim.join(pid, "a child that goes on")


victim.play(scenario)
