# SPDX-License-Identifier: GPL-2.0-only
"""Private pages with content: where they are, and how a task gets them back.

Pages of shared memory are its object's, see `objects`.
"""

from __future__ import annotations

import struct

from pycriu.errors import ImageError
from pycriu.images.catalogue import AIORING, KERNEL_MADE, VDSO
from pycriu.kernel import pagemap
from pycriu.kernel.pagemap import PAGE_SIZE, Run
from pycriu.resources.memory.mappings import Mapping
from pycriu.resources.memory.plan import Plan
from pycriu.tracing.tracee import Remote, Row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pycriu.pages.imagefiles import Placed

_IOV_MAX = 1024
_READ_AT_ONCE = 1 << 30  # preadv(2) moves at most 2 GiB less a page in one call


def content(pid: int, mappings: list[Mapping]) -> tuple[list[Run], list[Run]]:
    """Runs of the private pages that go into the image, and of guard pages."""
    ours = [x for x in mappings if not x.status & KERNEL_MADE]
    every = [(x.line.start, x.line.end) for x in ours]
    private = [(x.line.start, x.line.end) for x in ours if is_private(x)]
    runs, guards = pagemap.look(pid, private, every)
    return sorted(runs + kernels_runs(mappings)), guards


def is_private(mapping: Mapping) -> bool:
    """Whether its pages are the task's own; those of droppable memory (Linux 6.11) may be zero at any time."""
    return not mapping.line.shared and "dp" not in mapping.line.flags


def kernels_runs(mappings: list[Mapping]) -> list[Run]:
    """Pages of the vDSO: in the image, they tell a restore whether its kernel has the same. And rings, see `aio`."""
    return [(x.line.start, (x.line.end - x.line.start) // PAGE_SIZE) for x in mappings if x.status & (VDSO | AIORING)]


def fill(remote: Remote, plan_: Plan, pages_fd: int, runs: Placed, page_size: int) -> int:
    """Let the task read `runs` of its pages from the descriptor `pages_fd` of its own; returns how many."""
    kernels = [(vma.start, vma.end) for vma in plan_.vmas if vma.status & KERNEL_MADE]
    pieces = [
        piece
        for address, pages, offset in runs
        for piece in _outside(kernels, address, address + pages * page_size, offset)
    ]
    rows: list[Row] = []
    sizes: list[int] = []
    for group in _contiguous(pieces):
        iov = b"".join(struct.pack("<QQ", address, length) for address, length, _ in group)
        if remote.space < len(iov):
            _read_in(remote, rows, sizes)
        rows.append(Row("preadv", pages_fd, remote.data(iov), len(group), group[0][2], 0, what="reading pages"))
        sizes.append(sum(length for _, length, _ in group))
    _read_in(remote, rows, sizes)
    return sum(length for _, length, _ in pieces) // page_size


def _outside(kernels: list[tuple[int, int]], start: int, end: int, offset: int) -> list[tuple[int, int, int]]:
    """A run less what the kernel fills, as address, length and offset: runs of CRIU's images go on through mappings."""
    pieces = []
    for low, high in sorted(kernels):
        if start < high and low < end:
            pieces.append((start, low - start, offset))
            offset += high - start
            start = high
    pieces.append((start, end - start, offset))
    return [piece for piece in pieces if piece[1] > 0]


def _contiguous(pieces: list[tuple[int, int, int]]) -> list[list[tuple[int, int, int]]]:
    """Groups of pieces that follow each other in the file, none longer than one preadv(2) can take."""
    groups: list[list[tuple[int, int, int]]] = []
    size = end = 0
    for address, length, offset in pieces:
        while length:
            take = min(length, _READ_AT_ONCE)
            if not groups or offset != end or size + take > _READ_AT_ONCE or len(groups[-1]) == _IOV_MAX:
                groups.append([])
                size = 0
            groups[-1].append((address, take, offset))
            address, length, offset, size = address + take, length - take, offset + take, size + take
            end = offset
    return groups


def _read_in(remote: Remote, rows: list[Row], sizes: list[int]) -> None:
    if remote.calls(rows) != sizes:
        raise ImageError("the pages image ends before its last page")
    rows.clear()
    sizes.clear()
    remote.reset()
