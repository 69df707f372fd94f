# SPDX-License-Identifier: GPL-2.0-only
"""Huge pages of private mappings: whether there are enough. Those of shared memory are taken when it is made, earlier.

Tasks that share private huge pages since a fork(2) get copies of their own, so a tree may need more than it had.
"""

from __future__ import annotations

import os

from pycriu.errors import ImageError, UserError
from pycriu.images.catalogue import ANON_PRIVATE
from pycriu.resources.memory.mappings import MAP_HUGE_SHIFT, MAP_HUGETLB, MAP_NORESERVE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pycriu.resources.memory.plan import Plan

_POOLS = "/sys/kernel/mm/hugepages"
_SHIFTS = 0x3F


def check(plans: list[Plan]) -> None:
    """UserError where fewer huge pages of a size are free than the private mappings of all tasks take or reserve."""
    wanted: dict[int, int] = {}
    for plan in plans:
        for vma in plan.vmas:
            if not vma.flags & MAP_HUGETLB or not vma.status & ANON_PRIVATE:
                continue
            shift = vma.flags >> MAP_HUGE_SHIFT & _SHIFTS
            size = 1 << shift if shift else default_size()  # CRIU does not say which
            if vma.start % size or vma.end % size:
                raise ImageError(f"the mapping {vma.start:x}-{vma.end:x} of huge pages is not aligned to them")
            filled = vma.start in plan.filled
            if filled or not vma.flags & MAP_NORESERVE:
                wanted[size] = wanted.get(size, 0) + (vma.end - vma.start) // size
    for size, pages in wanted.items():
        free = available(size)
        if free < pages:
            raise UserError(
                f"{pages} huge pages of {size >> 10} KiB are needed, {free} are free",
                f"raise {_POOLS}/hugepages-{size >> 10}kB/nr_hugepages",
            )


def default_size() -> int:
    """Bytes of the huge pages that are meant where no size is said."""
    with open("/proc/meminfo", "rb") as file:
        return next((int(line.split()[1]) << 10 for line in file if line.startswith(b"Hugepagesize:")), 1 << 21)


def available(size: int) -> int:
    """Huge pages of `size` bytes that nobody has or has reserved, with those that may be made on demand."""
    pool = f"{_POOLS}/hugepages-{size >> 10}kB"
    if not os.path.isdir(pool):
        return 0
    free, reserved, more, made = (
        _number(f"{pool}/{name}")
        for name in ("free_hugepages", "resv_hugepages", "nr_overcommit_hugepages", "surplus_hugepages")
    )
    return free - reserved + more - made


def _number(path: str) -> int:
    with open(path, "rb") as file:
        return int(file.read())
