# SPDX-License-Identifier: GPL-2.0-only
"""Pipes between members of the tree: both ends, as often as they are open, the data in flight, packets, the capacity.

A pipe of which somebody outside the tree has an end is refused; or, with the option `pipes_outside`, left out, as what
--external names. One with both ends in the tree is kept then, whoever else has it.
"""

from __future__ import annotations

import fcntl
import os
import stat

from pycriu.errors import About, Unsupported
from pycriu.fds import inflight
from pycriu.fds.inflight import ACCESS
from pycriu.fds.openfile import OpenFile, no_owner
from pycriu.images import messages as m
from pycriu.kernel import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pycriu.fds.opening import Opening
    from pycriu.fds.saving import Saving
    from pycriu.log import Log

_REGULAR = 1  # fd_types.REG


class Pipe(inflight.Ends):
    """Both ends of pipe(2)."""

    TYPE = 2  # fd_types.PIPE
    DATA, PACKETS = "pipes-data.img", "pycriu-packets.img"

    def __init__(self, options: Any, log: Log) -> None:
        super().__init__(options, log)
        self._holders: dict[str, set[int]] | None = None
        self._outside: set[int] = set()  # pipe ids
        self._made: dict[int, tuple[int, int]] = {}
        self._given: set[tuple[int, bool]] = set()

    # ------------------------------------------------------------------------------------------------------------ dump

    def matches(self, file: OpenFile) -> bool:
        """A pipe(2): a FIFO without a path."""
        return stat.S_ISFIFO(file.status.st_mode) and file.link.startswith("pipe:[")

    def inspect(self, file: OpenFile) -> None:
        """Look once who has ends of pipes, while nobody has to wait for that."""
        if self._holders is None:
            self._holders = inflight.holders("pipe:[")

    def settle(self, saving: Saving) -> None:
        """The data in flight, which stays in the pipe; Unsupported where a pipe has an end outside the tree."""
        for number, ends in self._ends.items():
            with About(ends[0]):
                if self.options.pipes_outside and not _is_inside(ends) and _other_end_open(ends[0]):
                    self._outside.add(number)
                    continue
                if not self.options.pipes_outside:
                    self._refuse_outsiders(ends, saving)
                self._contents[number] = inflight.look(ends)

    def _refuse_outsiders(self, ends: list[OpenFile], saving: Saving) -> None:
        hint = "dump the process that is the parent of both, or give the task a file instead of the pipe"
        if others := inflight.outsiders(self._holders, ends[0].link, saving):
            told = ", ".join(str(pid) for pid in others)
            raise Unsupported(f"{ends[0].name} is a pipe that process {told} outside the tree has open, too", hint)
        if not _is_inside(ends) and _other_end_open(ends[0]):  # by somebody whom we cannot see
            other = "reader" if any(map(inflight.writable, ends)) else "writer"
            raise Unsupported(f"{ends[0].name} is a pipe whose {other} is outside the tree of the dump", hint)

    def dump(self, file: OpenFile, number: int, saving: Saving) -> Any:
        """The image of one end."""
        if inflight.identity(file) in self._outside:
            from pycriu.fds import external

            return external.entry(file, number, f"pipe:[{file.status.st_ino}]")
        entry = m.pipe_entry(id=number, pipe_id=inflight.identity(file), flags=file.flags, fown=no_owner())
        return m.file_entry(type=self.TYPE, id=number, pipe=entry)

    def type_of(self, file: OpenFile) -> int:
        """What is left out is in the images as a regular file is."""
        return _REGULAR if inflight.identity(file) in self._outside else self.TYPE

    # --------------------------------------------------------------------------------------------------------- restore

    def open(self, entry: Any, opening: Opening) -> int:
        """One end: the pipe is made for the first."""
        pipe = entry.pipe
        if pipe.pipe_id not in self._made:
            self._made[pipe.pipe_id] = self._make(pipe.pipe_id)
        writing = (pipe.flags & ACCESS) != os.O_RDONLY
        pattern = self._made[pipe.pipe_id][writing]
        if (
            (pipe.flags & ACCESS) == writing
            and not pipe.flags & _large()
            and (pipe.pipe_id, writing) not in self._given
        ):
            self._given.add((pipe.pipe_id, writing))
            fd = os.dup(pattern)
        else:  # a second open file for the same end, which the task had from the magic link of the first
            fd = os.open(f"/proc/self/fd/{pattern}", pipe.flags & (ACCESS | os.O_NONBLOCK) | os.O_CLOEXEC)
        fcntl.fcntl(fd, fcntl.F_SETFL, pipe.flags & ~os.O_ASYNC)
        return fd

    def _make(self, number: int) -> tuple[int, int]:
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            inflight.fill(writer, self._contents.get(number, inflight.Content(0, b"")), f"pipe {number}")
        except BaseException:
            os.close(reader)
            os.close(writer)
            raise
        return reader, writer

    def close(self) -> None:
        """Close the ends that served as patterns, so that readers see the end of the file when the writers go."""
        for ends in self._made.values():
            for fd in ends:
                os.close(fd)
        self._made = {}


def _is_inside(ends: list[OpenFile]) -> bool:
    return any(map(inflight.readable, ends)) and any(map(inflight.writable, ends))


def _other_end_open(file: OpenFile) -> bool:
    fd = file.borrow()
    try:
        return not libc.poll(fd, 0)  # POLLHUP for a reading end, POLLERR for a writing one
    finally:
        os.close(fd)


def _large() -> int:
    """O_LARGEFILE as this kernel shows it of every file that was opened and of no end that pipe(2) has made."""
    if not _LARGE:
        fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _LARGE.append(fcntl.fcntl(fd, fcntl.F_GETFL))
        finally:
            os.close(fd)
    return _LARGE[0]


_LARGE: list[int] = []
