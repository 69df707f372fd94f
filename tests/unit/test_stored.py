# SPDX-License-Identifier: GPL-2.0-only
"""Sets of images that somebody else removes while they are looked at, or removed by us."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pycriu.images import children, commit
from pycriu.log import WARN, Log
from pycriu.stored import collect, sets


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """A set, and one that builds upon it and is noted there."""
    made = tmp_path / "first", tmp_path / "second"
    for path in made:
        path.mkdir()
        for name in (commit.INVENTORY, "pages-1.img"):
            (path / name).write_bytes(bytes(5000))
    (made[1] / commit.PARENT).symlink_to("../first")
    with Log(WARN) as log:
        children.note(str(made[0]), str(made[1]), log)
    return made


def test_what_builds_upon_it(two: tuple[Path, Path]) -> None:
    first, second = map(str, two)
    assert list(children.noted(first)) == [(second, second)]
    assert sets.parents(second) == (first,)
    assert sets.size(first) >= 2 * 5000


def test_a_set_that_is_gone(two: tuple[Path, Path]) -> None:
    first = two[0]
    fd = os.open(first, os.O_RDONLY | os.O_DIRECTORY)
    shutil.rmtree(first)
    assert list(children.noted(str(first))) == []
    assert sets.size(str(first)) == 0
    assert sets.parents(str(first)) == ()
    assert collect.remove(str(first), fd) == ""
    os.close(fd)


def test_a_note_that_goes_between_two_looks(two: tuple[Path, Path]) -> None:
    first, second = two
    (first / f"{children.PREFIX}1-2").symlink_to("nowhere")
    notes = children.noted(str(first))
    assert len([next(notes)]) == 1
    shutil.rmtree(first)
    assert list(notes) == []
    assert second.exists()


def test_files_that_go_while_they_are_removed(two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The names have been read, and another gc has been there before us."""
    first = two[0]
    fd = os.open(first, os.O_RDONLY | os.O_DIRECTORY)
    listed = os.listdir

    def list_and_remove(place: int | str) -> list[str]:
        names = listed(place)
        monkeypatch.undo()
        for name in names:
            os.unlink(first / name)
        return names

    monkeypatch.setattr(os, "listdir", list_and_remove)
    assert collect.remove(str(first), fd) == ""
    assert not first.exists()
    os.close(fd)


def test_a_set_on_a_device_that_has_another_number(two: tuple[Path, Path]) -> None:
    """As after a boot: it builds upon the first one as before."""
    first, second = two
    (note,) = [path for path in first.iterdir() if children.is_note(path.name)]
    device, inode = note.name[len(children.PREFIX) :].split("-")
    other = note.rename(first / f"{children.PREFIX}{int(device, 16) + 1:x}-{inode}")
    assert [child for _, child in children.noted(str(first))] == [str(second)]
    renamed = second.rename(second.parent / "renamed")
    assert [child for _, child in children.noted(str(first))] == [str(renamed)]
    renamed.rename(second)
    other.rename(first / f"{children.PREFIX}1-1")  # there are file systems that number their files anew
    assert [child for _, child in children.noted(str(first))] == [str(second)]
    shutil.rmtree(second)
    assert [child for _, child in children.noted(str(first))] == [None]


@pytest.mark.parametrize("target", ["/" + "x" * 300, "loop/x/y", "loop", "/dev/null/x"])
def test_a_note_that_means_ill_is_of_nobody(two: tuple[Path, Path], target: str) -> None:
    """Nor does it keep anybody from removing anything."""
    first = two[0]
    (first.parent / "loop").symlink_to("loop")
    (first / f"{children.PREFIX}0-0").symlink_to(target if target.startswith("/") else first.parent / target)
    assert (None in [child for _, child in children.noted(str(first))]) is True
    needed, lost = collect._needed([str(first)], {str(first): -1})
    assert needed == {} or set(needed) == {str(first)}
    assert set(lost) == {str(first)}


def test_a_set_that_goes_while_it_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two steps, whichever they are: it is not there, and neither in use nor broken."""
    for name in ("open_source", "_content", "made"):
        path = tmp_path / name
        path.mkdir()
        (path / commit.INVENTORY).write_bytes(bytes(100))
        real = getattr(sets, name)

        def first_remove(argument: object, path: Path = path, real: Callable[[Any], Any] = real) -> object:
            shutil.rmtree(path)
            return real(argument)

        with monkeypatch.context() as patched:
            patched.setattr(sets, name, first_remove)
            assert [one.state for one in sets.known(str(tmp_path), lambda _: None)] == []
        shutil.rmtree(path, ignore_errors=True)


def test_a_set_that_a_dump_was_killed_in_is_told_of_as_it_will_be(tmp_path: Path) -> None:
    """Looking at it finishes the commit: its time is that of the checkpoint, so that gc finds it unchanged."""
    moving = tmp_path / commit.MOVING
    moving.mkdir()
    (moving / commit.INVENTORY).write_bytes(bytes(100))
    os.utime(moving / commit.INVENTORY, (1e9, 1e9))
    assert sets.look(str(tmp_path)).made == 1e9
