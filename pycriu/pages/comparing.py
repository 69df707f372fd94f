# SPDX-License-Identifier: GPL-2.0-only
"""Pages into a file, but for those that earlier images have with the same content: read both, compare, write the rest.

Works with every kernel on every CPU, and cannot be wrong about what has changed. It costs reading both.
"""

from __future__ import annotations

import ctypes
import os

from pycriu.errors import ImageError
from pycriu.kernel.pagemap import PAGE_SIZE, Run, append
from pycriu.pages.copying import Batch, Buffer, batches, in_halves, write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pycriu.pages.imagefiles import Source

    Read = Callable[[memoryview, int, Batch], list[tuple[int, int]]]
    """A buffer, its address, what to read into it; the pieces that were there, which lie one after the other."""

_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]


class Comparison:
    """What earlier images have of one task or object, by address: for each, the descriptor and offset of its page."""

    def __init__(self, sources: list[Source]) -> None:
        self._known = sorted(
            (start, start + pages * PAGE_SIZE, fd, offset) for fd, runs in sources for start, pages, offset in runs
        )
        self.has = merged([(start, (end - start) // PAGE_SIZE) for start, end, _, _ in self._known])

    def cursor(self) -> Cursor:
        """For one who looks at ascending addresses."""
        return Cursor(self._known)


class Cursor:
    """A place among what is known."""

    def __init__(self, known: list[tuple[int, int, int, int]]) -> None:
        self._known, self._at = known, 0

    def pieces(self, address: int, size: int) -> list[tuple[int, int, int, int]]:
        """`size` bytes at `address` cut: (position, size, descriptor, offset); descriptor -1: not known.

        To be called with ascending addresses.
        """
        known, found = self._known, []
        at, end = address, address + size
        while at < end:
            while self._at < len(known) and known[self._at][1] <= at:
                self._at += 1
            low, high, fd, offset = known[self._at] if self._at < len(known) else (end, end, -1, 0)
            if at < low:
                take = min(low, end) - at
                found.append((at - address, take, -1, 0))
            else:
                take = min(high, end) - at
                found.append((at - address, take, fd, offset + at - low))
            at += take
        return found


def copy(read: Read, runs: list[Run], known: Comparison, out: int) -> tuple[list[Run], list[Run]]:
    """Write what has changed to `out`, from its beginning; the runs written, and those that `known` has."""
    ours, theirs = Buffer(), Buffer()
    written: list[Run] = []
    inherited: list[Run] = []
    end = 0
    cursor = known.cursor()
    for batch in batches(runs):
        position = 0
        for address, size in read(ours.view[: batch.size], ours.address, batch):
            for at, length, fd, offset in cursor.pieces(address, size):
                same = _same_pages(ours, theirs, position + at, length, fd, offset)
                for first, pages, equal in same:
                    append(inherited if equal else written, address + at + first, pages)
                    if not equal:
                        start = position + at + first
                        end = write_all(out, ours.view[start : start + pages * PAGE_SIZE], end)
            position += size
    return written, inherited


def compare(read: Read, runs: list[Run], known: Comparison) -> tuple[list[Run], list[Run]]:
    """The runs that have changed, and those that `known` has. Who has the memory must stand still."""

    def work(some: list[Batch], given_up: Sequence[bool]) -> list[tuple[int, int, bool]]:
        ours, theirs, cursor = Buffer(), Buffer(), known.cursor()
        found: list[tuple[int, int, bool]] = []
        for batch in some:
            if given_up:
                break
            position = 0
            for address, size in read(ours.view[: batch.size], ours.address, batch):
                for at, length, fd, offset in cursor.pieces(address, size):
                    same = _same_pages(ours, theirs, position + at, length, fd, offset)
                    found += [(address + at + first, pages, equal) for first, pages, equal in same]
                position += size
        return found

    changed: list[Run] = []
    inherited: list[Run] = []
    for start, pages, equal in in_halves(work, batches(both(runs, known.has))):
        append(inherited if equal else changed, start, pages)
    return union(changed + without(runs, known.has)), inherited


def _same_pages(ours: Buffer, theirs: Buffer, at: int, size: int, fd: int, offset: int) -> list[tuple[int, int, bool]]:
    """Runs of pages that are equal, or not: offset in bytes, pages, which."""
    if fd < 0:
        return [(0, size // PAGE_SIZE, False)]
    if os.preadv(fd, [theirs.view[at : at + size]], offset) != size:
        raise ImageError("a pages image of the parent ends before its last page")
    if not _memcmp(ours.address + at, theirs.address + at, size):
        return [(0, size // PAGE_SIZE, True)]
    found: list[tuple[int, int, bool]] = []
    for page in range(0, size, PAGE_SIZE):
        equal = not _memcmp(ours.address + at + page, theirs.address + at + page, PAGE_SIZE)
        if found and found[-1][2] == equal:
            found[-1] = (found[-1][0], found[-1][1] + 1, equal)
        else:
            found.append((page, 1, equal))
    return found


def merged(runs: list[Run]) -> list[Run]:
    """Ascending runs, neighbours together."""
    found: list[Run] = []
    for start, pages in runs:
        append(found, start, pages)
    return found


def union(runs: list[Run]) -> list[Run]:
    """Ascending runs that may overlap: each page once. The mappings of a task that runs can be listed twice."""
    found: list[Run] = []
    end = 0
    for start, pages in sorted(runs):
        stop = start + pages * PAGE_SIZE
        if (at := max(start, end)) < stop:
            append(found, at, (stop - at) // PAGE_SIZE)
            end = stop
    return found


def both(left: list[Run], right: list[Run]) -> list[Run]:
    """The pages that are in both lists, which are ascending."""
    found: list[Run] = []
    others = iter(right)
    other = next(others, None)
    for start, pages in left:
        end = start + pages * PAGE_SIZE
        while other is not None:
            low, high = other[0], other[0] + other[1] * PAGE_SIZE
            if max(low, start) < min(high, end):
                append(found, max(low, start), (min(high, end) - max(low, start)) // PAGE_SIZE)
            if high > end:
                break
            other = next(others, None)
    return found


def without(left: list[Run], right: list[Run]) -> list[Run]:
    """The pages of `left` that are not in `right`; both are ascending."""
    found: list[Run] = []
    for start, pages in left:
        append(found, start, pages)
    return _subtract(found, both(left, right))


def _subtract(runs: list[Run], parts: list[Run]) -> list[Run]:
    """`parts`, which lie inside of `runs`, are taken out."""
    found: list[Run] = []
    position = 0
    for start, pages in runs:
        at, end = start, start + pages * PAGE_SIZE
        while position < len(parts) and parts[position][0] < end:
            low, count = parts[position]
            if at < low:
                found.append((at, (low - at) // PAGE_SIZE))
            at = low + count * PAGE_SIZE
            position += 1
        if at < end:
            found.append((at, (end - at) // PAGE_SIZE))
    return found
