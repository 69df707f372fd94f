# SPDX-License-Identifier: GPL-2.0-only
"""Families that have lost members: daemons and pipelines whose leaders have ended, orphans below a subreaper.

Missing: orphans whose session has no leader and no member below their parent any more (refused).
"""

import ctypes
import os
import time
from collections.abc import Callable, Iterator

import victim

PR_SET_CHILD_SUBREAPER = 36
libc = ctypes.CDLL(None)
Work = Callable[[], object]


def fork(work: Work) -> int:
    """A child that this process will not wait for by itself."""
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def kinship(pid: int) -> tuple[int, int, int]:
    """Parent, group, session."""
    with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
        parent, group, session = stat.read().rpartition(") ")[2].split()[1:4]
    return int(parent), int(group), int(session)


def everybody() -> dict[int, tuple[int, int, int]]:
    """All descendants."""
    found = {}
    todo = [os.getpid()]
    while todo:
        pid = todo.pop()
        try:
            with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as children:
                todo += [int(child) for child in children.read().split()]
            found[pid] = kinship(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile, as some do at the beginning
    del found[os.getpid()]
    return found


hold, release = os.pipe()


def wait() -> None:
    os.close(release)
    os.read(hold, 1)


def lead_group() -> None:
    os.setpgid(0, 0)
    wait()


def daemon() -> None:
    """Twice forked, its session leader gone; with a child, and with one in a group of its own."""
    os.setsid()
    fork(lambda: (fork(lead_group), fork(wait), wait()))


def shell() -> None:
    """A session leader with an orphan of a background job, and with a pipeline whose first command has ended."""
    os.setsid()
    fork(lambda: fork(wait))
    first = fork(lambda: (os.setpgid(0, 0), time.sleep(0.3)))
    os.setpgid(first, first)
    for _ in range(2):
        os.setpgid(fork(wait), first)
    os.waitpid(first, 0)
    wait()


def deep() -> None:
    """A session leader further below, whose orphan, with a child, has fallen to the victim."""
    fork(lambda: (os.setsid(), fork(lambda: fork(lambda: (fork(wait), wait()))), wait()))
    wait()


def left() -> None:
    """Children of the session that their parent has left since."""
    fork(wait)
    fork(lambda: (fork(wait), os.setsid(), wait()))
    wait()


def scenario() -> Iterator[victim.Damage]:
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    starter = fork(daemon)
    for work in (shell, deep, left):
        fork(work)
    os.waitpid(starter, 0)
    victim.wait_until(lambda: settled(everybody()), f"a family of {SIZE}")
    before = everybody()
    os.close(hold)
    yield lambda: os.setpgid(next(iter(before)), 0)
    victim.equal(everybody(), before, "parents, groups and sessions")
    os.close(release)
    while True:
        try:
            victim.equal(os.wait()[1], 0, "a status")
        except ChildProcessError:
            break


def settled(family: dict[int, tuple[int, int, int]]) -> bool:
    """Whether all are there: those that nobody has waited for as zombies, the others asleep."""
    if len(family) != SIZE:
        return False
    time.sleep(0.2)  # one that has just been born may be asleep for a moment before it goes where it belongs
    if everybody() != family:
        return False
    states = []
    for pid in family:
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
                states.append(stat.read().rpartition(") ")[2][0])
        except (FileNotFoundError, ProcessLookupError):
            return False
    return states.count("Z") == ZOMBIES and states.count("S") == SIZE - ZOMBIES


SIZE, ZOMBIES = 17, 2
victim.play(scenario)
