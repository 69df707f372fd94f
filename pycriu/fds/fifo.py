# SPDX-License-Identifier: GPL-2.0-only
"""FIFOs, pipes with a path: every open end, the data in flight, the capacity. The path, deleted or not, is `regular`'s
business, which opens it for us without opening an end.

A FIFO may be open outside the tree as well, unless there is data in it: nobody could tell whose that is.
"""

from __future__ import annotations

import fcntl
import os
import stat

from pycriu.errors import About, ImageError, Unsupported, UserError
from pycriu.fds import ghost, inflight
from pycriu.fds.inflight import ACCESS
from pycriu.fds.openfile import OpenFile
from pycriu.images import messages as m
from pycriu.kernel import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pycriu.fds.opening import Opening
    from pycriu.fds.saving import Saving
    from pycriu.log import Log


class Fifo(inflight.Ends):
    """Ends of FIFOs."""

    TYPE = 3  # fd_types.FIFO
    DATA, PACKETS = "fifo-data.img", "pycriu-fifo-packets.img"

    def __init__(self, options: Any, log: Log) -> None:
        super().__init__(options, log)
        self._holders: dict[str, set[int]] = {}
        self._ids: dict[tuple[int, int], int] = {}  # device and inode → pipe id
        self._paths: dict[int, int] = {}  # id of the open file → id of the entry for its path
        self._held: dict[int, int] = {}  # pipe id → an end of ours, so that no open waits and no data is lost

    # ------------------------------------------------------------------------------------------------------------ dump

    def matches(self, file: OpenFile) -> bool:
        """A FIFO that has, or had, a path."""
        return stat.S_ISFIFO(file.status.st_mode) and file.link.startswith("/") and not file.flags & os.O_PATH

    def inspect(self, file: OpenFile) -> None:
        """Unsupported where its path cannot be made to lead to it again."""
        ghost.inspect(file.link, file.status, file.name, self.options)
        if file.link not in self._holders:
            self._holders[file.link] = inflight.holders(file.link).get(file.link, set())

    def gather(self, files: list[OpenFile], saving: Saving) -> None:
        """Collect the ends, and their paths."""
        super().gather(files, saving)
        for number, file in saving.unseen(files, self._paths):
            self._paths[number] = saving.kinds.regular.attach(file, saving)

    def pipe_of(self, file: OpenFile) -> int:
        """As CRIU makes it, of the inode; another where a FIFO of another file system has that inode, too."""
        key, number = (file.status.st_dev, file.status.st_ino), inflight.identity(file)
        while key not in self._ids:
            if number and number not in self._ids.values():
                self._ids[key] = number
            number = (number + 1) & 0xFFFFFFFF
        return self._ids[key]

    def settle(self, saving: Saving) -> None:
        """The data in flight, which stays where it is; Unsupported where it may not be the tree's alone."""
        for number, ends in self._ends.items():
            self._contents[number] = inflight.look(ends)
            others = inflight.outsiders(self._holders, ends[0].link, saving)
            size = len(self._contents[number].data)
            if others and size:
                told = ", ".join(str(pid) for pid in others)
                with About(ends[0]):
                    raise Unsupported(
                        f"{ends[0].name} holds {size} bytes in flight, and process {told} outside the tree has it open",
                        "let them be read first: nobody could tell whose they are",
                    )

    def dump(self, file: OpenFile, number: int, saving: Saving) -> Any:
        """The image of one end."""
        entry = m.fifo_entry(id=number, pipe_id=self.pipe_of(file), regf_id=self._paths[number])
        return m.file_entry(type=self.TYPE, id=number, fifo=entry)

    # --------------------------------------------------------------------------------------------------------- restore

    def signals(self, entry: Any, opening: Opening) -> Any:
        """Flags and owner are those of the entry for its path."""
        return self._path(entry, opening)

    def _path(self, entry: Any, opening: Opening) -> Any:
        found = opening.entries.get(entry.fifo.regf_id)
        if found is None or found.type != opening.kinds.regular.TYPE or not stat.S_ISFIFO(found.reg.mode):
            raise ImageError(
                f"FIFO {entry.id} has no path: the files image has no file {entry.fifo.regf_id} that is one"
            )
        return found.reg

    def open(self, entry: Any, opening: Opening) -> int:
        """One end; for the first, what was in flight is put back."""
        reg = self._path(entry, opening)
        path = f"/proc/self/fd/{opening.fd(reg.id)}"
        number = entry.fifo.pipe_id
        if number not in self._held:
            self._held[number] = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            self._fill(self._held[number], self._contents.get(number), reg.name)
        fd = os.open(path, reg.flags & ACCESS | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.fcntl(fd, fcntl.F_SETFL, reg.flags & ~os.O_ASYNC)
        return fd

    def _fill(self, fd: int, content: inflight.Content | None, path: str) -> None:
        if content is None:
            return
        waiting = libc.unread(fd)
        if waiting and content.data:
            raise UserError(
                f"{path} holds {waiting} bytes that somebody else has written",
                "the task's own would mix with them",
            )
        inflight.fill(fd, content, path)

    def close(self) -> None:
        """Everybody has his own ends."""
        for fd in self._held.values():
            os.close(fd)
        self._held = {}
