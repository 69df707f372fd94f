# SPDX-License-Identifier: GPL-2.0-only
"""Soft-dirty bits: which pages have been written to since /proc/PID/clear_refs was told so (CONFIG_MEM_SOFT_DIRTY).

The bit is one of a page table. The kernel sets it at the next write through that table, takes it along into swap, and
sets it where mremap(2) moves single entries. It does not where mremap moves whole tables (2 MiB, 1 GiB), nor for writes
through other tables, nor for huge pages of hugetlbfs. So a page counts as unchanged only where its whole entry in
/proc/PID/pagemap is what it was: the same page frame, and clean. See Documentation/admin-guide/mm/soft-dirty.rst.
"""

from __future__ import annotations

import ctypes
import mmap
import os

from pycriu.errors import KernelError, TraceeGone
from pycriu.kernel import libc
from pycriu.kernel.pagemap import PAGE_SIZE, Run, append

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

PRESENT, SWAPPED, FILE, EXCLUSIVE, DIRTY = 1 << 63, 1 << 62, 1 << 61, 1 << 56, 1 << 55
FRAME = (1 << 55) - 1  # its number, where we may know it: 0 without CAP_SYS_ADMIN
WORD = 8  # bytes of an entry
_MANY, _FEW = 1024 * WORD, 16 * WORD  # bytes of entries that are compared at once
_ONES = int.from_bytes(b"\1\0\0\0\0\0\0\0" * 16, "little")
_PROT_READ, _PROT_WRITE = 1, 2


def works() -> bool:
    """Whether the bits follow writes here: found out on a page of our own."""
    page = mmap.mmap(-1, PAGE_SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    try:
        with Entries(os.getpid()) as entries:

            def written(value: int) -> bool:
                page[0] = value
                return bool(int.from_bytes(entries.read([(address, 1)]), "little") & DIRTY)

            if not written(1):
                return False
            clear(os.getpid())
            if int.from_bytes(entries.read([(address, 1)]), "little") & DIRTY or not written(2):
                return False
            clear(os.getpid())  # Linux 5.19 let mprotect(2) make a page writable without noticing the next write
            libc.call("mprotect", address, PAGE_SIZE, _PROT_READ)
            libc.call("mprotect", address, PAGE_SIZE, _PROT_READ | _PROT_WRITE)
            return written(3)
    except (OSError, KernelError):
        return False


def clear(pid: int) -> None:
    """Every page of the process is clean from now on; it must stand still."""
    fd = os.open(f"/proc/{pid}/clear_refs", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, b"4")
    finally:
        os.close(fd)


class Entries:
    """/proc/PID/pagemap of one process. A scope."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._fd = -1

    def __enter__(self) -> Entries:
        self._fd = os.open(f"/proc/{self.pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def read(self, runs: list[Run]) -> bytes:
        """The entries of all pages of `runs`, one after the other."""
        found = b"".join(os.pread(self._fd, pages * WORD, start // PAGE_SIZE * WORD) for start, pages in runs)
        if len(found) != sum(pages for _, pages in runs) * WORD:
            raise TraceeGone(f"process {self.pid} has no memory any more")
        return found


def trusted(entry: int) -> bool:
    """Whether it says enough of a page to know that page again: in memory, private, clean, with a frame."""
    return entry & (PRESENT | SWAPPED | FILE | DIRTY) == PRESENT and entry & FRAME != 0


def certain(runs: list[Run], *looks: bytes) -> tuple[list[Run], bytes]:
    """The pages of `runs` whose entries were the same at every look, and can be trusted; and these entries."""
    first = looks[0]
    if all(look == first for look in looks[1:]) and _all_trusted(first):
        return runs, first
    views = [memoryview(look).cast("Q") for look in looks]
    found: list[tuple[int, int]] = []
    kept: list[bytes] = []
    at = 0
    for start, pages in runs:
        for address in range(start, start + pages * PAGE_SIZE, PAGE_SIZE):
            entry = views[0][at]
            if trusted(entry) and len({view[at] | EXCLUSIVE for view in views}) == 1:
                append(found, address, 1)
                kept.append(entry.to_bytes(WORD, "little"))
            at += 1
    return found, b"".join(kept)


def _all_trusted(entries: bytes) -> bool:
    """At once; whether there are frames is seen in the first alone, for they are shown to all or to none."""
    for at in range(0, len(entries), _FEW):
        some = entries[at : at + _FEW]
        ones = _ones(some)
        if int.from_bytes(some, "little") & ones * (PRESENT | SWAPPED | FILE | DIRTY) != ones * PRESENT:
            return False
    return not entries or int.from_bytes(entries[:WORD], "little") & FRAME != 0


def compare(runs: list[Run], before: bytes, now: bytes) -> tuple[list[Run], list[Run]]:
    """The pages of `runs` whose entries are the same as before, but for sharing by fork(2), and those that are dirty.

    The others have not been written to, but there may be another page in their place. `before` is of `certain`.
    """
    same: list[Run] = []
    dirty: list[Run] = []
    at = 0
    for start, pages in runs:
        size = pages * WORD
        for position, count, is_same, is_dirty in _compare(before[at : at + size], now[at : at + size]):
            if is_same or is_dirty:
                append(same if is_same else dirty, start + position * PAGE_SIZE, count)
        at += size
    return same, dirty


def dirty(runs: list[Run], now: bytes) -> list[Run]:
    """The pages of `runs` that are dirty."""
    return compare(runs, b"\xff" * len(now), now)[1]  # no page has such an entry


def _compare(before: bytes, now: bytes) -> Iterator[tuple[int, int, bool, bool]]:
    """Position and number of entries, whether they are the same, whether dirty: many at once, where possible."""
    for many in range(0, len(now), _MANY):
        if now[many : many + _MANY] == before[many : many + _MANY]:
            yield many // WORD, min(_MANY, len(now) - many) // WORD, True, False
            continue
        for few in range(many, min(many + _MANY, len(now)), _FEW):
            old, new = before[few : few + _FEW], now[few : few + _FEW]
            if old == new or _same_but_for_sharing(old, new):
                yield few // WORD, len(new) // WORD, True, False
                continue
            if _all_dirty(new):
                yield few // WORD, len(new) // WORD, False, True
                continue
            pairs = zip(memoryview(old).cast("Q"), memoryview(new).cast("Q"), strict=True)
            for position, (one, other) in enumerate(pairs, few // WORD):
                yield position, 1, one | EXCLUSIVE == other | EXCLUSIVE, bool(other & DIRTY)


def _same_but_for_sharing(old: bytes, new: bytes) -> bool:
    differing = int.from_bytes(old, "little") ^ int.from_bytes(new, "little")
    return not differing & ~(_ones(new) * EXCLUSIVE)


def _all_dirty(some: bytes) -> bool:
    every = _ones(some) * DIRTY
    return int.from_bytes(some, "little") & every == every


def _ones(some: bytes) -> int:
    """A one in each of these entries, which are few."""
    return _ONES & (1 << 8 * len(some)) - 1
