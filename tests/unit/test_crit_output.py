# SPDX-License-Identifier: GPL-2.0-only
"""What crit writes: whole or not at all, for nobody else; a device stays one; a standard output that is of no use."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import pytest

from pycriu.crit import cli
from pycriu.crit.output import replaced
from pycriu.errors import UserError
from tests.unit import checkpoints as c

ROOT = Path(__file__).parents[2]


def write(path: Path, data: bytes, *, chosen: bool = True) -> None:
    with replaced(str(path), chosen=chosen) as file:
        file.write(data)


def test_a_file_is_replaced_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(28, os.strerror(28))

    with pytest.raises(UserError, match="No space left on device"), replaced(str(path)) as file:
        fail(file)
    assert path.read_bytes() == b"old"
    write(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["file"]


def test_what_somebody_with_our_pid_has_left(tmp_path: Path) -> None:
    """In a container everybody has the same PID: who was killed there must not stand in the way for ever."""
    path = tmp_path / "file"
    left = tmp_path / f"file.crit-{os.getpid()}"
    left.write_bytes(b"half of it")
    write(path, b"new")
    assert path.read_bytes() == b"new"
    assert left.read_bytes() == b"half of it", "it may be another container's, which is writing it"
    assert len(os.listdir(tmp_path)) == 2


@pytest.mark.parametrize(
    ("error", "says"),
    [(FileExistsError(17, "File exists"), "file: File exists"), (OSError("not compressed"), "file: not compressed")],
)
def test_whatever_ends_the_writing_no_half_is_left(tmp_path: Path, error: OSError, says: str) -> None:
    with pytest.raises(UserError, match=says), replaced(str(tmp_path / "file")) as file:
        file.write(b"half")
        raise error
    assert os.listdir(tmp_path) == []


def test_a_chosen_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        write(tmp_path / "link", b"words")
        assert os.read(reader, 100) == b"words"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert sorted(os.listdir(tmp_path)) == ["link", "pipe"]


def test_what_lies_in_wait_under_a_name_that_nobody_chose_goes(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"untouched")
    (tmp_path / "core.7").symlink_to("victim")
    write(tmp_path / "core.7", b"core", chosen=False)
    assert (tmp_path / "victim").read_bytes() == b"untouched"
    assert not (tmp_path / "core.7").is_symlink()


def test_a_page_of_figures_for_a_pipe(tmp_path: Path) -> None:
    images = c.write(tmp_path)
    os.mkfifo(tmp_path / "page")
    reader = subprocess.Popen(["cat", str(tmp_path / "page")], stdout=subprocess.PIPE)
    try:
        assert cli.main(["stats", str(images), "--html", str(tmp_path / "page")]) == 0
        assert reader.communicate(timeout=20)[0].startswith(b"<!DOCTYPE html>")
    finally:
        reader.kill()
    assert stat.S_ISFIFO((tmp_path / "page").stat().st_mode)


@pytest.mark.parametrize("words", [("check",), ("x", "tree"), ("stats",), ("show",), ("convert",)])
@pytest.mark.parametrize("redirected", [">/dev/full", ">&-"])
def test_a_standard_output_that_is_of_no_use(tmp_path: Path, words: tuple[str, ...], redirected: str) -> None:
    images = c.write(tmp_path)
    command, *rest = words
    if command == "convert":
        (tmp_path / "file").touch()
        rest += ["-o", str(tmp_path / "file")]
    line = " ".join(["-m", "pycriu.crit", command, str(images), *rest])
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} {line} {redirected}"], capture_output=True, text=True, check=False,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    if command == "convert":
        assert "file: File exists" in done.stderr
    elif redirected == ">/dev/full":
        assert (done.returncode, done.stderr) == (1, "crit: standard output: No space left on device\n")
    else:
        assert done.stderr == ""
