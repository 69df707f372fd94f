# SPDX-License-Identifier: GPL-2.0-only
"""What people write about a core: lists of descriptors, and the words of the restart command."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pycriu import restart_command as cli
from pycriu.corefile import descriptors
from pycriu.errors import UserError


def test_lists_of_three_and_of_four_columns() -> None:
    text = "# remark\n0 : /dev/tty : 0\n\n 3 : /a b : 0x10 : 02001\n4:/with:colon:7\n5 : /with : 9 : 010 : 0\n"
    found = descriptors.parse(text.split("\n"), "list")
    assert [(one.fd, one.path, one.offset, one.flags) for one in found] == [
        (0, "/dev/tty", 0, None),
        (3, "/a b", 16, 0o2001),
        (4, "/with:colon", 7, None),
        (5, "/with : 9", 8, 0),
    ]
    assert descriptors.parse(descriptors.text(found).split("\n"), "again") == found


@pytest.mark.parametrize(
    "name",
    [
        "/a\n7 : /etc/shadow : 0 : 02",
        "/a ",
        "/a\t",
        "/ b\\",
        "/\\040",
        "/C:\\new",
        "/a\u00a0",
        "/a\r",
        "/a  ",
        "/\udcff\n",
    ],
)
def test_names_that_a_line_cannot_hold_as_they_are(name: str) -> None:
    text = descriptors.text([descriptors.Line(3, name, 0, 0)])
    assert text.count("\n") == 1
    assert [one.path for one in descriptors.parse(text.split("\n"), "list")] == [name]


def test_a_backslash_that_somebody_has_typed() -> None:
    typed = ["3 : C:\\new\\file : 0", "4 : /a\\ : 0", "5 : /b\\999 : 0", "6 : /c\\777 : 0"]
    found = [one.path for one in descriptors.parse(typed, "list")]
    assert found == ["C:\\new\\file", "/a\\", "/b\\999", "/c\\777"]


@pytest.mark.parametrize(
    "line",
    [
        "3",
        "3 : /a",
        "x : /a : 0",
        "3 : /a : x",
        "-1 : /a : 0",
        "3 :  : 0",
        "3 : /a : -5",
        "9999999 : /a : 0",
        "3 : /\0 : 0",
        "3 : /a : 0 : -1",
        "3 : /a : 0 : 99999999999999999999",
    ],
)
def test_lines_that_are_no_descriptors(line: str) -> None:
    with pytest.raises(UserError, match=r"list, line 2: .* is no descriptor"):
        descriptors.parse(["0 : /a : 0", line], "list")


def test_nobody_waits_for_the_other_end_of_a_fifo(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    fd = descriptors.Line(3, str(tmp_path / "fifo"), 0, os.O_RDONLY).opened()
    assert os.get_blocking(fd)
    os.close(fd)
    with pytest.raises(UserError, match=r"descriptor 3: .*No such device"):
        descriptors.Line(3, str(tmp_path / "fifo"), 0, os.O_WRONLY).opened()


def test_an_offset_that_no_file_has(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    before = os.listdir("/proc/self/fd")
    with pytest.raises(UserError, match=r"descriptor 3: .*Invalid argument"):
        descriptors.Line(3, str(tmp_path / "file"), -1, os.O_RDONLY).opened()
    assert os.listdir("/proc/self/fd") == before


def test_a_descriptor_twice() -> None:
    with pytest.raises(UserError, match="descriptor 3 is there twice"):
        descriptors.parse(["3 : /a : 0", "3 : /b : 0"], "list")


@pytest.mark.parametrize(
    ("words", "given", "plain"),
    [
        (["-f", "-n", "-w", "prog", "core"], {"f": "", "n": "", "w": ""}, ("prog", "core")),
        (["-nw", "prog", "core", "-V"], {"n": "", "w": "", "V": ""}, ("prog", "core")),
        (["-flist", "prog", "core"], {"f": "list"}, ("prog", "core")),
        (["--filedes=list", "--nostop", "a", "b"], {"f": "list", "n": ""}, ("a", "b")),
        (["--filedes", "a", "b"], {"f": ""}, ("a", "b")),
        (["-b", "0x10", "-m", "a", "b"], {"b": "0x10", "m": ""}, ("a", "b")),
        (["-b0x10", "--sel", "a", "--", "-b"], {"b": "0x10", "s": ""}, ("a", "-b")),
        (["--breakpoint=5", "--verb"], {"b": "5", "V": ""}, ()),
    ],
)
def test_words_of_restart(words: list[str], given: dict[str, str], plain: tuple[str, ...]) -> None:
    found = cli.parse(words)
    assert (found.given, found.plain) == (given, plain)


@pytest.mark.parametrize("words", [["-x"], ["--ver", "a", "b"], ["-b"], ["--nostop=1"], ["--breakpoint"]])
def test_words_that_restart_does_not_know(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 1
    assert "restart: " in capsys.readouterr().err


def test_help_version_and_usage(capsys: pytest.CaptureFixture[str]) -> None:
    run: Callable[[list[str]], int] = cli.main
    assert run(["-h"]) == run(["--help"]) == run(["-v"]) == run(["--version"]) == 0
    assert "restart 1.0" in capsys.readouterr().out
    assert run(["one"]) == 1
    assert "Usage: restart [options] <executable> <core file>" in capsys.readouterr().err
