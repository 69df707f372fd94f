# SPDX-License-Identifier: GPL-2.0-only
"""Owners of files, read and set on our own descriptors, and images of them that lie."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from typing import Any

import pytest

from pycriu.errors import ImageError
from pycriu.fds import owner
from pycriu.fds.openfile import OpenFile
from pycriu.images import messages as m


@pytest.fixture
def ends() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def look(fd: int) -> Any:
    return owner.look(OpenFile(os.getpid(), fd), fd)


def entry(**fields: int) -> Any:
    return m.fown_entry(**{"uid": 0, "euid": 0, "signum": 0, "pid_type": 0, "pid": 0} | fields)


def test_nobody(ends: tuple[int, int]) -> None:
    assert look(ends[0]) is None


def test_there_and_back(ends: tuple[int, int]) -> None:
    fcntl.fcntl(ends[0], fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(ends[0], owner.F_SETSIG, 40)
    found = look(ends[0])
    assert (found.pid, found.pid_type, found.signum) == (os.getpid(), owner.OWNER_PID, 40)
    owner.restore(ends[1], found, 1)
    assert look(ends[1]) == found


def test_ids_of_who_set_it(ends: tuple[int, int]) -> None:
    if os.geteuid():
        pytest.skip("only root can set an owner in the name of another user")
    owner.restore(ends[0], entry(uid=12, euid=34, pid_type=owner.OWNER_PID, pid=os.getpid()), 1)
    found = look(ends[0])
    assert (found.uid, found.euid) == (12, 34)
    assert os.getresuid() == (0, 0, 0)


@pytest.mark.parametrize(
    "wrong",
    [entry(pid=4194305, pid_type=1), entry(pid=(1 << 32) - 1, pid_type=1), entry(pid=1, pid_type=9), entry(signum=65),
     entry(signum=(1 << 32) - 1)],
)  # fmt: skip
def test_owners_that_cannot_be(ends: tuple[int, int], wrong: Any) -> None:
    with pytest.raises(ImageError, match=r"owner .* of file 7"):
        owner.restore(ends[0], wrong, 7)


def test_rows() -> None:
    assert owner.rows(os.O_NONBLOCK, 5) == []
    rows = owner.rows(os.O_ASYNC | os.O_NONBLOCK, 5)
    assert [row.args for row in rows] == [
        (5, fcntl.F_SETFL, os.O_NONBLOCK),
        (5, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK),
    ]
