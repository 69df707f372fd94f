# SPDX-License-Identifier: GPL-2.0-only
"""The line that somebody at a terminal sees of long work."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import termios
import time
from pathlib import Path

import pytest

from pycriu.command import progress


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (3 << 19, "1.5 MiB"),
        (5 << 30, "5.0 GiB"),
        (7 << 40, "7168.0 GiB"),
    ],
)
def test_sizes(count: int, words: str) -> None:
    assert progress.size(count) == words


def test_the_line_has_pages_bytes_rate_and_what_remains() -> None:
    page = progress.PAGE
    said = progress.line("saved", 256 * page, 1024 * page, 2.0)
    assert said == (
        f"saved 256 of 1024 pages, {progress.size(256 * page)} of {progress.size(1024 * page)}, "
        f"{progress.size(128 * page)}/s, 6 s left"
    )
    assert progress.line("saved", 0, 1024 * page, 2.0).endswith(", 0 B/s")


def read(fd: int) -> str:
    os.set_blocking(fd, False)
    try:
        return os.read(fd, 1 << 16).decode()
    except BlockingIOError:
        return ""


def until(fd: int, words: str) -> str:
    """What is written, up to these words."""
    end = time.monotonic() + 30
    said = ""
    while words not in said:
        assert time.monotonic() < end, said
        time.sleep(0.005)
        said += read(fd)
    return said


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "FIRST", 0.02)
    monkeypatch.setattr(progress, "AGAIN", 0.02)


@pytest.mark.usefixtures("hasty")
def test_the_line_is_written_anew_and_goes() -> None:
    reader, writer = os.pipe()
    shown = progress.Progress(writer)
    state = [0]
    shown.begin("saved", (1 << 30) // progress.PAGE, lambda: state[0])
    said = until(reader, "saved 0 of")
    state[0] = 2 << 30  # more than there is to do is all of it
    said += until(reader, "1.0 GiB of 1.0 GiB")
    shown.end()
    shown.end()
    shown.summary("done")
    words = (said + read(reader)).split("\r\x1b[K")
    assert words[0] == ""
    assert "saved 0 of" in words[1]
    assert "1.0 GiB of 1.0 GiB" in words[-2]
    assert words[-1] == "pycriu: done\n"
    os.close(reader)
    os.close(writer)


def test_short_work_shows_nothing() -> None:
    reader, writer = os.pipe()
    shown = progress.Progress(writer)
    shown.begin("saved", 5, lambda: 1 // 0)
    shown.end()
    shown.begin("saved", 1 << 20, lambda: 0)
    shown.end()
    shown.summary("done")
    assert read(reader) == ""
    os.close(reader)
    os.close(writer)


@pytest.mark.usefixtures("hasty")
def test_a_terminal_that_goes_away_does_no_harm() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    shown = progress.Progress(writer)
    shown.begin("saved", 1 << 20, lambda: 0)
    time.sleep(0.1)
    shown.end()
    os.close(writer)


@pytest.mark.usefixtures("hasty")
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_the_line_goes_when_what_is_looked_at_has_been_closed(tmp_path: Path) -> None:
    """Images are closed when they are complete, which is before the command is at its end."""
    reader, writer = os.pipe()
    with open(tmp_path / "pages-1.img", "wb") as file:
        shown = progress.Progress(writer)
        shown.begin("saved", 1 << 20, lambda: os.fstat(file.fileno()).st_size)
        said = until(reader, "saved 0 of")
    time.sleep(0.1)
    shown.end()
    shown.summary("done")
    assert (said + read(reader)).endswith("/s\r\x1b[Kpycriu: done\n")
    os.close(reader)
    os.close(writer)


def test_the_memory_of_a_task() -> None:
    assert progress._resident(os.getpid()) > 1 << 20
    assert progress._resident(0) == 0


@pytest.mark.usefixtures("hasty")
def test_the_line_is_no_longer_than_the_terminal_is_wide() -> None:
    controller, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 24, 20, 0, 0))
    shown = progress.Progress(terminal)
    shown.begin("saved", 1 << 20, lambda: 1 << 20)
    time.sleep(0.1)
    shown.end()
    said = read(controller).split("\r\x1b[K")
    assert len(said) > 2
    assert set(said[1:-1]) == {"saved 256 of 1048576"[:19]}
    os.close(controller)
    os.close(terminal)


@pytest.mark.usefixtures("hasty")
def test_nobody_is_stopped_in_the_background() -> None:
    """As SIGTTOU does with jobs that write where they may not: tasks that stand still would be left so."""
    reader, told = os.pipe()
    shell, terminal = pty.fork()
    if not shell:
        try:
            settings = termios.tcgetattr(2)
            settings[3] |= termios.TOSTOP
            termios.tcsetattr(2, termios.TCSANOW, settings)
            if not os.fork():
                os.setpgid(0, 0)
                looks: list[int] = []
                shown = progress.Progress(2)
                shown.begin("saved", 1 << 20, lambda: looks.append(1) or 0)  # type: ignore[func-returns-value]
                while len(looks) < 4:
                    time.sleep(0.005)
                shown.end()
                os._exit(shown.shown)
            os.write(told, b"%d" % os.waitpid(-1, os.WUNTRACED)[1])
        finally:
            os._exit(0)
    os.close(told)
    assert os.read(reader, 16) == b"0"
    os.close(reader)
    os.close(terminal)
    os.waitpid(shell, 0)
