# SPDX-License-Identifier: GPL-2.0-only
"""What an image says of a task's memory, checked."""

from __future__ import annotations

import os

from pycriu.errors import ImageError
from pycriu.images.catalogue import AIORING, ANON_SHARED, FILE_SHARED, KNOWN_STATUS, REGULAR, SYSVIPC, VSYSCALL
from pycriu.kernel.pagemap import PAGE_SIZE
from pycriu.pages import imagefiles
from pycriu.resources.memory import advice
from pycriu.resources.memory.mappings import MAP_SHARED, PROT_WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from pycriu.arch.description import Arch
    from pycriu.images.own import Facts
    from pycriu.kernel.pagemap import Run
    from pycriu.pages.imagefiles import Source


class Plan:
    """The memory of one task to be: its mappings and the runs of its pages with their place in the pages image."""

    __slots__ = ("facts", "filled", "guards", "in_parent", "inherited", "mm", "runs", "vmas")

    def __init__(self, mm: Any, runs: list[tuple[int, int, int]], in_parent: Iterable[Run] = ()) -> None:
        self.mm = mm
        self.vmas = [vma for vma in mm.vmas if not vma.status & (VSYSCALL | advice.GUARD)]
        self.guards = [vma for vma in mm.vmas if vma.status & advice.GUARD]
        self.facts: Facts = {}  # see `advice`
        self.runs = runs  # address, pages, offset in the pages image
        self.in_parent = list(in_parent)
        self.inherited: list[Source] = []  # where these are
        self.filled: set[int] = set()  # where the mappings start that have pages

    def is_filled(self, vma: Any) -> bool:
        """Whether the task must write its pages into this mapping."""
        return vma.start in self.filled and not vma.flags & MAP_SHARED

    def find(self, address: int, pages_fd: int) -> tuple[int, int, int]:
        """The descriptor, the offset and the number of pages that are there from `address` on; none: no pages.

        `pages_fd` is the task's own pages image.
        """
        for fd, runs in ((pages_fd, self.runs), *self.inherited):
            for start, pages, offset in runs:
                if start <= address < start + pages * PAGE_SIZE:
                    return fd, offset + address - start, pages - (address - start) // PAGE_SIZE
        return pages_fd, 0, 0

    @staticmethod
    def file_key(vma: Any) -> tuple[int, int]:
        """The id of the file that is mapped, and how it must be open."""
        flags = vma.fdflags & os.O_ACCMODE
        if vma.status & FILE_SHARED and vma.prot & PROT_WRITE:
            flags = os.O_RDWR
        return vma.shmid, flags


def plan(mm: Any, entries: list[Any], pages_size: int, page_size: int, arch: Arch, extra: Sequence[Any] = ()) -> Plan:
    """Check everything that an image says about memory; ImageError names what cannot be.

    `extra` are the entries of `pycriu-memory-PID.img`.
    """
    result = Plan(mm, imagefiles.placed(entries, pages_size, page_size), imagefiles.in_parent(entries))
    _check_mappings(result, page_size, arch)
    _check_inside(result, [(start, pages) for start, pages, _ in result.runs], page_size)
    _check_inside(result, result.in_parent, page_size)
    result.facts = advice.read_facts(list(extra), "pycriu-memory", {vma.start for vma in result.vmas})
    for guard in result.guards:
        inside = any(vma.start < guard.end and guard.start < vma.end for vma in result.vmas)
        if guard.start % page_size or guard.end % page_size or guard.start >= guard.end or not inside:
            raise ImageError(f"the guard pages {guard.start:x}-{guard.end:x} are not aligned or lie in no mapping")
    return result


def _check_mappings(plan_: Plan, page_size: int, arch: Arch) -> None:
    end = 0
    for vma in plan_.vmas:
        if vma.start % page_size or vma.end % page_size or not end <= vma.start < vma.end <= arch.task_size << 9:
            raise ImageError(
                f"the mapping {vma.start:x}-{vma.end:x} is not aligned, overlaps another, or is out of bounds"
            )
        end = vma.end
        whole = vma.status & (ANON_SHARED | SYSVIPC) in (0, ANON_SHARED | SYSVIPC)
        if vma.status & ~KNOWN_STATUS or not vma.status & (REGULAR | AIORING) or not whole:
            raise ImageError(
                f"the mapping {vma.start:x}-{vma.end:x} is of a kind that cannot be restored ({vma.status:#x})",
                "restore these images with criu",
            )


def _check_inside(plan_: Plan, runs: list[Run], page_size: int) -> None:
    ends = iter(plan_.vmas)
    vma = next(ends, None)
    for start, pages in runs:
        at, end = start, start + pages * page_size
        while at < end:
            while vma is not None and vma.end <= at:
                vma = next(ends, None)
            if vma is None or at < vma.start:
                raise ImageError(f"the pagemap has a page at {at:#x}, where no mapping is")
            plan_.filled.add(vma.start)
            at = min(end, vma.end)
