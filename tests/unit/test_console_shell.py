# SPDX-License-Identifier: GPL-2.0-only
"""The marker protocol against a real interactive shell on a real terminal: this host's /bin/sh on a pty."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from layer.errors import InputError
from layer.target import faults
from layer.target.console import Console
from layer.target.shell import Shell


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    master, slave = pty.openpty()
    environment = {"PATH": os.environ["PATH"], "PS1": "ready# ", "TERM": "dumb", "ENV": ""}
    words = ["setsid", "--ctty", "sh", "-i"]
    process = subprocess.Popen(
        words, stdin=slave, stdout=slave, stderr=slave, env=environment, cwd=tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # who runs in the background ignores it
    )  # fmt: skip
    os.close(slave)
    console = Console(master, tmp_path / "shell.log", kernel=False)
    made = Shell(console, seed=1)
    made.prepare(quiet_kernel=False)
    yield made
    process.kill()
    process.wait()
    console.finish()
    os.close(master)


@pytest.mark.parametrize("status", [0, 1, 2, 29, 126, 255])
def test_the_exit_status_comes_back(shell: Shell, status: int) -> None:
    assert shell.run(f"exit {status}", check=False).status == status


def test_a_failed_command_is_an_error_with_its_output(shell: Shell) -> None:
    with pytest.raises(faults.CommandFailed, match=r"ended with 3(?s:.)*\| why"):
        shell.run("echo why; exit 3")


@pytest.mark.parametrize(
    ("command", "out"),
    [
        ("printf x", "x"),
        ("printf 'a\\n\\nb\\n'", "a\n\nb\n"),
        ("echo to-stderr >&2", "to-stderr\n"),
        ("true", ""),
        ("echo \"it's\" '$HOME' `echo x`", "it's $HOME x\n"),
        ("printf 'two\\nlines' # a comment", "two\nlines"),
        ("cat", ""),
        ("echo é€", "é€\n"),
    ],
)
def test_the_output_is_exactly_what_was_written(shell: Shell, command: str, out: str) -> None:
    assert shell.run(command).out == out


def test_a_syntax_error_is_a_status_not_a_hang(shell: Shell) -> None:
    assert shell.run("if then", check=False, timeout=10).status != 0
    assert shell.out("echo still here") == "still here"


def test_what_a_command_changes_inside_stays(shell: Shell, tmp_path: Path) -> None:
    shell.run("cd /usr", inside=True)
    shell.run("cd /")
    assert shell.out("pwd") == "/usr"


def test_the_shells_word_on_a_job_is_a_notice_not_output(shell: Shell) -> None:
    shell.run("sleep 100 &", inside=True)
    assert shell.run("kill -9 %1; sleep 0.2", inside=True).out == ""
    said = ""
    end = time.monotonic() + 5
    while "Killed" not in said and time.monotonic() < end:
        result = shell.run("echo out", inside=True)
        assert result.out == "out\n"
        said += result.notices
    assert "Killed" in said and "sleep 100" in said


def test_output_that_looks_like_an_echo_of_a_marker_does_not_end_a_command(shell: Shell) -> None:
    result = shell.run("echo \"'bcdgh''jkmpq:end:'\"; echo x:end:0; exit 5", check=False)
    assert (result.status, result.out) == (5, "'bcdgh''jkmpq:end:'\nx:end:0\n")


def test_a_command_that_takes_too_long_is_interrupted_and_the_shell_goes_on(shell: Shell) -> None:
    with pytest.raises(faults.DeadlinePassed, match="of `sleep 60`"):
        shell.run("sleep 60", timeout=0.5)
    assert shell.out("echo well") == "well"


def test_a_shell_that_cannot_be_interrupted_stays_broken_with_the_first_cause(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("layer.target.shell.INTERRUPT", 0.3)
    shell.run("trap '' INT", inside=True)
    with pytest.raises(faults.DeadlinePassed, match="sleep 30"):
        shell.run("sleep 30", timeout=0.3)
    start = time.monotonic()
    with pytest.raises(faults.DeadlinePassed, match="sleep 30"):
        shell.run("true", timeout=20)
    assert time.monotonic() - start < 5


def test_slowness_multiplies_a_time_limit(shell: Shell) -> None:
    shell.slowness = 100
    assert shell.run("sleep 0.7", timeout=0.2).status == 0


def test_a_shell_that_ends_is_a_closed_line(shell: Shell) -> None:
    with pytest.raises((faults.ConsoleClosed, OSError)):
        shell.run("exit 0", inside=True, timeout=5)


def test_a_line_that_a_terminal_would_cut_is_refused(shell: Shell) -> None:
    with pytest.raises(InputError, match="does not fit"):
        shell.run("echo " + "x" * 4000)


def test_files_go_in_and_out_byte_for_byte(shell: Shell, tmp_path: Path) -> None:
    content = bytes(range(256)) * 30
    shell.put(f"{tmp_path}/a file", content, mode=0o750)
    assert (tmp_path / "a file").read_bytes() == content
    assert (tmp_path / "a file").stat().st_mode & 0o777 == 0o750
    assert shell.get(f"{tmp_path}/a file") == content


@pytest.mark.parametrize(("spoiled", "whole"), [(2, True), (3, False)])
def test_a_file_that_comes_spoiled_is_asked_for_again(shell: Shell, tmp_path: Path, spoiled: int, whole: bool) -> None:
    """A line of it is lost on its way, so many times."""
    (tmp_path / "file").write_bytes(bytes(range(256)))
    left = tmp_path / "left"
    left.write_text("x" * spoiled)
    lossy = f'if [ -s {left} ]; then truncate -s -1 {left}; command base64 "$1" | sed 2d; else command base64 "$1"; fi'
    shell.run(f"base64() {{ {lossy}; }}", inside=True)
    if whole:
        assert shell.get(f"{tmp_path}/file") == bytes(range(256))
    else:
        with pytest.raises(faults.GuestError, match="has come spoiled through the console, 3 times"):
            shell.get(f"{tmp_path}/file")


def test_a_command_costs_milliseconds(shell: Shell) -> None:
    took = []
    for _ in range(20):
        start = time.monotonic()
        shell.run("true")
        took.append(time.monotonic() - start)
    assert min(took) < 0.05, "pexpect's delay before each send must be off"
