# SPDX-License-Identifier: GPL-2.0-only
"""Descriptor tables of hostile images, and paths that lead elsewhere."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import pytest

from pycriu.errors import ImageError, KernelError, Unsupported, UserError
from pycriu.fds import ghost, regular, table
from pycriu.fds.openfile import no_owner
from pycriu.images import messages as m
from pycriu.log import Log
from pycriu.options import DumpOptions, RestoreOptions
from pycriu.resources import files


def kinds() -> table.Kinds:
    return table.Kinds(RestoreOptions("/", "/"), Log(2, 2, 0.0))


def reg(number: int, name: str = "/dev/null", kind: int = 1, **more: Any) -> Any:
    inner = m.reg_file_entry(id=number, flags=0, pos=0, fown=no_owner(), name=name, **more)
    return m.file_entry(type=kind, id=number, reg=inner)


def reopen(entry: Any, **options: Any) -> int:
    found = table.Kinds(RestoreOptions("/", "/", **options), Log(2, 2, 0.0))
    return found.regular.open(entry, None)  # type: ignore[arg-type]


def descriptor(number: int, file: int, kind: int = 1, flags: int = 0) -> Any:
    return m.fdinfo_entry(id=file, flags=flags, type=kind, fd=number)


def test_ids_that_fit() -> None:
    files.check_ids([[descriptor(0, 1), descriptor(1, 1)], [descriptor(0, 2)]], [2], [reg(1), reg(2)])


@pytest.mark.parametrize(
    ("descriptors", "places", "entries", "words"),
    [
        ([descriptor(0, 1)], [], [], "does not have"),
        ([descriptor(0, 1, kind=2)], [], [reg(1)], "does not have"),
        ([], [3], [reg(1)], "file 3"),
        ([], [], [reg(1), reg(1)], "same id"),
    ],
)
def test_ids_that_do_not(descriptors: list[Any], places: list[int], entries: list[Any], words: str) -> None:
    with pytest.raises(ImageError, match=words):
        files.check_ids([descriptors], places, entries)


def test_base_number() -> None:
    assert files.base_number([]) == 1
    assert files.base_number([[descriptor(5, 1)], [descriptor(2, 1)]]) == 6
    with pytest.raises(ImageError, match="out of bounds"):
        files.base_number([[descriptor(1 << 20, 1)]])
    with pytest.raises(ImageError, match="out of bounds"):
        files.base_number([[descriptor((1 << 32) - 1, 1)]])


def test_descriptor_rows_give_numbers_and_close_the_rest() -> None:
    rows = files.descriptor_rows([descriptor(1, 7), descriptor(3, 7, flags=1)], {7: 50}, [0, 1, 50])
    assert [(row.name, *row.args) for row in rows] == [
        ("dup3", 50, 1, 0), ("dup3", 50, 3, os.O_CLOEXEC),
        ("close_range", 0, 0, 0), ("close_range", 2, 2, 0), ("close_range", 4, 50, 0),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["relative", "", "/a\0b", "../etc/passwd"])
def test_paths_that_are_none(name: str) -> None:
    with pytest.raises(ImageError, match="not absolute"):
        reopen(reg(1, name))


def test_file_that_changed(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("12345")
    os.close(reopen(reg(1, str(path), size=5)))
    with pytest.raises(UserError, match="5 bytes, at the dump it was 4"):
        reopen(reg(1, str(path), size=4))
    with pytest.raises(UserError, match="same type"):
        reopen(reg(1, str(tmp_path), mode=0o100644))
    with pytest.raises(UserError, match="No such file"):
        reopen(reg(1, str(tmp_path / "gone")))


def test_flags_of_an_image_never_create_or_truncate(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("12345")
    entry = reg(1, str(path))
    entry.reg.flags = os.O_RDWR | os.O_TRUNC | os.O_CREAT | os.O_EXCL
    os.close(reopen(entry))
    assert path.read_text() == "12345"
    entry.reg.name = str(tmp_path / "new")
    with pytest.raises(UserError):
        reopen(entry)
    assert not (tmp_path / "new").exists()


def test_mode_that_changed(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("")
    path.chmod(0o640)
    os.close(reopen(reg(1, str(path), mode=0o100640)))
    with pytest.raises(UserError, match="mode 0640, at the dump it had 0600"):
        reopen(reg(1, str(path), mode=0o100600))
    os.close(reopen(reg(1, str(path), mode=0o100600), skip_file_rwx_check=True))


def test_what_takes_the_place_of_a_file_is_not_opened(tmp_path: Path) -> None:
    """Opening a FIFO waits, opening a device acts: they are looked at first."""
    path = tmp_path / "f"
    os.mkfifo(path)
    with pytest.raises(UserError, match="same type"):
        reopen(reg(1, str(path), mode=0o100644))
    with pytest.raises(UserError, match="neither"):
        reopen(reg(1, str(path)))


def test_positions_up_to_the_last(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("")
    entry = reg(1, str(path))
    for position in (0, 5, 1 << 40):
        entry.reg.pos = position
        fd = reopen(entry)
        assert os.lseek(fd, 0, os.SEEK_CUR) == position
        os.close(fd)
    entry.reg.pos = (1 << 64) - 1
    with pytest.raises(KernelError, match="lseek"):
        reopen(entry)


def test_path_that_leads_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    status, options = os.stat(tmp_path / "a"), DumpOptions(1, "/", "/")
    ghost.inspect(str(tmp_path / "a"), status, "it", options)
    for wrong in ("b", "gone"):
        with pytest.raises(Unsupported, match="hidden"):
            ghost.inspect(str(tmp_path / wrong), status, "it", options)
    with pytest.raises(Unsupported, match="1 other name"):
        ghost.inspect(str(tmp_path / "a (deleted)"), status, "it", options)
    with pytest.raises(Unsupported, match="UTF-8"):
        ghost.inspect(os.fsdecode(b"/\xff"), status, "it", options)


@pytest.mark.parametrize(
    ("path", "pid"),
    [("/proc/12/stat", 12), ("/proc/12", 12), ("/proc", 0), ("/proc/sys", 0), ("/a/12", 0), ("/x/proc/12", 0), ("", 0)],
)
def test_process_of_a_path(path: str, pid: int) -> None:
    assert regular.process_of(path) == pid


@pytest.mark.parametrize(("module", "name", "number"), [row[:3] for row in table.KINDS])
def test_table_of_kinds_says_what_the_modules_say(module: str, name: str, number: int) -> None:
    kind = getattr(importlib.import_module(f"pycriu.fds.{module}"), name)
    assert (kind.TYPE, kind.__module__) == (number, f"pycriu.fds.{module}")
    assert len({row[2] for row in table.KINDS}) == len(table.KINDS)


def test_kind_that_nobody_knows() -> None:
    entry = reg(1)
    entry.type = 19
    with pytest.raises(ImageError, match="kind 19"):
        kinds().read(None, [entry])  # type: ignore[arg-type]
