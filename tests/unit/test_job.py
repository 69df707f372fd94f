# SPDX-License-Identifier: GPL-2.0-only
"""What is known of a job beside its checkpoint, whatever comes between two steps."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pycriu.command.jobfolder import JobFolder
from pycriu.errors import UserError
from pycriu.images import commit

OLD, NEW = {"pipe[1]": 1}, {"pipe[2]": 2}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[JobFolder]:
    """A job that has a checkpoint."""
    found = JobFolder(str(tmp_path))
    found.take()
    found.begin_saving(OLD)
    written(found)
    found.end_saving()
    assert found.streams() == [(1, "pipe[1]")]
    yield found
    os.close(found._lock)


def written(folder: JobFolder) -> None:
    """Another checkpoint takes the place of the one that is there."""
    inventory = os.path.join(folder.images, commit.INVENTORY)
    Path(f"{inventory}.new").touch()
    os.rename(f"{inventory}.new", inventory)


def test_names_of_streams_are_those_of_the_checkpoint_that_is_there(folder: JobFolder) -> None:
    folder.begin_saving(NEW)
    folder.end_saving()  # it has come to nothing
    assert folder.streams() == [(1, "pipe[1]")]
    folder.begin_saving(NEW)
    written(folder)
    folder.end_saving()
    assert folder.streams() == [(2, "pipe[2]")]


def test_a_clock_that_was_put_back(folder: JobFolder) -> None:
    """The machine has none of its own, and was started anew: what is later is older."""
    os.utime(os.path.join(folder.images, commit.INVENTORY), (2**32, 2**32))
    folder.begin_saving(NEW)
    assert folder.has_checkpoint()
    assert folder.streams() == [(1, "pipe[1]")]
    folder.begin_saving(NEW)
    written(folder)
    os.utime(os.path.join(folder.images, commit.INVENTORY), (1, 1))
    assert folder.has_checkpoint()
    assert folder.streams() == [(2, "pipe[2]")]


@pytest.mark.parametrize("said", ["", "- 1", "2 pipe[2]\n"])
def test_names_that_were_not_yet_written(folder: JobFolder, tmp_path: Path, said: str) -> None:
    (tmp_path / "job-stdio.next").write_text(said)
    assert folder.has_checkpoint()
    assert folder.streams() == [(1, "pipe[1]")]
    assert not (tmp_path / "job-stdio.next").exists()


def test_a_checkpoint_that_somebody_removes(folder: JobFolder) -> None:
    os.unlink(os.path.join(folder.images, commit.INVENTORY))
    os.rmdir(folder.images)
    folder.begin_saving(NEW)
    assert os.path.isdir(folder.images)
    os.rmdir(folder.images)
    folder.clear()


def test_whoever_is_killed_while_a_checkpoint_goes(folder: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody begins from the rest of it."""
    monkeypatch.setattr("shutil.rmtree", lambda _path: None)
    folder.clear()
    assert not folder.has_checkpoint()


def test_room_for_the_program_is_there_before_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    folder = JobFolder(str(tmp_path))
    with monkeypatch.context() as patch, pytest.raises(UserError) as caught:
        patch.setattr(os, "pwrite", full)
        folder.take()
    assert caught.value.hint is not None
    assert "make room there" in caught.value.hint
    folder = JobFolder(str(tmp_path))
    folder.take()
    before = (tmp_path / "job.lock").stat().st_size
    folder.runs(os.getpid())
    assert (tmp_path / "job.lock").stat().st_size == before
    assert (tmp_path / "job.lock").read_text().split()[0] == str(os.getpid())
    os.close(folder._lock)
