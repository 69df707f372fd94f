# SPDX-License-Identifier: GPL-2.0-only
"""The images of a checkpoint, and what has been found about them."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import Any

from pycriu.crit.source import Source
from pycriu.errors import ImageError
from pycriu.images import catalogue, framing, store

ALIVE, DEAD, STOPPED, HELPER, THREAD, ZOMBIE = range(1, 7)  # task_core_entry.task_state
STATES = range(ALIVE, ZOMBIE + 1)
REG = 1  # fd_types

# The field of file_entry that holds what a type says.
FILE_FIELDS = {
    1: "reg", 2: "pipe", 3: "fifo", 4: "isk", 5: "usk", 6: "efd", 7: "epfd", 8: "ify", 9: "sgfd", 10: "psk", 11: "tty",
    12: "ffy", 13: "nlsk", 14: "nsf", 15: "tunf", 16: "ext", 17: "tfd", 18: "memfd", 19: "bpf", 20: "pidfd",
}  # fmt: skip
# Where they were before files.img: image → field.
_OLD_FILES = {
    "reg-files.img": 1, "pipes.img": 2, "fifo.img": 3, "inetsk.img": 4, "unixsk.img": 5, "eventfd.img": 6,
    "eventpoll.img": 7, "inotify.img": 8, "signalfd.img": 9, "packetsk.img": 10, "tty.img": 11, "fanotify.img": 12,
    "netlinksk.img": 13, "ns-files.img": 14, "tunfile.img": 15, "ext-files.img": 16, "timerfd.img": 17,
    "bpfmap-file.img": 19, "pidfd.img": 20,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong."""

    file: str
    entry: int | None  # its place in the file, from 0
    field: str  # empty: the entry as a whole
    text: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"file": self.file, "entry": self.entry, "field": self.field or None, "text": self.text}

    def __str__(self) -> str:
        place = f": entry {self.entry}" if self.entry is not None else ""
        return f"{self.file}{place}{f': {self.field}' if self.field else ''}: {self.text}"


@dataclass(frozen=True, slots=True)
class File:
    """An open file of the images."""

    image: str
    entry: int
    type: int
    what: Any  # reg_file_entry and so on; None where there is none

    @property
    def field(self) -> str:
        """Where the entry has it."""
        return FILE_FIELDS.get(self.type, "")


