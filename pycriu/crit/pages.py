# SPDX-License-Identifier: GPL-2.0-only
"""Pages by what they hold: zeros, copies of each other, copies of what an earlier checkpoint has at the same place."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from pycriu.crit.content import PIECE, UNKNOWN, Stretch, clipped

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SIZE = 8  # bytes of a digest: two different pages are taken for equal once in 2**64


class Distinct:
    """How many different values there are; exact up to `limit`, an estimate beyond, in memory that does not grow.

    Of the values only those whose lowest `_shift` bits are zero are kept: one of 2**_shift.
    """

    def __init__(self, limit: int = 1 << 18) -> None:
        self._limit, self._shift = limit, 0
        self._kept: set[int] = set()

    def add(self, value: int) -> None:
        """One more value, of 64 bits that are as good as random."""
        if value & ((1 << self._shift) - 1):
            return
        self._kept.add(value)
        while len(self._kept) > self._limit:
            self._shift += 1
            self._kept = {one for one in self._kept if not one & ((1 << self._shift) - 1)}

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._kept) << self._shift

    @property
    def exact(self) -> bool:
        """Whether that is no estimate."""
        return not self._shift


class Census:
    """Counts pages."""

    def __init__(self, page: int) -> None:
        self._page = page
        self._zeros = bytes(page)
        self._distinct = Distinct()
        self._count = self._zero = self._holes = 0

    def take(self, file: Any) -> None:
        """The pages of an open file."""
        while data := file.read(PIECE):
            while len(data) % self._page and (more := file.read(self._page - len(data) % self._page)):
                data += more
            pages = len(data) // self._page
            self._count += pages
            if data.count(0) == len(data):
                self._zero += pages
                continue
            for at in range(0, pages * self._page, self._page):
                one = data[at : at + self._page]
                if one == self._zeros:
                    self._zero += 1
                else:
                    self._distinct.add(digest(one))

    def report(self) -> dict[str, Any]:
        """What was found; `duplicates` are those that equal another one and are not zeros."""
        filled = self._count - self._zero
        distinct = min(self._distinct.count, filled)
        return {
            "size": self._page,
            "pages": self._count,
            "zero": self._zero,
            "duplicates": filled - distinct,
            "exact": self._distinct.exact,
        }


def digest(page: bytes) -> int:
    """A number of 64 bits that tells pages apart."""
    return int.from_bytes(blake2b(page, digest_size=_SIZE).digest(), "little")


def equal_pages(here: Sequence[Stretch], there: Sequence[Stretch], page: int) -> int:
    """How many pages are the same at the same address in both."""
    return sum(1 for one in both(here, there) for same in compared(one, page) if same)


def both(here: Sequence[Stretch], there: Sequence[Stretch]) -> Iterator[tuple[Stretch, Stretch]]:
    """The ranges of addresses that both have the content of."""
    for one in here:
        for other in clipped(there, one.start, one.end):
            if UNKNOWN not in (one.source, other.source):
                yield one.cut(other.start, other.end), other


def compared(pair: tuple[Stretch, Stretch], page: int) -> Iterator[bool]:
    """Page by page, whether two stretches of the same addresses hold the same."""
    length = pair[0].end - pair[0].start
    for at in range(0, length, PIECE):
        size = min(PIECE, length - at)
        data, before = (side.source.read(side.offset + at, size) for side in pair)
        if data == before:
            yield from [True] * -(-size // page)
            continue
        for begin in range(0, size, page):
            yield data[begin : begin + page] == before[begin : begin + page]
