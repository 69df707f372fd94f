# SPDX-License-Identifier: GPL-2.0-only
"""The open files of a tree in the making of its images: each once, whatever number of descriptors leads to it."""

from __future__ import annotations

import os

from pycriu.errors import About
from pycriu.fds import owner
from pycriu.fds.kind import Kind
from pycriu.fds.openfile import OpenFile, Place, contents, no_owner
from pycriu.fds.table import Kinds
from pycriu.images import messages as m
from pycriu.kernel import libc
from pycriu.sharing import FileIds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator
    from typing import Any

    from pycriu.images.store import NewCheckpoint
    from pycriu.tracing import pstree

Known = tuple[OpenFile, Kind]
"""A descriptor and the object for its kind."""


class Saving:
    """All files of a dump. Taken while all processes are stopped: kcmp(2) must find them all. The rest can wait."""

    def __init__(self, kinds: Kinds, root: pstree.Process) -> None:
        self.kinds, self.root = kinds, root
        self.insiders = {process.pid for process in root.walk()} | {os.getpid()}  # we have what is in flight
        self.files: dict[int, Known] = {}  # id → one of the descriptors that lead to it
        self._ids = FileIds()
        self._numbers: dict[tuple[int, int], int] = {}
        self._places: dict[tuple[object, ...], tuple[int, Place, int]] = {}
        self._waiting: list[Known] = []
        self._lent: list[Any] = []
        self._owners: dict[int, Any] = {}

    def take(self, descriptors: list[Known], places: list[tuple[Place, int]]) -> None:
        """Everything that the tree has open: `descriptors` of all tasks, and `places` with the flags to open them."""
        for file, kind in descriptors:
            number = self._number(file, kind)
            with About(file):
                self.kinds.locks.gather(file, number)
        while self._waiting:
            round_, self._waiting = self._waiting, []
            for kind in self.kinds.all:
                if mine := [file for file, its in round_ if its is kind]:
                    with About():
                        kind.gather(mine, self)
        for place, flags in places:
            self.place(place, flags)
        self.kinds.regular.gather_places(list(self._places.values()), self)
        for kind in self.kinds.all:
            with About():
                kind.settle(self)
        self._gather_owners()

    def _gather_owners(self) -> None:
        pidfds: dict[int, int] = {}
        regular = self.kinds.regular
        try:
            for number, (file, kind) in self.files.items():
                if file.pid not in pidfds:
                    pidfds[file.pid] = os.pidfd_open(file.pid)
                fd = libc.pidfd_getfd(pidfds[file.pid], file.fd)
                with About(file):
                    self._gather_owner(number, file, fd, regular if kind is regular else None)
        finally:
            for pidfd in pidfds.values():
                os.close(pidfd)

    def _gather_owner(self, number: int, file: OpenFile, fd: int, regular: Any) -> None:
        kept = False
        try:
            found = owner.look(file, fd)
            kept = regular is not None and regular.keep(number, file, fd)
        finally:
            if not kept:
                os.close(fd)
        if found is not None:
            owner.refuse_outsider(file, found, self.root)
            self._owners[number] = found

    def number_of(self, pid: int, fd: int) -> int | None:
        """The id of the open file behind a descriptor; None where the tree has no such descriptor."""
        return self._numbers.get((pid, fd))

    def unseen(self, files: list[OpenFile], seen: Container[int]) -> Iterator[tuple[int, OpenFile]]:
        """The open files behind descriptors, by id, but for those that are among `seen`, which may grow meanwhile."""
        for file in files:
            number = self.number_of(file.pid, file.fd)
            if number is not None and number not in seen:
                yield number, file

    def find(self, inode: int, compare: Callable[[OpenFile], int]) -> int | None:
        """The id of a file that only the kernel can compare with those that we have; see sharing.FileIds.find."""
        return self._ids.find(inode, compare)

    def descriptors_of(self, number: int) -> list[tuple[int, int]]:
        """Every (PID, descriptor) that leads to the file of an id."""
        return [at for at, found in self._numbers.items() if found == number]

    def adopt(self, file: OpenFile) -> int:
        """The id of a file that a kind has come across while it gathered, which may be in nobody's table.

        `file` is a descriptor of our own for it, which must stay open until the images are written.
        """
        kind = self.kinds.of(file)
        return self._number(file, kind)

    def _number(self, file: OpenFile, kind: Kind) -> int:
        number, first = self._ids.of(file)
        self._numbers[file.pid, file.fd] = number
        if first:
            self.files[number] = file, kind
        self._waiting.append((file, kind))
        return number

    def fresh(self) -> int:
        """An id that nothing has."""
        return self._ids.fresh()

    def place(self, place: Place, flags: int = os.O_RDONLY) -> int:
        """The id of a file that is referred to by path: a mapping's, the program's, a directory's."""
        key = (place.path, flags, place.status.st_dev, place.status.st_ino)
        if key not in self._places:
            self._places[key] = self.fresh(), place, flags
        return self._places[key][0]

    def lend(self, path: str, flags: int, status: os.stat_result) -> int:
        """The id of an entry that is in the image for its path alone: its kind opens that itself."""
        number = self.fresh()
        reg = m.reg_file_entry(id=number, flags=flags, pos=0, fown=no_owner(), name=path, mode=status.st_mode)
        self._lent.append(m.file_entry(type=self.kinds.regular.TYPE, id=number, reg=reg))
        return number

    def lend_entry(self, entry: Any) -> None:
        """An entry to which no descriptor leads: its kind says so at the restore, too (`Kind.lent`)."""
        self._lent.append(entry)

    def write(self, new: NewCheckpoint) -> None:
        """The files image, and those that the kinds have beside it."""
        new.write("files.img", self.entries())
        self.kinds.locks.write(new)
        for kind in self.kinds.all:
            kind.write(new)

    def entries(self) -> list[Any]:
        """One file_entry per open file and place."""
        found = [self._entry(number, file, kind) for number, (file, kind) in self.files.items()]
        regular = self.kinds.regular
        found += [regular.place_entry(number, place, flags) for number, place, flags in self._places.values()]
        return self._lent + found + regular.extra_entries(self)  # CRIU looks for what is lent among what it has read

    def _entry(self, number: int, file: OpenFile, kind: Kind) -> Any:
        entry = kind.dump(file, number, self)
        if number in self._owners and hasattr(contents(entry), "fown"):
            contents(entry).fown.CopyFrom(self._owners[number])
        return entry

    def owner_of(self, file: OpenFile) -> Any:
        """fown_entry of an open file that has an owner; else None."""
        return self._owners.get(self._numbers[file.pid, file.fd])
