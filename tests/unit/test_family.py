# SPDX-License-Identifier: GPL-2.0-only
"""Plans for trees: carried out by a model of the kernel, whatever the tree, they give what was asked for."""

from __future__ import annotations

import random

import pytest

from pycriu.errors import Unsupported
from pycriu.restoring.family import CHILD, END, ROOT, SETPGID, SETSID, SIBLING, THROUGH, Kin, Plan

US = 0


class Kernel:
    """Parents, sessions and groups as Linux has them. We are process 0, in session and group `outside`."""

    def __init__(self, outside: int) -> None:
        self.parent = {US: -1}
        self.session = {US: outside}
        self.group = {US: outside}

    def birth(self, maker: int, pid: int, parent: int) -> None:
        assert pid not in self.parent, f"{pid} is made twice"
        self.parent[pid], self.session[pid], self.group[pid] = parent, self.session[maker], self.group[maker]

    def run(self, plan: Plan) -> None:
        for step in plan.steps:
            if step.what == ROOT:
                self.birth(US, step.whom, US)
            elif step.what == CHILD:
                self.birth(step.who, step.whom, step.who)
            elif step.what == SIBLING:
                self.birth(step.who, step.whom, self.parent[step.who])
            elif step.what == THROUGH:
                assert self.is_below(step.who, step.value)
                self.birth(step.who, step.whom, step.value)
            elif step.what == SETSID:
                assert step.who not in self.group.values(), "a group leader cannot lead a session"
                self.session[step.who] = self.group[step.who] = step.who
            elif step.what == SETPGID:
                self.enter(step.who, step.value)
            elif step.what == END:
                assert self.parent[step.who] == step.value
                assert step.who not in self.parent.values(), "a helper with children ends"
                for table in (self.parent, self.session, self.group):
                    del table[step.who]

    def enter(self, pid: int, group: int) -> None:
        assert self.session[pid] != pid, "a session leader cannot enter a group"
        if pid != group:
            mates = [one for one, its in self.group.items() if its == group]
            assert mates, f"group {group} does not exist"
            assert all(self.session[one] == self.session[pid] for one in mates), "a group of another session"
        self.group[pid] = group

    def is_below(self, pid: int, ancestor: int) -> bool:
        while pid != ancestor and pid > 0:
            pid = self.parent[pid]
        return pid == ancestor


def made(family: list[Kin], outside: int = 0) -> Plan:
    """The plan, after it has been carried out and found right."""
    plan = Plan(family, outside)
    kernel = Kernel(outside)
    kernel.run(plan)
    result = [Kin(one.pid, kernel.parent[one.pid], kernel.group[one.pid], kernel.session[one.pid]) for one in family]
    assert result == [Kin(one.pid, one.parent, one.group, one.session) for one in family]
    assert set(kernel.parent) == {US} | {one.pid for one in family}
    return plan


def test_alone() -> None:
    plan = made([Kin(10, 0, 10, 10)])
    assert [(step.what, step.who or step.whom) for step in plan.steps] == [(ROOT, 10), (SETSID, 10)]


def test_job_of_a_shell() -> None:
    made([Kin(10, 0, 5, 5), Kin(11, 10, 5, 5), Kin(12, 10, 12, 5), Kin(13, 12, 12, 5)], outside=5)


def test_shell_with_jobs() -> None:
    made([Kin(10, 0, 10, 10), Kin(11, 10, 11, 10), Kin(12, 10, 11, 10), Kin(13, 11, 13, 13), Kin(14, 13, 10, 10)])


def test_daemon_whose_session_leader_has_ended() -> None:
    plan = made([Kin(10, 0, 9, 9), Kin(11, 10, 9, 9), Kin(12, 10, 12, 12)])
    assert plan.helpers == {9: 0}


def test_group_left_by_its_leader() -> None:
    plan = made([Kin(10, 0, 10, 10), Kin(11, 10, 8, 10), Kin(12, 10, 8, 10)])
    assert list(plan.helpers) == [8]
    plan = made([Kin(10, 0, 5, 5), Kin(11, 10, 8, 5)], outside=5)
    assert list(plan.helpers) == [8]


def test_session_left_by_its_leader_below_a_subreaper() -> None:
    plan = made([Kin(10, 0, 10, 10), Kin(11, 10, 8, 8), Kin(12, 11, 8, 8), Kin(13, 10, 7, 8)])
    assert sorted(plan.helpers) == [7, 8]


def test_orphan_of_a_session_whose_leader_is_its_sibling() -> None:
    plan = made([Kin(10, 0, 10, 10), Kin(11, 10, 11, 11), Kin(12, 10, 11, 11)])
    assert SIBLING in [step.what for step in plan.steps]


def test_orphan_of_a_session_further_below() -> None:
    family = [Kin(10, 0, 10, 10), Kin(11, 10, 10, 10), Kin(12, 11, 12, 12), Kin(13, 10, 12, 12), Kin(14, 13, 14, 14)]
    plan = made(family)
    assert THROUGH in [step.what for step in plan.steps]


