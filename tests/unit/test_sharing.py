# SPDX-License-Identifier: GPL-2.0-only
"""Who makes whom so that processes share what they shared; and kcmp(2) as a way to sort."""

from __future__ import annotations

import os
from typing import Any

import pytest

from pycriu import sharing
from pycriu.errors import ImageError
from pycriu.images import messages as m
from pycriu.restoring import spawn
from tests.unit.test_spawn import cores, entry

OWN = {pid: (pid, pid, pid, pid) for pid in range(1, 10)}


def test_parents_make_those_who_share_nothing() -> None:
    assert sharing.makers([(1, None, OWN[1]), (2, 1, OWN[2]), (3, 2, OWN[3])]) == {1: None, 2: 1, 3: 2}


def test_siblings_make_those_who_share_with_them() -> None:
    family = [(1, None, OWN[1]), (2, 1, OWN[2]), (3, 1, (3, 2, 3, 3)), (4, 1, (4, 1, 4, 4))]
    assert sharing.makers(family) == {1: None, 2: 1, 3: 2, 4: 1}


@pytest.mark.parametrize(
    "shares",
    [
        pytest.param((4, 1, 4, 4), id="with the grandparent"),
        pytest.param((4, 2, 3, 4), id="with parent and uncle"),
    ],
)
def test_nobody_can_make_those_who_share_across_the_tree(shares: sharing.Shares) -> None:
    family = [(1, None, OWN[1]), (3, 1, OWN[3]), (2, 1, OWN[2]), (4, 2, shares)]
    assert sharing.makers(family)[4] is None


def test_flags() -> None:
    assert sharing.clone_flags((1, 1, 1, 1), (1, 1, 1, 1)) == 0xF00
    assert sharing.clone_flags((1, 1, 1, 1), (2, 1, 3, 4)) == 0x400
    assert sharing.clone_flags((1, 1, 1, 1), (2, 2, 2, 2)) == 0


def test_order_of_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects at made-up addresses: few calls, and the first process names each."""
    calls = []
    address = {pid: pid % 7 * 1000 for pid in range(1, 101)}

    def kcmp(one: int, other: int, _kind: int, _fd1: int = 0, _fd2: int = 0) -> int:
        calls.append((one, other))
        a, b = address[one], address[other]
        return 0 if a == b else 1 if a < b else 2

    monkeypatch.setattr(sharing.libc, "kcmp", kcmp)
    found = sharing.shares(list(address))
    assert {pid: mine[0] for pid, mine in found.items()} == {pid: (pid - 1) % 7 + 1 for pid in address}
    assert len(calls) <= 4 * 100 * 3


def test_this_process_and_its_parent() -> None:
    assert sharing.shares([os.getpid()]) == {os.getpid(): (os.getpid(),) * 4}


def root_of(*entries: Any) -> spawn.Member:
    return spawn.tree(list(entries), cores(*(one.pid for one in entries)))


def test_flags_of_members() -> None:
    root = root_of(entry(5), entry(6, 5), entry(7, 5))
    spawn.choose_makers(root, {5: (1, 1, 1, 1), 6: (2, 2, 2, 2), 7: (2, 3, 3, 2)})
    six, seven = root.children
    assert (six.maker, six.clone_flags) == (root, 0)
    assert (seven.maker, seven.clone_flags) == (six, 0x8000 | 0x100 | 0x800)


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ({5: (1, 1, 1, 1), 6: (2, 2, 2, 1)}, "handlers are shared where memory is not"),
        ({5: (1, 1, 1, 1), 6: (2, 2, 2, 2), 7: (1, 2, 3, 3)}, "neither its parent nor a sibling"),
        ({6: (1, 1, 1, 1), 7: (2, 2, 2, 2)}, "5 has ended, and has children"),
    ],
)
def test_images_that_cannot_be(shares: dict[int, sharing.Shares], words: str) -> None:
    with pytest.raises(ImageError, match=words):
        spawn.choose_makers(root_of(entry(5), entry(6, 5), entry(7, 6)), shares)


def test_sibling_of_another_session() -> None:
    seven = m.pstree_entry(pid=7, ppid=5, pgid=5, sid=5, threads=[7])
    with pytest.raises(ImageError, match="cannot be a sibling"):
        spawn.choose_makers(root_of(entry(5), entry(6, 5), seven), {5: OWN[5], 6: OWN[6], 7: (7, 6, 7, 7)})
