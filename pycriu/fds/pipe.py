# SPDX-License-Identifier: GPL-2.0-only
"""Pipes between members of the tree: both ends, the data in flight, the capacity.

Refused: a pipe that has an end outside the tree, and packet mode (O_DIRECT).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import stat
import termios

from pycriu.errors import ImageError, KernelError, Unsupported
from pycriu.fds.kind import Kind
from pycriu.fds.openfile import OpenFile, no_owner
from pycriu.images import messages as m
from pycriu.kernel import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pycriu.fds.opening import Opening
    from pycriu.fds.saving import Saving
    from pycriu.images.store import ImagesDir, NewCheckpoint
    from pycriu.log import Log

F_SETPIPE_SZ, F_GETPIPE_SZ = 1031, 1032
SPLICE_F_NONBLOCK = 2
FASYNC = 0o20000
_ACCESS = os.O_RDONLY | os.O_WRONLY | os.O_RDWR


class Pipe(Kind):
    """Both ends of pipe(2)."""

    TYPE = 2  # fd_types.PIPE

    def __init__(self, options: Any, log: Log) -> None:
        super().__init__(options, log)
        self._contents: dict[int, tuple[int, bytes]] = {}  # pipe id → capacity in bytes, data in flight
        self._ends: dict[int, tuple[int, int]] = {}

    def matches(self, file: OpenFile) -> bool:
        """A pipe(2): a FIFO without a path."""
        return stat.S_ISFIFO(file.status.st_mode) and file.link.startswith("pipe:[")

    def inspect(self, file: OpenFile) -> None:
        """Unsupported for packet mode, and for signals at input."""
        if file.flags & os.O_DIRECT:
            raise Unsupported(f"{file.name} is a pipe in packet mode (O_DIRECT)")
        if file.flags & FASYNC:
            raise Unsupported(f"{file.name} has an asynchronous owner (O_ASYNC)")

    def gather(self, files: list[OpenFile], saving: Saving) -> None:
        """The data in flight, which stays in the pipe; Unsupported where a pipe has an end outside the tree."""
        _refuse_ends_outside(files)
        for file in files:
            if file.status.st_ino & 0xFFFFFFFF not in self._contents:
                self._contents[file.status.st_ino & 0xFFFFFFFF] = _peek(file)

    def dump(self, file: OpenFile, number: int, saving: Saving) -> Any:
        """The image of one end."""
        entry = m.pipe_entry(id=number, pipe_id=file.status.st_ino & 0xFFFFFFFF, flags=file.flags, fown=no_owner())
        return m.file_entry(type=self.TYPE, id=number, pipe=entry)

    def write(self, new: NewCheckpoint) -> None:
        """pipes-data.img: one entry with its payload per pipe."""
        if self._contents:
            pairs = [
                (m.pipe_data_entry(pipe_id=number, bytes=len(data), size=size), data)
                for number, (size, data) in self._contents.items()
            ]
            new.write("pipes-data.img", pairs)

    def read(self, images: ImagesDir, entries: list[Any]) -> None:
        """The data in flight."""
        if images.exists("pipes-data.img"):
            pairs: list[Any] = images.read_with_payloads("pipes-data.img")
            self._contents = {entry.pipe_id: (entry.size, payload) for entry, payload in pairs}

    def open(self, entry: Any, opening: Opening) -> int:
        """One end: the pipe is made for the first."""
        pipe = entry.pipe
        if pipe.pipe_id not in self._ends:
            self._ends[pipe.pipe_id] = self._make(pipe.pipe_id)
        ends = self._ends[pipe.pipe_id]
        writing = (pipe.flags & _ACCESS) != os.O_RDONLY
        # A second open file for the same end, or a new one: both come from the magic link of the first.
        return os.open(f"/proc/self/fd/{ends[writing]}", pipe.flags & (_ACCESS | os.O_NONBLOCK) | os.O_CLOEXEC)

    def _make(self, pipe_id: int) -> tuple[int, int]:
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        capacity, payload = self._contents.get(pipe_id, (0, b""))
        if capacity:
            fcntl.fcntl(writer, F_SETPIPE_SZ, capacity)
        if payload and os.write(writer, payload) != len(payload):
            raise ImageError(f"pipe {pipe_id} has {len(payload)} bytes in flight, more than it can hold")
        return reader, writer

    def close(self) -> None:
        """Close the ends that served as patterns, so that readers see the end of the file when the writers go."""
        for ends in self._ends.values():
            for fd in ends:
                os.close(fd)
        self._ends = {}


def _refuse_ends_outside(files: list[OpenFile]) -> None:
    for inode in sorted({file.status.st_ino for file in files}):
        ends = [file for file in files if file.status.st_ino == inode]
        modes = {file.flags & _ACCESS for file in ends}
        readers = modes & {os.O_RDONLY, os.O_RDWR}
        writers = modes & {os.O_WRONLY, os.O_RDWR}
        if readers and writers:
            continue
        if _other_end_open(ends[0]):
            other = "reader" if writers else "writer"
            raise Unsupported(
                f"{ends[0].name} is a pipe whose {other} is outside the tree of the dump",
                "dump the process that is the parent of both, or give the task a file instead of the pipe",
            )


def _other_end_open(file: OpenFile) -> bool:
    fd = file.borrow()
    try:
        poll = select.poll()
        poll.register(fd, 0)  # POLLHUP and POLLERR are always reported
        return not poll.poll(0)
    finally:
        os.close(fd)


def _peek(file: OpenFile) -> tuple[int, bytes]:
    # Opening the magic link makes a reader of whichever end it is; tee(2) duplicates without consuming.
    end = os.open(f"/proc/{file.pid}/fd/{file.fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    side_in, side_out = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        capacity = fcntl.fcntl(end, F_GETPIPE_SZ)
        waiting = ctypes.c_int(0)
        fcntl.ioctl(end, termios.FIONREAD, waiting)
        if not waiting.value:
            return capacity, b""
        fcntl.fcntl(side_out, F_SETPIPE_SZ, capacity)
        got = libc.call("tee", end, side_out, waiting.value, SPLICE_F_NONBLOCK, what=file.name)
        if got != waiting.value:
            raise KernelError("tee", 11, f"{got} of {waiting.value} bytes of {file.name}")
        return capacity, _drain(side_in, got)
    finally:
        for fd in (end, side_in, side_out):
            os.close(fd)


def _drain(fd: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += os.read(fd, size - len(data))
    return data
