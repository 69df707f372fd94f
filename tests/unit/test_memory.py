# SPDX-License-Identifier: GPL-2.0-only
"""Memory, what can be computed: batches, groups, free room, and images that lie."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from pycriu.arch.aarch64 import AARCH64
from pycriu.arch.x86_64 import X86_64
from pycriu.errors import ImageError, Unsupported
from pycriu.images import catalogue
from pycriu.images import messages as m
from pycriu.kernel import procfs
from pycriu.kernel.pagemap import PAGE_SIZE as P
from pycriu.resources import memory
from pycriu.resources.memory import mappings
from pycriu.resources.memory import pages as memory_pages


def vma(start: int, pages: int, status: int = catalogue.REGULAR | catalogue.ANON_PRIVATE, **more: Any) -> Any:
    fields = {"pgoff": 0, "shmid": 0, "prot": 3, "flags": 0x22, "fd": -1} | more
    return m.vma_entry(start=start, end=start + pages * P, status=status, **fields)


def mm(*vmas: Any) -> Any:
    zero = dict.fromkeys(
        ("mm_start_code", "mm_end_code", "mm_start_data", "mm_end_data", "mm_start_stack", "mm_start_brk", "mm_brk",
         "mm_arg_start", "mm_arg_end", "mm_env_start", "mm_env_end", "exe_file_id"), 0,
    )  # fmt: skip
    return m.mm_entry(vmas=vmas, **zero)


def pages(at: int, count: int, flags: int = catalogue.PRESENT) -> Any:
    return m.pagemap_entry(vaddr=at, compat_nr_pages=count & 0xFFFFFFFF, flags=flags, nr_pages=count)


A = 0x10000000
NOT_ASKED: Any = None  # no file with a path is mapped


@pytest.mark.parametrize("arch", [X86_64, AARCH64], ids=lambda arch: arch.name)
def test_plan(arch: Any) -> None:
    plan = memory.plan(mm(vma(A, 4), vma(A + 4 * P, 4), vma(A + 16 * P, 1)), [pages(A + 2 * P, 4)], 4 * P, P, arch)
    assert plan.runs == [(A + 2 * P, 4, 0)]
    assert plan.filled == {A, A + 4 * P}


@pytest.mark.parametrize(
    ("vmas", "entries", "size", "words"),
    [
        ([vma(A, 4), vma(A + 3 * P, 2)], [], 0, "overlaps"),
        ([vma(A + 9 * P, 4), vma(A, 2)], [], 0, "overlaps"),
        ([vma(A + 1, 4)], [], 0, "not aligned"),
        ([vma(A, 0)], [], 0, "out of bounds"),
        ([vma((1 << 64) - 4 * P, 3)], [], 0, "out of bounds"),
        ([vma(A, 4, status=catalogue.REGULAR | 1 << 20)], [], 0, "kind"),
        ([vma(A, 4, status=catalogue.ANON_PRIVATE)], [], 0, "kind"),
        ([vma(A, 4)], [pages(A, 5)], 5 * P, "where no mapping is"),
        ([vma(A, 4)], [pages(A - P, 1)], P, "where no mapping is"),
        ([vma(A, 4), vma(A + 8 * P, 4)], [pages(A + 2 * P, 8)], 8 * P, "where no mapping is"),
        ([vma(A, 4)], [pages(A, 4)], 4 * P - 1, "promises"),
        ([vma(A, 4)], [pages(A, 1 << 52)], 4 * P, "promises"),
        ([vma(A, 4)], [pages(A, (1 << 64) - 1)], 4 * P, "promises"),
        ([vma(A, 4)], [pages(A + 4 * P, 1, flags=1)], P, "no mapping"),
        ([vma(A, 4)], [pages(A, 1, flags=2)], P, "another machine"),
        ([vma(A, 4), vma(A + 8 * P, 4)], [pages(A + 8 * P, 1), pages(A, 1)], 2 * P, "where no mapping is"),
        ([], [pages(A, 1)], P, "where no mapping is"),
        ([vma(A, 4)], [pages(A + 5, 1)], P, "aligned"),
    ],
)
def test_plan_of_an_image_that_lies(vmas: list[Any], entries: list[Any], size: int, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        memory.plan(mm(*vmas), entries, size, P, X86_64)


def test_contiguous_groups_follow_each_other_in_the_file() -> None:
    rng = random.Random(3)
    pieces, offset = [], 0
    for number in range(5000):
        length = rng.choice((1, 2, 300)) * P
        offset += rng.choice((0, 0, 0, P))
        pieces.append((A + number * (1 << 24), length, offset))
        offset += length
    pieces.append((1 << 40, 5 << 30, offset))
    groups = memory_pages._contiguous(pieces)
    for group in groups:
        assert len(group) <= memory_pages._IOV_MAX
        assert sum(length for _, length, _ in group) <= memory_pages._READ_AT_ONCE
        assert all(a[2] + a[1] == b[2] for a, b in itertools.pairwise(group))
    assert sum(length for group in groups for _, length, _ in group) == sum(length for _, length, _ in pieces)
    assert memory_pages._contiguous([]) == []
    assert memory_pages._contiguous([(A, 0, 0)]) == []


@pytest.mark.parametrize(
    ("busy", "size", "at"),
    [([], 5, 10), ([(0, 12)], 5, 12), ([(12, 14)], 2, 10), ([(12, 14)], 3, 14), ([(50, 60), (10, 20), (20, 47)], 3, 47),
     ([(0, 30), (5, 10)], 4, 30)],
)  # fmt: skip
def test_free_span(busy: list[tuple[int, int]], size: int, at: int) -> None:
    assert memory.free_span(busy, size, 10, 100) == at


def test_no_free_span() -> None:
    with pytest.raises(ImageError, match="no room"):
        memory.free_span([(0, 96)], 5, 10, 100)


def line(perms: str, name: str, flags: str, inode: int = 0) -> procfs.Mapping:
    found = procfs.Mapping(f"7f0000000000-7f0000001000 {perms} 00000000 00:00 {inode} {name}")
    found.flags = tuple(flags.split())
    return found


@pytest.mark.parametrize(
    ("perms", "name", "flags", "words"),
    [
        ("rw-p", "", "rd wr um", "userfaultfd"),
        ("rw-p", "", "rd ss", "shadow stack"),
        ("rw-s", "", "rd sh", "cannot be saved"),
        ("rw-p", "anon_inode:[perf_event]", "rd", "cannot be saved"),
    ],
)
def test_mappings_that_cannot_be_kept(perms: str, name: str, flags: str, words: str) -> None:
    with pytest.raises(Unsupported, match=words):
        mappings.classify(4242, line(perms, name, flags), NOT_ASKED)


def test_mappings_that_the_kernel_made() -> None:
    assert mappings.classify(1, line("r-xp", "[vdso]", "rd sl"), NOT_ASKED).status & catalogue.VDSO
    assert mappings.classify(1, line("r--p", "[vvar]", "rd pf io"), NOT_ASKED).status & catalogue.VVAR
    assert mappings.classify(1, line("--xp", "[vsyscall]", "ex"), NOT_ASKED).status & catalogue.VSYSCALL
    assert mappings.classify(1, line("rw-p", "[heap]", "rd"), NOT_ASKED).status & catalogue.HEAP
    assert mappings.classify(1, line("rw-p", "[anon:name]", "rd"), NOT_ASKED).status & catalogue.ANON_PRIVATE
