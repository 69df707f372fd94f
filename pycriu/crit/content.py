# SPDX-License-Identifier: GPL-2.0-only
"""Where the bytes of memory are: runs of pages in images, in files, in deleted files that the images hold.

A `Stretch` says of a range of addresses (or of offsets in an object) who has its bytes: a `Source` from some offset on,
`ZERO`, or `UNKNOWN` where nobody here does. Lists of them are in ascending order and do not overlap.
"""

from __future__ import annotations

import bisect
import errno
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from pycriu.errors import ImageError
from pycriu.images.catalogue import PARENT, PRESENT, PUNCHED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

PIECE = 1 << 20  # bytes that are read at once


class Source:
    """Bytes by offset: a file that is open."""

    def __init__(self, name: str, file: Any) -> None:
        self.name, self.file = name, file

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes; ImageError where the file ends before."""
        self.file.seek(offset)
        found = b""
        while len(found) < size:
            piece = self.file.read(size - len(found))
            if not piece:
                raise ImageError(f"{self.name}: ends in the middle of a page at {offset + len(found)}")
            found += piece
        return found

    def close(self) -> None:
        """Close the file."""
        self.file.close()


class Nobody(Source):
    """No bytes: a run of zeros, or what is not known here."""

    def __init__(self, name: str) -> None:
        super().__init__(name, None)

    def read(self, offset: int, size: int) -> bytes:
        """Zeros."""
        return bytes(size)

    def close(self) -> None:
        """Nothing is open."""


ZERO, UNKNOWN = Nobody("zeros"), Nobody("unknown")


class Stretch(NamedTuple):
    """From `start` up to `end` the bytes are those of `source` from `offset` on."""

    start: int
    end: int
    source: Source
    offset: int

    def cut(self, start: int, end: int) -> Stretch:
        """The part of it that lies between two addresses, both within it."""
        return Stretch(start, end, self.source, self.offset + start - self.start)


def has_content(one: Stretch) -> bool:
    """Whether somebody has bytes for it."""
    return one.source is not ZERO and one.source is not UNKNOWN


def runs(stretches: Iterable[Stretch]) -> Iterator[tuple[int, Iterator[bytes]]]:
    """What has content and follows each other: where it starts, and its bytes in pieces. Each is to be read in turn."""
    rest = iter(stretches)
    held = [next((one for one in rest if has_content(one)), None)]

    def pieces() -> Iterator[bytes]:
        while (one := held[0]) is not None:
            for at in range(one.start, one.end, PIECE):
                yield one.source.read(one.offset + at - one.start, min(PIECE, one.end - at))
            held[0] = next((other for other in rest if has_content(other)), None)
            if held[0] is None or held[0].start != one.end:
                return

    while held[0] is not None:
        yield held[0].start, pieces()


def clipped(stretches: Sequence[Stretch], start: int, end: int) -> Iterator[Stretch]:
    """What of the stretches lies between two addresses."""
    for at in range(bisect.bisect_right(stretches, start, key=lambda one: one.end), len(stretches)):
        one = stretches[at]
        if one.start >= end:
            return
        yield one.cut(max(one.start, start), min(one.end, end))


def over(top: Sequence[Stretch], bottom: Sequence[Stretch], start: int, end: int, rest: Source) -> Iterator[Stretch]:
    """Every byte between two addresses: of the upper stretches, else of the lower ones, else of `rest`."""
    at = start
    for one in clipped(top, start, end):
        if at < one.start:
            yield from _filled(bottom, at, one.start, rest)
        yield one
        at = one.end
    if at < end:
        yield from _filled(bottom, at, end, rest)


def _filled(stretches: Sequence[Stretch], start: int, end: int, rest: Source) -> Iterator[Stretch]:
    at = start
    for one in clipped(stretches, start, end):
        if at < one.start:
            yield Stretch(at, one.start, rest, 0)
        yield one
        at = one.end
    if at < end:
        yield Stretch(at, end, rest, 0)


class Pagemaps:
    """The pagemap images of a checkpoint and of those that it builds upon, nearest first. A scope: it closes files."""

    def __init__(self, layers: Sequence[Any]) -> None:
        self._layers = layers
        self._files: dict[tuple[int, str], Source] = {}

    def __enter__(self) -> Pagemaps:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()
        self._files = {}

    def stretches(self, name: str, page_size: int) -> list[Stretch]:
        """What `pagemap-….img` says, with what lies in parents looked up there; nothing if there is no such image."""
        found: list[Stretch] = []
        for depth in reversed(range(len(self._layers))):
            there = self._layers[depth].exists(name)
            found = self._of_layer(depth, name, page_size, found) if there else []
        return found

    def _of_layer(self, depth: int, name: str, page_size: int, below: list[Stretch]) -> list[Stretch]:
        """The same for one checkpoint, given what the one below it has."""
        head, *entries = self._layers[depth].read(name)
        pages_name = f"pages-{head.pages_id}.img"
        pages = self._pages(depth, pages_name) if any(map(present, entries)) else UNKNOWN
        found: list[Stretch] = []
        end = offset = 0
        for entry in entries:
            start, size = entry.vaddr, page_count(entry) * page_size
            if _has_strange_fields(entry):
                raise ImageError(
                    f"{name}: the pages at {start:#x} are stored in a way that is not known here",
                    "they may be compressed: a later CRIU than 4.2 has written them",
                )
            if start < end or start % page_size or start + size > 1 << 64:
                raise ImageError(f"{name}: the pages at {start:#x} are not aligned, or not behind those before them")
            end = start + size
            if present(entry):
                found.append(Stretch(start, end, pages, offset))
                offset += size
            else:
                found += _filled(below if in_parent(entry) else (), start, end, UNKNOWN)
        if pages is not UNKNOWN and self._layers[depth].exists(PUNCHED):
            found = [part for one in found for part in _without_holes(one, pages)]
        if offset > (has := self._layers[depth].size(pages_name) if offset else 0):
            raise ImageError(f"{name}: promises {offset} bytes of pages, {pages_name} has {has}")
        return [one for one in found if one.end > one.start]

    def _pages(self, depth: int, name: str) -> Source:
        key = depth, name
        if key not in self._files:
            images = self._layers[depth]
            self._files[key] = Source(f"{images.path}/{name}", images.raw(name))
        return self._files[key]


def _without_holes(one: Stretch, pages: Source) -> Iterator[Stretch]:
    """A stretch of a pages image that has given up pages to later ones: what is a hole now is not known any more."""
    if one.source is not pages:
        yield one
        return
    try:
        fd = pages.file.fileno()
    except (AttributeError, OSError):
        raise ImageError(
            f"{pages.name}: which pages were given up to a later dump cannot be told in an archive",
            "unpack it with its holes (tar -xS)",
        ) from None
    end = one.offset + one.end - one.start
    at = one.offset
    for start, stop in [*data_ranges(fd, one.offset, end), (end, end)]:
        if start > at:
            yield Stretch(one.start + at - one.offset, one.start + start - one.offset, UNKNOWN, 0)
        if stop > start:
            yield one.cut(one.start + start - one.offset, one.start + stop - one.offset)
        at = stop


def data_ranges(fd: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Where a file is no hole, between two offsets."""
    at = start
    while at < end:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        if at >= end:
            return
        hole = min(os.lseek(fd, at, os.SEEK_HOLE), end)
        yield at, hole
        at = hole


def _has_strange_fields(entry: Any) -> bool:
    """Whether a message has fields that its schema does not."""
    known = type(entry)()
    known.CopyFrom(entry)
    known.DiscardUnknownFields()
    return bool(known.ByteSize() != entry.ByteSize())


def page_count(entry: Any) -> int:
    """Pages of a pagemap_entry; the wide field came with CRIU 4.2, which leaves the other at 0."""
    count: int = entry.nr_pages if entry.HasField("nr_pages") else entry.compat_nr_pages
    return count


def present(entry: Any) -> bool:
    """Whether the pages are in this checkpoint's pages image; before CRIU 3.0 there were no flags."""
    if not entry.HasField("flags"):
        return not entry.in_parent
    return bool(entry.flags & PRESENT)


def in_parent(entry: Any) -> bool:
    """Whether the pages are in the checkpoint that this one builds upon."""
    return bool(entry.flags & PARENT) if entry.HasField("flags") else bool(entry.in_parent)
