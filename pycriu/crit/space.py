# SPDX-License-Identifier: GPL-2.0-only
"""The memory of the processes of a checkpoint, by address: mappings, and who has the bytes of each.

What a private mapping has beyond its file is in the process's own pages image. What is shared lies once, under the
number of its object. The rest of a file mapping is in the file, which may be here, may have changed since, or may be in
the images because it was deleted.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from pycriu.crit.content import UNKNOWN, ZERO, Pagemaps, Source, Stretch, over
from pycriu.crit.source import chain, open_source
from pycriu.errors import ImageError, UserError
from pycriu.fds import validation
from pycriu.images import framing, payloads, schema, store
from pycriu.images.catalogue import (
    AIORING,
    ANON_SHARED,
    FILE_PRIVATE,
    FILE_SHARED,
    MAP_GROWSDOWN,
    MEMFD,
    SYSVIPC,
    VSYSCALL,
    VVAR,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

AT_PAGESZ = 6
PAGE_SIZES = (4096, 8192, 16384, 65536)
GUARD = 1 << 16  # vma_entry.status: guard pages inside of another mapping
_GHOST, _LINKED = 1, 0
_CHUNK_ROOM = 64
_ALIVE = (1, 3)  # task_state of what has memory: running, and stopped

NAMES = (  # a bit of vma_entry.status and what such a mapping is called
    (1 << 2, "[vsyscall]"), (1 << 3, "[vdso]"), (1 << 12, "[vvar]"), (1 << 13, "[aio]"), (1 << 1, "[stack]"),
    (1 << 5, "[heap]"),
)  # fmt: skip


@contextmanager
def opened(path: str) -> Iterator[list[store.Images]]:
    """The images at `path`, a directory or an archive, and those that they build upon, nearest first."""
    with open_source(path) as source:
        layers = chain(source)
        try:
            yield [*layers]
        finally:
            for parent in layers[1:]:
                parent.close()


class Process:
    """One live process: its entry in the tree, and its mappings."""

    def __init__(self, entry: Any, core: Any, mm: Any) -> None:
        self.pid: int = entry.pid
        self.entry, self.core, self.mm = entry, core, mm
        self.page_size = page_size(mm)
        self.vmas = [vma for vma in mm.vmas if not vma.status & GUARD]
        end = 0
        for vma in self.vmas:
            aligned = not vma.start % self.page_size and not vma.end % self.page_size
            if not aligned or not end <= vma.start < vma.end <= 1 << 64:
                raise ImageError(
                    f"mm-{self.pid}.img: the mapping {vma.start:x}-{vma.end:x} is not aligned, or overlaps another"
                )
            end = vma.end

    @property
    def name(self) -> str:
        """The name of the process."""
        comm: str = self.core.tc.comm
        return comm


def page_size(mm: Any) -> int:
    """The size of a page, as the auxiliary vector tells it; 4096 where there is none."""
    vector = list(mm.mm_saved_auxv)
    size = dict(zip(vector[::2], vector[1::2], strict=False)).get(AT_PAGESZ, 4096)
    if size not in PAGE_SIZES:
        raise ImageError(f"the auxiliary vector says that a page has {size} bytes")
    return int(size)


def processes(images: Any) -> list[Process]:
    """Every process of a checkpoint that has memory, in the order of the tree."""
    found = []
    for entry in images.read("pstree.img"):
        core = images.read_one(f"core-{entry.pid}.img")
        if not core.HasField("tc") or core.tc.task_state in _ALIVE:
            found.append(Process(entry, core, _mm(images, entry.pid)))
    return found


def _mm(images: Any, pid: int) -> Any:
    """The memory of a process; images of old have the mappings in a file of their own."""
    mm = images.read_one(f"mm-{pid}.img")
    if not mm.vmas and images.exists(f"vmas-{pid}.img"):
        mm.vmas.extend(images.read(f"vmas-{pid}.img"))
    return mm


class Files:
    """The files that mappings name, by their id in the images."""

    def __init__(self, images: Any) -> None:
        self.regs: dict[int, Any] = {}
        self._memfds: dict[int, int] = {}
        self._remaps: dict[int, Any] = {}
        inodes = {one.inode_id: one for one in _read(images, "memfd.img")}
        for entry in _read(images, "files.img"):
            if entry.HasField("reg"):
                self.regs[entry.reg.id] = entry.reg
            elif entry.HasField("memfd") and entry.memfd.inode_id in inodes:
                self._memfds[entry.id] = entry.memfd.inode_id
        self.regs |= {entry.id: entry for entry in _read(images, "reg-files.img")}
        self._inodes = inodes
        self._remaps = {entry.orig_id: entry for entry in _read(images, "remap-fpath.img")}
        self.known = validation.Notes()
        self.known.read(images)

    def path(self, number: int) -> str:
        """The path of a file, the name of a memfd; empty where the images do not say."""
        if number in self.regs:
            path: str = self.regs[number].name
            return path
        if number in self._memfds:
            return f"/memfd:{self._inodes[self._memfds[number]].name}"
        return ""

    def shmid(self, number: int) -> int | None:
        """The number of the shared memory object behind a memfd."""
        inode = self._memfds.get(number)
        return None if inode is None else self._inodes[inode].shmid

    def ghost(self, number: int) -> int | None:
        """The number of the ghost image that has a deleted file."""
        remap = self._remaps.get(number)
        return remap.remap_id if remap is not None and remap.remap_type == _GHOST else None

    def on_disk(self, number: int) -> Any:
        """The entry of the path that leads to a file: its own, or the one of a link that a dump has made."""
        remap = self._remaps.get(number)
        if remap is not None and remap.remap_type == _LINKED:
            return self.regs.get(remap.remap_id)
        return None if remap is not None else self.regs.get(number)


def _read(images: Any, name: str) -> list[Any]:
    return list(images.read(name)) if images.exists(name) else []


class Memory:
    """Whose bytes lie where. A scope: it closes the files that it opens.

    `layers` are the images, and those that they build upon. With `from_disk`, files below `root` are read that mappings
    are of; `remarks` tells of those that are not what they were.
    """

    def __init__(self, layers: Sequence[Any], *, from_disk: bool = False, root: str = "/") -> None:
        self._images, self._from_disk, self._root = layers[0], from_disk, root
        self.files = Files(layers[0])
        self.remarks: list[str] = []
        self._pagemaps = Pagemaps(layers)
        self._objects: dict[tuple[str, int], list[Stretch]] = {}
        self._open: list[Source] = []
        self._segments: dict[int, tuple[Any, bytes]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pagemaps.__exit__()
        for source in self._open:
            source.close()
        self._open = []

    def own_pages(self, process: Process) -> list[Stretch]:
        """The private pages of a process."""
        return self._pagemaps.stretches(f"pagemap-{process.pid}.img", process.page_size)

    def stretches(self, process: Process, vma: Any, own: Sequence[Stretch]) -> Iterator[Stretch]:
        """All of a mapping, from its start to its end; `own` is from `own_pages`."""
        rest: Source = ZERO
        below: Sequence[Stretch] = ()
        if vma.status & (VSYSCALL | VVAR | AIORING):
            rest = UNKNOWN
        elif kind := object_kind(vma):
            below, rest = self._object(kind, vma, process)
        return over(own, [_moved(one, vma) for one in below], vma.start, vma.end, rest)

    def name(self, vma: Any) -> str:
        """What a mapping is of, as /proc/PID/maps would name it."""
        if vma.status & (FILE_PRIVATE | FILE_SHARED):
            return self.files.path(vma.shmid)
        if vma.status & SYSVIPC:
            return f"/SYSV (id {vma.shmid})"
        if vma.status & ANON_SHARED:
            return f"/dev/zero (shared memory {vma.shmid})"
        if vma.flags & MAP_GROWSDOWN:
            return "[stack]"
        return next((name for bit, name in NAMES if vma.status & bit), "")

    def _object(self, kind: str, vma: Any, process: Process) -> tuple[list[Stretch], Source]:
        """The content of what is mapped by offset, and what lies where it has none."""
        key = kind, vma.shmid
        if key not in self._objects:
            self._objects[key] = list(_READERS[kind](self, vma.shmid, process))
        found = self._objects[key]
        return found, UNKNOWN if kind == "file" else ZERO

    def _shared(self, shmid: int, process: Process) -> list[Stretch]:
        return self._pagemaps.stretches(f"pagemap-shmem-{shmid}.img", process.page_size)

    def _memfd(self, number: int, process: Process) -> list[Stretch]:
        shmid = self.files.shmid(number)
        if shmid is None:
            raise ImageError(f"mm-{process.pid}.img: file {number}, which is mapped, is no memfd of these images")
        return self._shared(shmid, process)

    def _sysv(self, shmid: int, process: Process) -> list[Stretch]:
        if self._segments is None:
            names = [name for name in self._images.names() if name.startswith("ipcns-shm-")]
            pairs = [pair for name in names for pair in self._images.read_with_payloads(name)]
            self._segments = {entry.desc.id: (entry, payload) for entry, payload in pairs}
        entry, payload = self._segments.get(shmid, (None, b""))
        if entry is None or entry.in_pagemaps:
            return self._shared(shmid, process)
        return [Stretch(0, len(payload), _Bytes(f"segment {shmid}", payload), 0)] if payload else []

    def _file(self, number: int, process: Process) -> list[Stretch]:
        ghost = self.files.ghost(number)
        if ghost is not None:
            return self._ghost(f"ghost-file-{ghost:x}.img", process.page_size)
        reg = self.files.on_disk(number)
        return self._disk(number, reg, process.page_size) if self._from_disk and reg is not None else []

    def _disk(self, number: int, reg: Any, page: int) -> list[Stretch]:
        """A file of this machine, if it is the one of the dump."""
        reg = type(reg).FromString(reg.SerializeToString())
        reg.name = os.path.join(self._root, reg.name.lstrip("/"))
        try:
            fd = os.open(reg.name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            self.remarks.append(f"{reg.name}: {getattr(error, 'strerror', None) or error}; its pages are left out")
            return []
        file = open(fd, "rb", buffering=0)  # noqa: SIM115 - the memory closes it
        status = os.fstat(fd)
        try:
            if not stat.S_ISREG(status.st_mode):
                raise UserError(f"{reg.name} is no regular file")
            validation.check_content(status, reg, self.files.known.of(number), validation.MTIME)
        except UserError as error:
            self.remarks.append(f"{error.message}; its pages are left out")
            file.close()
            return []
        source = _Padded(reg.name, file)
        self._open.append(source)
        size = -(-status.st_size // page) * page
        return [Stretch(0, size, source, 0)] if size else []

    def _ghost(self, name: str, page: int) -> list[Stretch]:
        """A deleted file out of its image."""
        file = self._images.raw(name)
        source = _Padded(name, file)
        self._open.append(source)
        head: tuple[Any, int] = framing.head(store.kind_of(name), file.read(framing.HEAD_ROOM), name)
        entry, at = head
        end = file.seek(0, os.SEEK_END)
        if not entry.chunks:
            return [Stretch(0, -(-(end - at) // page) * page, source, at)] if end > at else []
        found: list[Stretch] = []
        behind = 0
        while at < end:
            chunk, length = _nested(source.read(at, min(_CHUNK_ROOM, end - at)), name)
            at += length
            if chunk.len > end - at or chunk.off < behind or chunk.off + chunk.len > entry.size:
                raise ImageError(f"{name}: a chunk of {chunk.len} bytes at {chunk.off} is out of bounds")
            behind = chunk.off + chunk.len
            if chunk.len:
                found.append(Stretch(chunk.off, behind, source, at))
            at += chunk.len
        whole = -(-entry.size // page) * page
        return list(over(found, (), 0, whole, ZERO))


def object_kind(vma: Any) -> str:
    """What a mapping gets its bytes from beside the process's own pages; empty for private memory."""
    if vma.status & MEMFD:
        return "memfd"
    if vma.status & SYSVIPC:
        return "sysv"
    if vma.status & ANON_SHARED:
        return "shared"
    return "file" if vma.status & (FILE_PRIVATE | FILE_SHARED) else ""


