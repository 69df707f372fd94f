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
from pycriu.fds.openfile import OpenFile, no_owner
from pycriu.images import messages as m
from pycriu.kernel import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

TYPE = 2  # fd_types.PIPE
F_SETPIPE_SZ, F_GETPIPE_SZ = 1031, 1032
SPLICE_F_NONBLOCK = 2
FASYNC = 0o20000
_ACCESS = os.O_RDONLY | os.O_WRONLY | os.O_RDWR


def matches(file: OpenFile) -> bool:
    """A pipe(2): a FIFO without a path."""
    return stat.S_ISFIFO(file.status.st_mode) and file.link.startswith("pipe:[")


def inspect(file: OpenFile) -> None:
    """Unsupported for packet mode, and for signals at input."""
    if file.flags & os.O_DIRECT:
        raise Unsupported(f"{file.name} is a pipe in packet mode (O_DIRECT)")
    if file.flags & FASYNC:
        raise Unsupported(f"{file.name} has an asynchronous owner (O_ASYNC)")


def inspect_all(files: list[OpenFile]) -> None:
    """Unsupported where a pipe of the tree has an end outside: `files` are all pipe descriptors of the tree."""
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


def dump(file: OpenFile, file_id: int) -> Any:
    """The image of one end."""
    entry = m.pipe_entry(id=file_id, pipe_id=file.status.st_ino & 0xFFFFFFFF, flags=file.flags, fown=no_owner())
    return m.file_entry(type=TYPE, id=file_id, pipe=entry)


def contents(files: list[OpenFile]) -> list[tuple[int, int, bytes]]:
    """(pipe id, capacity in bytes, data in flight) of every pipe among `files`; the data stays in the pipe."""
    found: dict[int, OpenFile] = {}
    for file in files:
        found.setdefault(file.status.st_ino, file)
    return [(inode & 0xFFFFFFFF, *_peek(file)) for inode, file in found.items()]


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


def data_entries(pipes: list[tuple[int, int, bytes]]) -> list[tuple[Any, bytes]]:
    """The pipes-data image: one entry with its payload per pipe."""
    return [(m.pipe_data_entry(pipe_id=n, bytes=len(data), size=size), data) for n, size, data in pipes]


class Restored:
    """The pipes of an image made again: each end is opened as often as the image has open files for it."""

    def __init__(self, data: list[tuple[Any, bytes]]) -> None:
        self._data = {entry.pipe_id: (entry.size, payload) for entry, payload in data}
        self._ends: dict[int, tuple[int, int]] = {}

    def restore(self, pipe: Any) -> int:
        """Our descriptor for one end."""
        if pipe.pipe_id not in self._ends:
            self._ends[pipe.pipe_id] = self._make(pipe.pipe_id)
        ends = self._ends[pipe.pipe_id]
        writing = (pipe.flags & _ACCESS) != os.O_RDONLY
        # A second open file for the same end, or a new one: both come from the magic link of the first.
        return os.open(f"/proc/self/fd/{ends[writing]}", pipe.flags & (_ACCESS | os.O_NONBLOCK) | os.O_CLOEXEC)

    def _make(self, pipe_id: int) -> tuple[int, int]:
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        capacity, payload = self._data.get(pipe_id, (0, b""))
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
