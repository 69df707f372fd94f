# SPDX-License-Identifier: GPL-2.0-only
"""Lock lines of fdinfo as kernels print them, and images of locks that lie."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pycriu.errors import ImageError, Unsupported, UserError
from pycriu.fds import locks
from pycriu.fds.locks import FLOCK, LEASE, OFD, POSIX
from pycriu.images import messages as m
from pycriu.images import store
from pycriu.options import RestoreOptions

# Of Linux 6.12 and 6.18.
SAMPLE = (
    "pos:\t100\nflags:\t02100002\nmnt_id:\t27\nino:\t2165072\n"
    "lock:\t1: POSIX  ADVISORY  WRITE 20932 fe:00:2165072 5 14\n"
    "lock:\t2: POSIX  ADVISORY  READ 20932 fe:00:2165072 50 EOF\n"
    "lock:\t3: FLOCK  ADVISORY  READ 20932 fe:00:2165071 0 EOF\n"
    "lock:\t4: OFDLCK ADVISORY  WRITE -1 fe:00:2165073 3 6\n"
    "lock:\t5: LEASE  ACTIVE    READ 20932 fe:00:2165074 0 EOF\n"
)


def test_lock_lines() -> None:
    found = [(lock.kind, lock.type, lock.pid, lock.start, lock.length, lock.state) for lock in locks.parse(SAMPLE)]
    assert found == [
        (POSIX, 1, 20932, 5, 10, "ADVISORY"), (POSIX, 0, 20932, 50, 0, "ADVISORY"), (FLOCK, 0, 20932, 0, 0, "ADVISORY"),
        (OFD, 1, -1, 3, 4, "ADVISORY"), (LEASE, 0, 20932, 0, 0, "ACTIVE"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        "1: DELEG  ACTIVE READ 1 fe:00:1 0 EOF",
        "1: LEASE  BREAKING  UNLCK 1 fe:00:1 0 EOF",
        "1: FLOCK",
        "",
        "1: POSIX *NOINODE*",
    ],
)
def test_locks_that_are_not_known(line: str) -> None:
    with pytest.raises(Unsupported, match="not known"):
        locks.parse(f"lock:\t{line}\n")


def entry(flag: int = FLOCK, kind: int = 1, pid: int = 5, fd: int = 3, start: int = 0, length: int = 0) -> Any:
    return m.file_lock_entry(flag=flag, type=kind, pid=pid, fd=fd, start=start, len=length)


def read(folder: Path, entries: list[Any]) -> locks.Locks:
    with store.NewCheckpoint(str(folder)) as new:
        new.write("filelocks.img", entries)
        new.write("inventory.img", [m.inventory_entry(img_version=2)])
        new.commit()
    found = locks.Locks(RestoreOptions("/", "/"))
    with store.ImagesDir(str(folder)) as images:
        found.read(images)
    return found


class Data:
    """Stands for the room that calls of a task have for what they point to."""

    def data(self, content: bytes) -> int:
        assert len(content) == 32
        return 4096


def test_rows(tmp_path: Path) -> None:
    found = read(tmp_path, [entry(), entry(POSIX, 0, start=5, length=7), entry(OFD), entry(LEASE, 0), entry(fd=4)])
    rows: Any = found.rows(5, 3, Data())  # type: ignore[arg-type]
    assert [(row.name, *row.args) for row in rows] == [
        ("flock", 3, 6), ("fcntl", 3, 6, 4096), ("fcntl", 3, 37, 4096), ("fcntl", 3, 1024, 0),
    ]  # fmt: skip
    assert found.rows(6, 3, Data()) == []  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [entry(flag=3), entry(flag=0), entry(kind=2), entry(kind=99), entry(start=-1), entry(length=-1),
     entry(start=1 << 62, length=1 << 62)],
)  # fmt: skip
def test_locks_that_cannot_be(tmp_path: Path, wrong: Any) -> None:
    with pytest.raises(ImageError, match=r"filelocks\.img"):
        read(tmp_path, [wrong])


def test_lock_of_a_descriptor_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no descriptor 3"):
        read(tmp_path, [entry()]).check({5: {4: 1}}, {1: 9})


@pytest.mark.parametrize("flag", [FLOCK, POSIX, OFD])
def test_lock_that_somebody_else_has_by_now(tmp_path: Path, flag: int) -> None:
    import fcntl

    found = read(tmp_path, [entry(flag, length=4)])
    with open(tmp_path / "file", "w") as ours, open(tmp_path / "file", "w") as theirs:
        found.check({5: {3: 1}}, {1: ours.fileno()})
        if flag == FLOCK:
            fcntl.flock(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            fcntl.fcntl(theirs, locks.F_OFD_SETLK, locks._struct(entry(start=2)))
        with pytest.raises(UserError, match=f"{tmp_path}/file is locked by somebody else"):
            found.check({5: {3: 1}}, {1: ours.fileno()})
        assert os.path.exists(theirs.name)
