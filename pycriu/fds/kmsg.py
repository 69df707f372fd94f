# SPDX-License-Identifier: GPL-2.0-only
"""How far a task has read the kernel's log (/dev/kmsg, Documentation/ABI/testing/dev-kmsg).

The position of a reader is seen nowhere, but poll(2) tells whether it is at the end, and then it is the number of the
last record. A restore reads on to that record; after a reboot all records are new. Refused: a reader that is not at the
end.
"""

from __future__ import annotations

import os
import select

from pycriu.errors import ImageError, Unsupported
from pycriu.images import messages as m
from pycriu.kernel import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pycriu.fds.openfile import OpenFile
    from pycriu.images.store import ImagesDir, NewCheckpoint

IMAGE = "pycriu-kmsg.img"
_ROOM = 1 << 15  # no record is as long; a read into less room than a record needs fails
_PATH = "/dev/kmsg"


class Readers:
    """Both halves, for one dump or one restore."""

    def __init__(self) -> None:
        self._log = -1  # a reader of our own, at the end of what has been looked at
        self._last = -1
        self._known: dict[int, int] = {}  # id → number of the last message that was read

    def inspect(self) -> None:
        """Read the log, while nobody has to wait for that."""
        if self._log < 0:
            self._log = os.open(_PATH, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._last = max(self._last, _read(self._log))

    def gather(self, number: int, file: OpenFile) -> None:
        """Unsupported for a reader that has records before it; for any other, how far it has come."""
        self.inspect()
        fd = file.borrow()
        try:
            if libc.poll(fd, select.POLLIN):
                raise Unsupported(
                    f"{file.name} has messages of the kernel before it, and nothing tells how many",
                    "let the task read them first",
                )
        finally:
            os.close(fd)
        self._known[number] = self._last

    def write(self, new: NewCheckpoint) -> None:
        """The image."""
        new.write_any(IMAGE, [m.pycriu_kmsg_entry(id=number, last=last) for number, last in self._known.items()])

    def read(self, images: ImagesDir) -> None:
        """The image."""
        own: list[Any] = images.read_if_there(IMAGE)
        self._known = {one.id: one.last for one in own}

    def position(self, number: int, fd: int, flags: int) -> None:
        """Let the reader `fd`, open with `flags`, go on where it was."""
        if number not in self._known:
            return
        last = self._known[number]
        os.set_blocking(fd, False)
        if 0 <= _first() <= last and _read(fd, last) < last:
            os.lseek(fd, 0, os.SEEK_SET)  # the machine has been started anew
        os.set_blocking(fd, not flags & os.O_NONBLOCK)

    def close(self) -> None:
        """Close our own."""
        if self._log >= 0:
            os.close(self._log)
            self._log = -1


def _first() -> int:
    """The number of the oldest record that there is; -1 where there is none."""
    fd = os.open(_PATH, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return _read(fd, 0)
    finally:
        os.close(fd)


def _read(fd: int, last: int | None = None) -> int:
    """Read up to the record `last` or a later one, or to the end; the number of the record read last, or -1."""
    found = -1
    while last is None or found < last:
        try:
            record = os.read(fd, _ROOM)
        except BlockingIOError:
            break
        except BrokenPipeError:  # records were overwritten before we came to them; the next is the oldest
            continue
        found = sequence(record)
    return found


def sequence(record: bytes) -> int:
    """The number of a record, its second field."""
    try:
        return int(record.split(b",", 2)[1])
    except (IndexError, ValueError):
        raise ImageError(f"a message of the kernel has no number: {record[:40]!r}") from None
