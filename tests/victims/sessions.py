# SPDX-License-Identifier: GPL-2.0-only
"""A tree with sessions and process groups: who is whose parent, leader, member; a parent still gets statuses.

Kept: PID, parent, session, process group, zombies with their status
"""

import os
import time
from collections.abc import Iterator

import victim


def scenario() -> Iterator[victim.Damage]:
    hold, release = os.pipe()

    def wait_for_release() -> None:
        os.close(release)
        os.read(hold, 1)

    def lead_group() -> None:
        os.setpgid(0, 0)
        wait_for_release()

    def lead_session() -> None:
        os.setsid()
        member = victim.child(lead_group)
        os.close(release)
        victim.join(member, "the grandchild")

    group = victim.child(lead_group)
    mate = victim.child(wait_for_release)
    session = victim.child(lead_session)
    os.setpgid(mate, wait_leader(group))
    os.close(hold)
    victim.wait_until(lambda: len(offspring(session)) == 1 and os.getsid(session) == session, "the new session")
    grandchild = offspring(session)[0]
    victim.wait_until(lambda: os.getpgid(grandchild) == grandchild, "the grandchild's group")
    family = (os.getpid(), group, mate, session, grandchild)
    before = [kinship(pid) for pid in family]
    yield lambda: os.setpgid(mate, os.getpgid(0))
    after = [kinship(pid) for pid in family]
    # The victim's own parent may be another one by now; everybody else's may not.
    victim.equal(after[0][1:], before[0][1:], "the victim's own group and session")
    victim.equal(after[1:], before[1:], "parent, group and session of its family")
    os.close(release)
    for pid, what in ((group, "the group leader"), (mate, "the group member"), (session, "the session leader")):
        victim.join(pid, what)


def wait_leader(pid: int) -> int:
    while os.getpgid(pid) != pid:
        time.sleep(0.01)
    return pid


def offspring(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as children:
        return [int(word) for word in children.read().split()]


def kinship(pid: int) -> tuple[int, int, int]:
    with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
        parent, group, session = stat.read().rpartition(") ")[2].split()[1:4]
    return int(parent), int(group), int(session)


victim.play(scenario)
