# SPDX-License-Identifier: GPL-2.0-only
"""Which pages of a task have content of their own: PAGEMAP_SCAN where it exists (Linux 6.7), /proc/PID/pagemap else.

Guard pages (MADV_GUARD_INSTALL) are told from others where the ioctl knows them (Linux 6.15).

"Of their own" means anonymous and not the shared zero page, in memory or in swap: what a private mapping holds beyond
its file. See Documentation/admin-guide/mm/pagemap.rst.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct

from pycriu.kernel import procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

Run = tuple[int, int]
"""A run of pages: its first address and its number of pages."""

PAGE_SIZE: int = os.sysconf("SC_PAGESIZE")

_PAGEMAP_SCAN = 0xC0606610  # _IOWR('f', 16, struct pm_scan_arg)
_FILE, _PRESENT, _SWAPPED, _PFNZERO, _GUARD = 1 << 2, 1 << 3, 1 << 4, 1 << 5, 1 << 8
_ARG = struct.Struct("12Q")
_REGION = struct.Struct("3Q")
_REGIONS = 1024

_ENTRY_PRESENT, _ENTRY_SWAPPED, _ENTRY_FILE = 1 << 63, 1 << 62, 1 << 61
_ENTRIES_AT_ONCE = 1 << 15
_NO_ENTRIES = bytes(_ENTRIES_AT_ONCE * 8)


def private_pages(pid: int, spans: Iterable[tuple[int, int]]) -> list[Run]:
    """Runs of the pages with own content within `spans` (start, end; ascending), ascending, neighbours merged."""
    return look(pid, list(spans), [])[0]


def look(pid: int, private: list[tuple[int, int]], guarded: list[tuple[int, int]]) -> tuple[list[Run], list[Run]]:
    """Runs of the pages with own content within the spans `private`, and of guard pages within the spans `guarded`."""
    every = private + guarded
    if not every:
        return [], []
    start, end = min(span[0] for span in every), max(span[1] for span in every)
    fd = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            regions = _scan(fd, start, end)
        except OSError as error:
            if error.errno not in (errno.ENOTTY, errno.EINVAL):
                raise
            return _read(fd, private, page_counts(procfs.text(pid, "smaps"))), []
        content = [(at, to) for at, to, kind in regions if not kind & _GUARD]
        guards = [(at, to) for at, to, kind in regions if kind & _GUARD]
        return _within(content, private), _within(guards, guarded)
    finally:
        os.close(fd)


def _scan(fd: int, start: int, end: int) -> list[tuple[int, int, int]]:
    try:
        return _scan_for(fd, start, end, _PRESENT | _SWAPPED | _GUARD)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return _scan_for(fd, start, end, _PRESENT | _SWAPPED)  # guard pages look like swapped ones


def _scan_for(fd: int, start: int, end: int, tell: int) -> list[tuple[int, int, int]]:
    """Regions: start, end, and which of `tell` they are."""
    found: list[tuple[int, int, int]] = []
    vector = ctypes.create_string_buffer(_REGION.size * _REGIONS)
    not_these = _FILE | _PFNZERO
    while start < end:
        arg = bytearray(
            _ARG.pack(
                _ARG.size, 0, start, end, 0, ctypes.addressof(vector), _REGIONS, 0,
                not_these, not_these, _PRESENT | _SWAPPED, tell,
            )
        )  # fmt: skip
        count = fcntl.ioctl(fd, _PAGEMAP_SCAN, arg, True)
        found += _REGION.iter_unpack(vector.raw[: count * _REGION.size])
        walk_end = _ARG.unpack(arg)[4]
        # When its own buffer was just full, the kernel names an end before regions that it has told (Linux 6.18).
        start = max(walk_end, found[-1][1]) if count else walk_end
    return found


def _within(regions: list[tuple[int, int]], spans: list[tuple[int, int]]) -> list[Run]:
    """The parts of `regions` that lie in `spans`; both ascending and free of overlap."""
    runs: list[tuple[int, int]] = []
    position = 0
    for start, end in regions:
        while position < len(spans) and spans[position][1] <= start:
            position += 1
        at = position
        while at < len(spans) and spans[at][0] < end:
            _append(runs, max(start, spans[at][0]), min(end, spans[at][1]))
            at += 1
    return [(start, (end - start) // PAGE_SIZE) for start, end in runs]


def append(runs: list[Run], start: int, pages: int) -> None:
    """Add a run behind the others, as part of the last where they touch."""
    if runs and runs[-1][0] + runs[-1][1] * PAGE_SIZE == start:
        runs[-1] = (runs[-1][0], runs[-1][1] + pages)
    else:
        runs.append((start, pages))


def _append(runs: list[tuple[int, int]], start: int, end: int) -> None:
    if runs and runs[-1][1] == start:
        runs[-1] = (runs[-1][0], end)
    else:
        runs.append((start, end))


def _read(fd: int, spans: list[tuple[int, int]], counts: dict[int, int]) -> list[Run]:
    """Entry by entry. A zero page cannot be told from others here and counts as content.

    `counts` says how many pages a mapping has in memory or in swap, by its first address: where it has none, and once
    all have been seen, the rest is not looked at. A terabyte of entries takes a second or two.
    """
    runs: list[tuple[int, int]] = []
    for start, end in spans:
        left = counts.get(start, end)
        for address in range(start, end, _ENTRIES_AT_ONCE * PAGE_SIZE):
            if not left:
                break
            pages = min(_ENTRIES_AT_ONCE, (end - address) // PAGE_SIZE)
            data = os.pread(fd, pages * 8, address // PAGE_SIZE * 8)
            if data == _NO_ENTRIES[: len(data)]:
                continue
            for index, entry in enumerate(memoryview(data).cast("Q")):
                if not entry & (_ENTRY_PRESENT | _ENTRY_SWAPPED):
                    continue
                left = max(left - 1, 0)
                if not entry & _ENTRY_FILE:
                    page = address + index * PAGE_SIZE
                    _append(runs, page, page + PAGE_SIZE)
    return [(start, (end - start) // PAGE_SIZE) for start, end in runs]


def page_counts(smaps: str) -> dict[int, int]:
    """How many pages each mapping has in memory or in swap, by its first address; smaps counts in KiB."""
    found: dict[int, int] = {}
    start = 0
    for line in smaps.split("\n"):
        if line.startswith(("Rss:", "Swap:", "Private_Hugetlb:", "Shared_Hugetlb:")):
            found[start] = found.get(start, 0) + (int(line.split()[1]) << 10) // PAGE_SIZE
        elif line and not line[0].isupper():
            start = int(line.partition("-")[0], 16)
            found[start] = 0
    return found