def test_sibling_that_makes_another() -> None:
    plan = made([Kin(10, 0, 10, 10), Kin(11, 10, 10, 10, maker=12), Kin(12, 10, 10, 10)])
    births = [(step.what, step.who, step.whom) for step in plan.steps if step.whom in (11, 12)]
    assert births == [(CHILD, 10, 12), (SIBLING, 12, 11)]


def test_what_cannot_be() -> None:
    with pytest.raises(Unsupported, match=r"12 was born into session 13"):
        Plan([Kin(10, 0, 10, 10), Kin(11, 10, 10, 10), Kin(12, 11, 13, 13), Kin(13, 10, 13, 13)])
    with pytest.raises(Unsupported, match=r"root.*session 11"):
        Plan([Kin(10, 0, 10, 11), Kin(11, 10, 11, 11)])


def test_trees_beside_each_other() -> None:
    made([Kin(10, 0, 10, 5), Kin(11, 0, 10, 5), Kin(12, 11, 10, 5)], outside=5)  # a pipeline without its shell
    made([Kin(10, 0, 10, 10), Kin(11, 0, 10, 10), Kin(12, 0, 12, 12)])  # a session whose members have other parents
    plan = made([Kin(11, 0, 9, 9), Kin(12, 0, 9, 9), Kin(13, 12, 8, 9)])  # one that its leader has left
    assert plan.helpers == {9: 0, 8: 13}
    made([Kin(10, 0, 12, 12), Kin(11, 0, 11, 11), Kin(12, 11, 12, 12)])  # led by a process of the other tree


def test_a_group_that_stays_ours() -> None:
    family = [Kin(10, 0, 7, 5), Kin(11, 10, 5, 5)]
    assert Plan(family, 5).helpers == {5: 11}  # the group of the root is that in which we are
    assert Plan(family, 5, group=5).helpers == {7: 10}


def history(seed: int) -> list[Kin]:
    """A tree that has come about by forks, setsid, setpgid, ends and subreapers, as Linux does these."""
    chance = random.Random(seed)
    kernel, reapers = Kernel(1), {10}
    kernel.birth(US, 10, US)
    if chance.random() < 0.7:
        kernel.session[10] = kernel.group[10] = 10
    for pid in range(11, 11 + chance.randrange(3, 40)):
        alive = [one for one in kernel.parent if one != US]
        one = chance.choice(alive)
        act = chance.random()
        if act < 0.55:
            kernel.birth(one, pid, one)
        elif act < 0.68:
            if one not in kernel.group.values():
                kernel.session[one] = kernel.group[one] = one
        elif act < 0.8:
            choices = [one] + [g for m, g in kernel.group.items() if kernel.session[m] == kernel.session[one]]
            if kernel.session[one] != one:
                kernel.group[one] = chance.choice(choices)
        elif act < 0.86:
            reapers.add(one)
        elif one != 10:
            end(kernel, one, reapers)
    return ordered(kernel)


def end(kernel: Kernel, pid: int, reapers: set[int]) -> None:
    heir = kernel.parent[pid]
    while heir not in reapers:
        heir = kernel.parent[heir]
    for table in (kernel.session, kernel.group):
        del table[pid]
    del kernel.parent[pid]
    for child, parent in kernel.parent.items():
        if parent == pid:
            kernel.parent[child] = heir


def ordered(kernel: Kernel) -> list[Kin]:
    """Parents before children."""
    found, todo = [], [10]
    while todo:
        pid = todo.pop(0)
        found.append(Kin(pid, max(kernel.parent[pid], 0), kernel.group[pid], kernel.session[pid]))
        todo += [child for child, parent in kernel.parent.items() if parent == pid]
    return found


def test_whatever_has_happened() -> None:
    refused = 0
    for seed in range(3000):
        family = history(seed)
        root = family[0]
        if any((one.session == 1 != root.session) or (one.group == 1 != root.group) for one in family):
            continue  # a session or a group outside that is not the root's: survey refuses that
        if root.session == 1 != root.group and root.group not in [one.pid for one in family]:
            continue  # the job's group becomes that of the restore
        try:
            made(family, 1 if root.session == 1 else 0)
        except Unsupported:
            refused += 1
    assert refused < 60, f"{refused} of 3000 trees are refused"


def without(family: list[Kin], pid: int) -> list[Kin]:
    """The others; the children have their parent outside."""
    left = [one for one in family if one.pid != pid]
    return [Kin(one.pid, 0 if one.parent == pid else one.parent, one.group, one.session) for one in left]


def test_whatever_has_been_left_out() -> None:
    refused = tried = 0
    for seed in range(3000):
        family = without(history(seed), 10)
        if seed % 2 and len(family) > 3:
            family = without(family, family[len(family) // 2].pid)
        if not family:
            continue
        root = family[0]
        if any((one.session == 1 != root.session) or (one.group == 1 != root.group) for one in family):
            continue
        if root.session == 1 != root.group and root.group not in [one.pid for one in family]:
            continue
        tried += 1
        try:
            made(family, 1 if root.session == 1 else 0)
        except Unsupported:
            refused += 1
    assert tried > 1000
    assert refused < tried // 20, f"{refused} of {tried} are refused"
