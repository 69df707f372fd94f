# SPDX-License-Identifier: GPL-2.0-only
"""Configuration files: what their lines mean, which file has the last word, and what is said of one that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from pycriu import cli
from pycriu.command import configuration
from pycriu.errors import UserError


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", []),
        ("   ", []),
        ("# comment", []),
        ("#comment", []),
        ("shell-job", ["--shell-job"]),
        ("shell-job # why", ["--shell-job"]),
        ("  tree 12  # why", ["--tree=12"]),
        ("tree\t12", ["--tree=12"]),
        ("verbosity=4", ["--verbosity=4"]),
        ('images-dir "a b"', ["--images-dir=a b"]),
        ('log-file "x # y" # z', ["--log-file=x # y"]),
        ('log-file ""', ["--log-file="]),
        (r'log-file "x\"y" # z', ['--log-file=x"y']),
        ("action-script /a --b", ["--action-script=/a --b"]),
    ],
)
def test_lines(line: str, words: list[str]) -> None:
    assert configuration.words_of(line) == words


def test_later_files_and_the_command_line_overrule(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("tree 1\nlog-file one\nshell-job\naction-script a\n")
    second.write_text("log-file two\nno-shell-job\naction-script b\n")
    values, plain = configuration.parse([str(first), str(second)], ["dump", "-t", "3", "--action-script", "c"])
    assert plain == ["dump"]
    assert values == {"tree": "3", "log-file": "two", "shell-job": False, "action-script": ("a", "b", "c")}
    assert configuration.parse([str(second), str(first)], [])[0]["shell-job"] is True


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nonsense", "unknown option --nonsense"),
        ("shell-job yes", "--shell-job takes no value"),
        ("tree", "--tree needs a value"),
        ("--tree 5", "--tree has dashes"),
        ("-j", "-j has dashes"),
        ('log-file "open', "a double quote is missing at the end"),
        (r'log-file "open\"', "a double quote is missing at the end"),
        ('log-file "a" b', "b stands behind the value"),
        ("lazy-pages", "--lazy-pages is not supported by pycriu: "),
        ("config other", "config means nothing in a configuration file"),
        ("help", "help means nothing in a configuration file"),
        ("verbosity loud", "--verbosity loud: not a number"),
    ],
)
def test_what_is_wrong_is_told_with_file_and_line(tmp_path: Path, line: str, said: str) -> None:
    """A line by itself: one that lacks its value does not take the next option for it."""
    path = tmp_path / "file"
    path.write_text(f"shell-job\n\n{line}\nleave-running\n")
    with pytest.raises(UserError) as caught:
        configuration.parse([str(path)], ["dump"])
    assert caught.value.message.startswith(f"configuration file {path}, line 3: {said}")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none: No such file or directory"):
        configuration.parse([str(tmp_path / "none")], [])
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="binary: not UTF-8"):
        configuration.parse([str(tmp_path / "binary")], [])


def test_which_files_are_read_and_in_which_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those for all users, of the user, of the environment, of the command line; each overrules what comes before."""
    names = ("system", "user", "environment", "named")
    for name in names:
        (tmp_path / name).write_text(f"log-file {name}\naction-script {name}\n")
    monkeypatch.setattr(cli, "DEFAULT_CONFIGS", (str(tmp_path / "system"), "~/user"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CRIU_CONFIG_FILE", str(tmp_path / "environment"))
    named = ["--config", str(tmp_path / "named")]
    values, _ = cli._read(["dump", *named])
    assert (values["log-file"], values["action-script"]) == ("named", names)
    assert cli._read(["dump"])[0]["log-file"] == "environment"
    monkeypatch.delenv("CRIU_CONFIG_FILE")
    assert cli._read(["dump"])[0]["log-file"] == "user"
    assert cli._read(["dump", "-o", "typed"])[0]["log-file"] == "typed"
    assert "log-file" not in cli._read(["dump", "--no-default-config"])[0]
    assert cli._read(["dump", "--no-default-config", *named])[0]["action-script"] == ("named",)
    (tmp_path / "user").unlink()
    assert cli._read(["dump"])[0]["log-file"] == "system"
