# SPDX-License-Identifier: GPL-2.0-only
"""The images that hold pages: what is in pagemap images, and the contents of shared memory objects in pages images.

A pages image has the pages back to back; its pagemap image names the address (of a task) or the offset (in an object)
of each run. Only what has content is there: holes stay holes.
"""

from __future__ import annotations

import errno
import mmap
import os

from pycriu.errors import ImageError
from pycriu.images import messages as m
from pycriu.images.catalogue import PARENT, PRESENT, PUNCHED
from pycriu.kernel.pagemap import PAGE_SIZE, Run
from pycriu.pages import copying
from pycriu.pages.copying import AT_ONCE
from pycriu.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from pycriu.images.store import ImagesDir, NewCheckpoint

    Placed = list[tuple[int, int, int]]  # address, number of pages, offset in the pages image
    Source = tuple[int, Placed]  # a descriptor of a pages image, which its owner closes, and what is taken from it


class Numbers:
    """Gives out the numbers of pages images, and of shared memory objects, each once."""

    def __init__(self) -> None:
        self._pages = 0
        self._objects: set[int] = set()

    def pages(self) -> int:
        """The number of one more pages image."""
        self._pages += 1
        return self._pages

    def shmem(self, wanted: int) -> int:
        """The number of one more object: `wanted`, which is its inode, unless another has that."""
        number = wanted & 0xFFFFFFFF
        while number in self._objects:
            number = (number + 1) & 0xFFFFFFFF
        self._objects.add(number)
        return number


@record
class Saved:
    """The content of one shared memory object, on its way into the images."""

    shmid: int
    pages_id: int
    runs: tuple[Run, ...]
    in_parent: tuple[Run, ...] = ()

    def write(self, new: NewCheckpoint) -> None:
        """Its pagemap image; nobody need stand still for that. Who keeps its pages elsewhere has that there, too."""
        if new.remote is not None:
            return
        new.write(f"pagemap-shmem-{self.shmid}.img", entries(self.pages_id, self.runs, self.in_parent))


def save(new: NewCheckpoint, numbers: Numbers, fd: int, shmid: int, page_size: int = PAGE_SIZE) -> Saved:
    """Copy the content of an object, open for reading, into a pages image. Who can write to it must stand still."""
    runs = data_runs(fd, os.fstat(fd).st_size, page_size)
    if new.remote is not None:
        new.remote.take_file(fd, shmid, runs)
        return Saved(shmid, 0, tuple(runs))
    pages_id = numbers.pages()
    out = new.create_raw(f"pages-{pages_id}.img").fileno()
    if new.parent is not None:
        written, inherited = new.parent.copy_file(fd, shmid, runs, out)
        return Saved(shmid, pages_id, tuple(written), tuple(inherited))
    copying.copy_file(fd, runs, out)
    return Saved(shmid, pages_id, tuple(runs))


