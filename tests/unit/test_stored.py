# SPDX-License-Identifier: GPL-2.0-only
"""Sets of images that somebody else removes while they are looked at, or removed by us."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

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
