# SPDX-License-Identifier: GPL-2.0-only
"""Which pages have content: the two ways of asking agree, and spans are cut as they should be."""

from __future__ import annotations

import itertools
import mmap
import os
import random

import pytest

from pycriu.kernel import pagemap, procfs
from pycriu.kernel.pagemap import PAGE_SIZE as P


@pytest.mark.parametrize(
    ("regions", "spans", "runs"),
    [
        ([], [(0, 4)], []),
        ([(0, 4)], [], []),
        ([(0, 4)], [(0, 4)], [(0, 4)]),
        ([(0, 10)], [(2, 4), (6, 7)], [(2, 2), (6, 1)]),
        ([(0, 3), (3, 5)], [(0, 9)], [(0, 5)]),
        ([(0, 3), (4, 5)], [(1, 9)], [(1, 2), (4, 1)]),
        ([(0, 100)], [(0, 1), (1, 2), (2, 3)], [(0, 3)]),
        ([(5, 6), (7, 8)], [(0, 5), (6, 7), (8, 9)], []),
        ([(0, 2), (4, 20)], [(1, 5), (10, 12), (19, 30)], [(1, 1), (4, 1), (10, 2), (19, 1)]),
    ],
)
def test_within(regions: list[tuple[int, int]], spans: list[tuple[int, int]], runs: list[tuple[int, int]]) -> None:
    scaled = [[(a * P, b * P) for a, b in one] for one in (regions, spans)]
    assert pagemap._within(*scaled) == [(start * P, pages) for start, pages in runs]


def test_within_against_sets_of_pages() -> None:
    rng = random.Random(1)
    for _ in range(300):
        cuts = [sorted(rng.sample(range(60), rng.randrange(1, 9) * 2)) for _ in range(2)]
        regions, spans = [list(zip(cut[::2], cut[1::2], strict=True)) for cut in cuts]
        pages = {p for a, b in regions for p in range(a, b)} & {p for a, b in spans for p in range(a, b)}
        runs = pagemap._within([(a * P, b * P) for a, b in regions], [(a * P, b * P) for a, b in spans])
        assert [p for start, count in runs for p in range(start // P, start // P + count)] == sorted(pages)
        assert all(a + n * P < b for (a, n), (b, _) in itertools.pairwise(runs)), "neighbours are merged"


def test_both_ways_see_the_pages_that_were_written() -> None:
    area = mmap.mmap(-1, 64 * P, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(mmap.MADV_NOHUGEPAGE)
    import ctypes

    start = ctypes.addressof(ctypes.c_char.from_buffer(area))
    written = [0, 1, 2, 9, 31, 63]
    for page in written:
        area[page * P] = 1
    assert area[20 * P] == 0  # reading brings in the zero page
    spans = [(start, start + 64 * P)]
    found = pagemap.private_pages(os.getpid(), spans)
    assert [(at - start) // P + n for at, count in found for n in range(count)] == written
    with open("/proc/self/pagemap", "rb", buffering=0) as file:
        plain = pagemap._read(file.fileno(), spans, {})
    pages = [(at - start) // P + n for at, count in plain for n in range(count)]
    assert set(written) <= set(pages) <= {*written, 20}


def test_no_spans_no_pages() -> None:
    assert pagemap.private_pages(os.getpid(), []) == []


def test_the_slow_way_looks_at_what_is_there_only() -> None:
    """A terabyte of which two pages are touched: what comes behind the second is not read."""
    import ctypes

    area = mmap.mmap(-1, 1 << 40, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)
    area.madvise(mmap.MADV_NOHUGEPAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(area))
    area[3 * P] = area[70 * P] = 1
    counts = pagemap.page_counts(f"{start:x}-{start + (1 << 40):x} rw-p 0 00:00 0\nRss: {2 * P >> 10} kB\nSwap: 0 kB\n")
    assert counts == {start: 2}
    with open("/proc/self/pagemap", "rb", buffering=0) as file:
        found = pagemap._read(file.fileno(), [(start, start + (1 << 40))], counts)
    assert found == [(start + 3 * P, 1), (start + 70 * P, 1)]


def test_page_counts() -> None:
    smaps = "1000-3000 rw-p 00000000 00:00 0 \nRss: 8 kB\nPss: 4 kB\nSwap: 4 kB\nSwapPss: 4 kB\nVmFlags: rd\n"
    assert pagemap.page_counts(smaps) == {0x1000: (8 << 10) // P + (4 << 10) // P}


@pytest.mark.parametrize("count", [400, 700, 850, 950, 1000, 1024, 1500, 2047, 2500, 3000])
def test_every_page_is_told_once(count: int) -> None:
    """However many regions there are, and wherever the buffers of the kernel are full."""
    with mmap.mmap(-1, count * 2 * P, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
        for page in range(0, count * 2, 2):
            area[page * P] = 1
        every = [(line.start, line.end) for line in procfs.parse_smaps(procfs.text("self", "smaps")) if line.inode == 0]
        runs = pagemap.private_pages(os.getpid(), [span for span in every if span[1] < 1 << 63])
    assert len(runs) > count
    assert all(start + pages * P <= later for (start, pages), (later, _) in itertools.pairwise(runs))