_READERS = {"memfd": Memory._memfd, "sysv": Memory._sysv, "shared": Memory._shared, "file": Memory._file}


def _moved(one: Stretch, vma: Any) -> Stretch:
    """A stretch of an object as it lies in a mapping of it, which may begin in its middle."""
    by = vma.start - vma.pgoff
    return Stretch(one.start + by, one.end + by, one.source, one.offset)


def _nested(data: bytes, name: str) -> tuple[Any, int]:
    found, length = payloads.nested("ghost_chunk_entry", memoryview(data), 0)
    if found is None:
        raise ImageError(f"{name}: no ghost_chunk_entry where one is due")
    return found, length


def kind_name(value: int) -> str:
    """fd_types by number."""
    return next((name for name, number in schema.enum("fd_types").items() if number == value), str(value))


class _Padded(Source):
    """A file whose last page is filled up with zeros."""

    def read(self, offset: int, size: int) -> bytes:
        self.file.seek(offset)
        found = b""
        while len(found) < size and (piece := self.file.read(size - len(found))):
            found += piece
        return found.ljust(size, b"\0")


class _Bytes(Source):
    """Bytes that are in memory."""

    def __init__(self, name: str, data: bytes) -> None:
        super().__init__(name, None)
        self._data = data

    def read(self, offset: int, size: int) -> bytes:
        return self._data[offset : offset + size].ljust(size, b"\0")

    def close(self) -> None:
        """Nothing is open."""
