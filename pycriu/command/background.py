# SPDX-License-Identifier: GPL-2.0-only
"""What a process does that goes on in the background: daemon(3), with word of its being ready, and a pidfile."""

from __future__ import annotations

import os

from pycriu.errors import UserError

_SIGTERM = 15


def begin(what: str) -> int:
    """daemon(3): a child goes on, and gets a descriptor to say that it is ready.

    The parent waits for that, and gets -1; UserError if the child ends first. If a signal ends the wait, it ends the
    child, too: what was begun is undone by then.
    """
    reader, writer = os.pipe()
    if child := os.fork():
        os.close(writer)
        try:
            ready = os.read(reader, 1)
        except BaseException:
            os.kill(child, _SIGTERM)
            os.waitpid(child, 0)
            raise
        finally:
            os.close(reader)
        if not ready:
            raise UserError(f"{what} has not started", "what it said is above, or in its log")
        return -1
    os.close(reader)
    os.setsid()
    return writer


def is_ready(writer: int) -> None:
    """From here on nobody is told anything but by the log."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.close(null)
    os.write(writer, b"r")
    os.close(writer)


def write_pid(path: str, pid: int) -> None:
    """A PID in a new file, decimal, without a newline, as CRIU writes it; UserError where there can be none."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UserError(f"--pidfile {path}: {error.strerror}", "the file must not exist yet") from None
    try:
        os.write(fd, str(pid).encode())
    except OSError as error:
        os.unlink(path)
        raise UserError(f"--pidfile {path}: {error.strerror}") from None
    finally:
        os.close(fd)


def remove_pid(path: str, pid: int) -> None:
    """The file that `write_pid` has made, unless somebody has removed it, or put another one in its place."""
    try:
        with open(path) as file:
            if file.read(32) == str(pid):
                os.unlink(path)
    except FileNotFoundError:
        return


class Pidfile:
    """A new file with the PID of this process, for as long as it serves."""

    def __init__(self, work_dir: str, name: str | None) -> None:
        self._path = os.path.join(work_dir, name) if name else ""
        self._pid = os.getpid()

    def __enter__(self) -> None:
        if self._path:
            write_pid(self._path, self._pid)

    def __exit__(self, *_: object) -> None:
        if self._path:
            remove_pid(self._path, self._pid)