def data_runs(fd: int, size: int, page_size: int = PAGE_SIZE) -> list[Run]:
    """Runs of the pages of a file that are no holes. Huge pages, where lseek(2) sees none, are looked at."""
    if page_size > PAGE_SIZE:
        return _huge_runs(fd, size, page_size)
    runs: list[Run] = []
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA) // PAGE_SIZE
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            raise
        at = os.lseek(fd, start * PAGE_SIZE, os.SEEK_HOLE)
        runs.append((start * PAGE_SIZE, -(-at // PAGE_SIZE) - start))
    return runs


def _huge_runs(fd: int, size: int, page_size: int) -> list[Run]:
    buffer, zeros = bytearray(AT_ONCE), bytes(AT_ONCE)
    runs: list[Run] = []
    for page in range(0, size, page_size):
        for at in range(page, page + page_size, AT_ONCE):
            if os.preadv(fd, [memoryview(buffer)[: page + page_size - at]], at) and buffer != zeros:
                runs.append((page, page_size // PAGE_SIZE))
                break
    return runs


def entries(pages_id: int, runs: Iterable[Run], inherited: Iterable[Run] = ()) -> list[Any]:
    """A pagemap image: the head, then one entry per run, those in the parent among the others."""
    flagged = [(start, pages, PRESENT) for start, pages in runs]
    if inherited:
        flagged = sorted(flagged + [(start, pages, PARENT) for start, pages in inherited])
    low = (1 << 32) - 1
    return [m.pagemap_head(pages_id=pages_id)] + [
        m.pagemap_entry(vaddr=start, compat_nr_pages=pages & low, flags=flags, nr_pages=pages)
        for start, pages, flags in flagged
    ]


def kind(entry: Any) -> int:
    """PRESENT or PARENT: where the pages of an entry are. Old images have other fields for that, or none."""
    if not entry.HasField("flags"):
        return PARENT if entry.in_parent else PRESENT
    found: int = entry.flags & (PRESENT | PARENT)
    if found not in (PRESENT, PARENT):
        raise ImageError(f"the pages at {entry.vaddr:#x} are on another machine ({entry.flags})")
    return found


def count(entry: Any) -> int:
    """How many pages an entry is about."""
    found: int = entry.nr_pages or entry.compat_nr_pages
    return found


def placed(pagemap: list[Any], pages_size: int, page_size: int = PAGE_SIZE) -> list[tuple[int, int, int]]:
    """Address, number of pages, and offset in the pages image (`pages_size` bytes) of every run that is in it."""
    runs, offset = [], 0
    for entry in pagemap:
        if entry.vaddr % page_size:
            raise ImageError(f"the pagemap has pages at {entry.vaddr:#x}, which is not aligned")
        if kind(entry) == PRESENT:
            runs.append((entry.vaddr, count(entry), offset))
            offset += count(entry) * page_size
    if offset > pages_size:
        raise ImageError(f"the pagemap promises {offset} bytes of pages, the pages image has {pages_size}")
    return runs


def in_parent(pagemap: list[Any]) -> list[Run]:
    """The runs that an earlier set of images has, see `lineage`."""
    return [(entry.vaddr, count(entry)) for entry in pagemap if kind(entry) == PARENT]


def refuse_holes(images: ImagesDir, fd: int, runs: Placed) -> None:
    """ImageError where one of the pages in `runs` of the open pages image `fd` was given up to later images."""
    if not images.exists(PUNCHED):
        return
    for address, pages, offset in runs:
        if not pages:
            continue  # which may lie behind the last byte
        hole = os.lseek(fd, offset, os.SEEK_HOLE)
        if hole < offset + pages * PAGE_SIZE:
            raise ImageError(
                f"{images.path}: the page at {address + hole - offset:#x} was given up to a later dump",
                "these images were deduplicated: restore the latest of the chain",
            )


class Content:
    """The content of a shared memory object, as the images have it. `size` is the object's, in bytes."""

    def __init__(self, images: ImagesDir, shmid: int, size: int) -> None:
        self._sources: list[Source] = []
        try:
            self._find(images, f"pagemap-shmem-{shmid}.img", size)
        except BaseException:
            self.close()
            raise

    def _find(self, images: ImagesDir, name: str, size: int) -> None:
        if not images.exists(name):
            return  # CRIU writes none for an object without pages
        head, *pagemap = images.read(name)
        file = images.raw(f"pages-{head.pages_id}.img")  # type: ignore[attr-defined]
        with file:
            runs = placed(pagemap, os.fstat(file.fileno()).st_size)
            if runs:
                refuse_holes(images, file.fileno(), runs)
                self._sources.append((os.dup(file.fileno()), runs))
        if inherited := in_parent(pagemap):
            from pycriu.pages import lineage

            self._sources += lineage.sources(images, name, inherited)
        for _, runs in self._sources:
            for at, pages, _ in runs:
                if at + pages * PAGE_SIZE > -(-size // PAGE_SIZE) * PAGE_SIZE:
                    raise ImageError(f"{name}: pages at {at:#x}, the object has {size} bytes")

    @property
    def empty(self) -> bool:
        """Whether there is nothing to fill in."""
        return not self._sources

    def fill(self, fd: int, size: int) -> None:
        """Write it into an object that has just been made; its last page may be half outside."""
        view = memoryview(mmap.mmap(-1, AT_ONCE))
        for source, runs in self._sources:
            for at, pages, offset in runs:
                for done in range(0, pages * PAGE_SIZE, AT_ONCE):
                    take = min(AT_ONCE, pages * PAGE_SIZE - done, size - at - done)
                    piece = view[: max(take, 0)]
                    if os.preadv(source, [piece], offset + done) != len(piece):
                        raise ImageError("the pages image ends before its last page")
                    while piece:
                        written = os.pwrite(fd, piece, at + done + take - len(piece))
                        piece = piece[written:]

    def fill_mapped(self, view: memoryview) -> None:
        """The same for an object that cannot be written to but through a mapping of it."""
        for source, runs in self._sources:
            for at, pages, offset in runs:
                piece = view[at : at + pages * PAGE_SIZE]
                while piece:
                    got = os.preadv(source, [piece[: 1 << 30]], offset)
                    if not got:
                        raise ImageError("the pages image ends before its last page")
                    piece, offset = piece[got:], offset + got
                piece.release()

    def close(self) -> None:
        """Close the pages images."""
        for source, _ in self._sources:
            os.close(source)
        self._sources = []
