# SPDX-License-Identifier: GPL-2.0-only
"""eventfd(2): the counter, and whether it is a semaphore, for which CRIU's message has no field."""

from __future__ import annotations

import os

from pycriu.errors import About, ImageError, PycriuError, Unsupported
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

MAX_COUNT = (1 << 64) - 2  # eventfd(2): what a counter can be brought to by writing
_IMAGE = "pycriu-eventfd.img"  # those made with EFD_SEMAPHORE


class Eventfd(Kind):
    """A counter."""

    TYPE = 6  # fd_types.EVENTFD
    NAME = "eventfd"

    def __init__(self, options: Any, log: Log) -> None:
        super().__init__(options, log)
        self._semaphores: set[int] = set()

    def matches(self, file: OpenFile) -> bool:
        """By the name of its anonymous inode."""
        return file.link == "anon_inode:[eventfd]"

    def gather(self, files: list[OpenFile], saving: Saving) -> None:
        """Whether each is a semaphore."""
        for file in files:
            with About(file):
                if count(file) > MAX_COUNT:
                    raise Unsupported(f"{file.name} has overflowed", "let the task read it before the dump")
                number = saving.number_of(file.pid, file.fd)
                if number is not None and is_semaphore(file):
                    self._semaphores.add(number)

    def dump(self, file: OpenFile, number: int, saving: Saving) -> Any:
        """Its message."""
        entry = m.eventfd_file_entry(id=number, flags=file.flags, fown=no_owner(), counter=count(file))
        return m.file_entry(type=self.TYPE, id=number, efd=entry)

    def write(self, new: NewCheckpoint) -> None:
        """Which of them are semaphores."""
        new.write_any(_IMAGE, [m.pycriu_eventfd_entry(id=one, semaphore=True) for one in sorted(self._semaphores)])

    def read(self, images: ImagesDir, entries: list[Any]) -> None:
        """The same; ImageError for a counter that no eventfd can have."""
        own: list[Any] = images.read_if_there(_IMAGE)
        self._semaphores = {one.id for one in own if one.semaphore}
        for entry in entries:
            if entry.efd.counter > MAX_COUNT:
                raise ImageError(
                    f"eventfd {entry.id} has the count {entry.efd.counter}, which is more than one can have"
                )

    def open(self, entry: Any, opening: Opening) -> int:
        """A new one, brought to its count."""
        flags = os.EFD_SEMAPHORE if entry.id in self._semaphores else 0
        fd = os.eventfd(0, flags | os.EFD_CLOEXEC | entry.efd.flags & os.EFD_NONBLOCK)
        if entry.efd.counter:
            os.write(fd, entry.efd.counter.to_bytes(8, "little"))
        return fd


def count(file: OpenFile) -> int:
    """The counter, from fdinfo, where it is hexadecimal."""
    return int(file.fdinfo["eventfd-count"], 16)


def is_semaphore(file: OpenFile) -> bool:
    """EFD_SEMAPHORE: fdinfo has it since Linux 6.5; before, only reading tells."""
    told = file.fdinfo.get("eventfd-semaphore")
    if told is not None:
        return told == "1"
    if count(file) + 2 > MAX_COUNT:
        raise Unsupported(f"{file.name} is so full that it cannot be asked whether it is a semaphore")
    fd = file.borrow()
    try:
        return ask_semaphore(fd)
    finally:
        os.close(fd)


def ask_semaphore(fd: int) -> bool:
    """Read from it and write back what was read; a count of 0 is made 1 for that time.

    A process of its own does it: between the two nobody who kills pycriu may make the count wrong.
    """
    child = libc.fork_deaf()
    if not child:
        status = 2
        try:
            os.setsid()
            status = _read_and_put_back(fd)
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    answer = os.waitstatus_to_exitcode(status)
    if answer not in (0, 1):
        raise PycriuError("an eventfd could not be asked whether it is a semaphore", "use Linux 6.5 or later")
    return answer == 1


def _read_and_put_back(fd: int) -> int:
    """1 for a semaphore, 0 for none."""
    # With 2 or more in it a read tells: a semaphore gives 1. What is added before is taken away after.
    os.write(fd, (2).to_bytes(8, "little"))
    got = int.from_bytes(os.read(fd, 8), "little")
    if got == 1:
        os.read(fd, 8)
        return 1
    if got > 2:
        os.write(fd, (got - 2).to_bytes(8, "little"))
    return 0