class Model:
    """Every image read once."""

    def __init__(self, images: Source) -> None:
        self.images = images
        self.findings: list[Finding] = []
        self.names = set(images.names())
        self._entries: dict[str, list[Any]] = {}
        self.lengths: dict[str, list[int]] = {}  # of what follows each entry
        self.broken: set[str] = set()
        for name in sorted(self.names):
            if store.kind_of(name).framing != catalogue.RAW:
                self._read(name)

    def _read(self, name: str) -> None:
        try:
            data = self.images.bytes(name)
            found = list(framing.entries(store.kind_of(name), data, name))
        except (ImageError, OSError, tarfile.TarError) as error:
            self.found(name, str(error).split("\n")[0].removeprefix(f"{name}: ").removeprefix(f"{self.images.path}/"))
            self.broken.add(name)
            return
        self._entries[name] = [message for message, _, _ in found]
        self.lengths[name] = [length for _, _, length in found]

    def found(self, file: str, text: str, entry: int | None = None, field: str = "") -> None:
        """Something is wrong; said once."""
        finding = Finding(file, entry, field, text)
        if finding not in self.findings:
            self.findings.append(finding)

    def has(self, name: str) -> bool:
        """Whether there is such an image, readable or not."""
        return name in self.names

    def entries(self, name: str) -> list[Any]:
        """The entries of an image; none where it is missing or damaged."""
        return self._entries.get(name, [])

    def need(self, name: str, why: str) -> Any:
        """The first entry of an image that must be there; None, and a finding, where it is not."""
        if not self.has(name):
            self.found(name, f"is missing: {why}")
        elif name not in self.broken and not self.entries(name) and not store.kind_of(name).many:
            self.found(name, "has no entry")
        found = self.entries(name)
        return found[0] if found else None

    def once(self, name: str, field: str, noun: str = "") -> None:
        """A finding for each entry of an image whose field, which may lie deeper, has the value of one before."""
        seen: set[Any] = set()
        for number, value in enumerate(map(attrgetter(field), self.entries(name))):
            if value in seen:
                self.found(name, f"{noun} {value} is there twice".removeprefix(" "), number, field)
            seen.add(value)

    def of_stem(self, stem: str) -> Iterator[tuple[str, str]]:
        """Images of one kind: name and what stands behind the dash."""
        for name in sorted(self.names):
            if store.kind_of(name).stem == stem:
                yield name, name.removesuffix(".img").removesuffix(".tar.gz")[len(stem) + 1 :]

    def numbered(self, stem: str, base: int = 10) -> Iterator[tuple[str, int]]:
        """The same with a number; a finding for what is none."""
        for name, suffix in self.of_stem(stem):
            try:
                yield name, int(suffix, base)
            except ValueError:
                self.found(name, "has no number in its name")

    @cached_property
    def is_memory_only(self) -> bool:
        """Whether this is what a pre-dump leaves: pages and page maps, no processes."""
        stems = {store.kind_of(name).stem for name in self.names}
        return "pagemap" in stems and not stems & {"pstree", "core", "files", "ids"}

    @cached_property
    def processes(self) -> list[Any]:
        """pstree.img."""
        return self.entries("pstree.img")

    @cached_property
    def state(self) -> dict[int, int]:
        """PID → task_state; 0 where nothing is known."""
        found = {}
        for process in self.processes:
            cores = self.entries(f"core-{process.pid}.img")
            found[process.pid] = cores[0].tc.task_state if cores else 0
        return found

    @cached_property
    def living(self) -> list[Any]:
        """Processes that have memory and files."""
        return [one for one in self.processes if self.state[one.pid] in (ALIVE, STOPPED)]

    @cached_property
    def threads(self) -> dict[int, int]:
        """Thread → its process; of processes that live."""
        return {tid: one.pid for one in self.living for tid in one.threads}

    @cached_property
    def ids(self) -> dict[int, Any]:
        """PID → task_kobj_ids_entry, of processes that live and have one."""
        found = {}
        for process in self.living:
            core, ids = self.entries(f"core-{process.pid}.img"), self.entries(f"ids-{process.pid}.img")
            if core and core[0].HasField("ids"):
                found[process.pid] = core[0].ids
            elif ids:
                found[process.pid] = ids[0]
        return found

    @cached_property
    def files(self) -> dict[int, File]:
        """Every open file by its id."""
        found: dict[int, File] = {}
        for number, entry in enumerate(self.entries("files.img")):
            field = FILE_FIELDS.get(entry.type, "")
            what = getattr(entry, field) if field and entry.HasField(field) else None
            found.setdefault(entry.id, File("files.img", number, entry.type, what))
        for image, kind in _OLD_FILES.items():
            for number, entry in enumerate(self.entries(image)):
                found.setdefault(entry.id, File(image, number, kind, entry))
        return found

    @property
    def knows_files(self) -> bool:
        """Whether all files could be read: else nothing can be said of references to them."""
        these = {"files.img", *_OLD_FILES}
        return bool(self.names & these) and not self.broken & these

    def files_of(self, kind: int) -> Iterator[tuple[int, File, Any]]:
        """Id, place and entry of all files of one type."""
        for number, file in self.files.items():
            if file.type == kind and file.what is not None:
                yield number, file, file.what

    def refer(self, number: int, kinds: tuple[int, ...], where: tuple[str, int | None, str]) -> None:
        """A finding where no file of these types has the id."""
        if not self.knows_files:
            return
        name, entry, field = where
        file = self.files.get(number)
        if file is None:
            self.found(name, f"{number} is the id of no file", entry, field)
        elif kinds and file.type not in kinds:
            self.found(name, f"file {number} is of type {file.type}, not {' or '.join(map(str, kinds))}", entry, field)
