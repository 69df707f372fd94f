# SPDX-License-Identifier: GPL-2.0-only
"""Mappings, page maps, pages, and the checkpoints that pages are in."""

from __future__ import annotations

import os
from bisect import bisect_right
from typing import Any

from pycriu.crit.check.model import REG, Model
from pycriu.crit.source import Source
from pycriu.errors import ImageError
from pycriu.images.catalogue import LAZY, PARENT, PRESENT

PAGE = 4096  # CRIU's images do not tell
_TASK_SIZE = 1 << 57
REGULAR, VSYSCALL, FILE_PRIVATE, FILE_SHARED, ANON_SHARED = 1, 1 << 2, 1 << 6, 1 << 7, 1 << 8
SYSVIPC, SOCKET, AIORING, MEMFD, GUARD, UNSUPPORTED = 1 << 10, 1 << 11, 1 << 13, 1 << 14, 1 << 16, 1 << 31
_KNOWN = (1 << 18) - 1 & ~(1 << 4) | 0xF << 27
_KINDS = FILE_PRIVATE | FILE_SHARED | ANON_SHARED | 1 << 9
_PROT = 0x7 | 0x10 | 0x20  # read, write, execute; BTI and MTE of arm64
_MAP_TYPE = 0xF  # MAP_SHARED, MAP_PRIVATE, MAP_DROPPABLE

Runs = list[tuple[int, int, int]]  # start, end, flags


def check(model: Model) -> None:
    """All of it."""
    for process in model.living:
        for mm in model.entries(f"mm-{process.pid}.img"):
            _check_mm(model, f"mm-{process.pid}.img", mm)
    runs: dict[str, Runs] = {}
    for stem in ("pagemap", "pagemap-shmem"):
        for name, _ in model.numbered(stem):
            runs[name] = _check_pagemap(model, name)
    _check_inside(model, runs)
    _check_pages(model, runs)
    if not model.is_memory_only:
        _check_objects(model)
    _check_parents(model, runs)


# ------------------------------------------------------------------------------------------------------------ mappings


def _check_mm(model: Model, name: str, mm: Any) -> None:
    model.refer(mm.exe_file_id, (REG,), (name, 0, "exe_file_id"))
    if len(mm.mm_saved_auxv) % 2:
        model.found(name, f"{len(mm.mm_saved_auxv)} words, an auxiliary vector has pairs", 0, "mm_saved_auxv")
    for first, last in (("start_code", "end_code"), ("start_data", "end_data"), ("start_brk", "brk"),
                        ("arg_start", "arg_end"), ("env_start", "env_end")):  # fmt: skip
        if getattr(mm, f"mm_{first}") > getattr(mm, f"mm_{last}"):
            model.found(name, f"begins behind mm_{last}", 0, f"mm_{first}")
    end = 0
    for number, vma in enumerate(mm.vmas):
        end = _check_range(model, name, vma, f"vmas[{number}]", end)
        _check_vma(model, name, vma, f"vmas[{number}]")
    starts = {vma.start for vma in mm.vmas if vma.status & AIORING}
    for number, ring in enumerate(mm.aios):
        if ring.id not in starts:
            model.found(name, f"no mapping of a ring starts at {ring.id:x}", 0, f"aios[{number}]")


def _check_range(model: Model, name: str, vma: Any, field: str, end: int) -> int:
    """Where the next mapping may begin, at `end` the earliest."""
    if vma.start % PAGE or vma.end % PAGE or vma.start >= vma.end:
        model.found(name, f"{vma.start:x}-{vma.end:x} is no range of pages", 0, field)
    elif vma.end > _TASK_SIZE and not vma.status & VSYSCALL:
        model.found(name, f"{vma.start:x}-{vma.end:x} is beyond what a task can have", 0, field)
    if vma.status & GUARD:  # they lie in others
        return end
    if vma.start < end:
        model.found(name, f"{vma.start:x}-{vma.end:x} overlaps the one before, or comes before it", 0, field)
    return max(end, int(vma.end))


def _check_vma(model: Model, name: str, vma: Any, field: str) -> None:
    if vma.status & UNSUPPORTED or vma.status & ~_KNOWN:
        model.found(name, f"{vma.status:#x} is of no kind that is known", 0, f"{field}.status")
        return
    if vma.prot & ~_PROT:
        model.found(name, f"{vma.prot:#x} has rights that there are not", 0, f"{field}.prot")
    if vma.status & REGULAR and (vma.status & _KINDS).bit_count() > 1:
        model.found(name, f"{vma.status:#x} is of several kinds at once", 0, f"{field}.status")
    if not vma.status & GUARD and not vma.flags & _MAP_TYPE:
        model.found(name, f"{vma.flags:#x} is neither shared nor private", 0, f"{field}.flags")
    if vma.status & (FILE_PRIVATE | FILE_SHARED):
        _check_mapped_file(model, name, vma, field)
    elif vma.status & MEMFD and vma.status & ANON_SHARED == 0:
        model.refer(vma.shmid, (), (name, 0, f"{field}.shmid"))
    if vma.pgoff % PAGE and not vma.status & SOCKET:
        model.found(name, f"{vma.pgoff:#x} is no offset of a page", 0, f"{field}.pgoff")


def _check_mapped_file(model: Model, name: str, vma: Any, field: str) -> None:
    model.refer(vma.shmid, (), (name, 0, f"{field}.shmid"))
    file = model.files.get(vma.shmid)
    if file is not None and file.type not in (REG, 18):  # fd_types.MEMFD
        model.found(name, f"file {vma.shmid} is of type {file.type}, which is not mapped", 0, f"{field}.shmid")


# ----------------------------------------------------------------------------------------------------------- page maps


def _check_pagemap(model: Model, name: str) -> Runs:
    runs: Runs = []
    end = 0
    for number, one in enumerate(model.entries(name)[1:], 1):
        count = one.nr_pages if one.HasField("nr_pages") else one.compat_nr_pages
        if one.HasField("nr_pages") and one.nr_pages & 0xFFFFFFFF != one.compat_nr_pages:
            model.found(name, f"{one.nr_pages}, but compat_nr_pages is {one.compat_nr_pages}", number, "nr_pages")
        if one.vaddr % PAGE or not count or one.vaddr + count * PAGE > 1 << 64:
            model.found(name, f"{count} pages at {one.vaddr:x} are no range of pages", number, "vaddr")
            continue
        if one.vaddr < end:
            model.found(name, f"{one.vaddr:x} lies in the entry before, or before it", number, "vaddr")
        if one.flags & ~(PRESENT | LAZY | PARENT) or (one.flags & PRESENT and one.flags & PARENT):
            model.found(name, f"{one.flags:#x} is no set of flags", number, "flags")
        end = max(end, one.vaddr + count * PAGE)
        flags = one.flags if one.HasField("flags") else PRESENT
        runs.append((one.vaddr, one.vaddr + count * PAGE, PARENT if one.in_parent else flags))
    return runs


def _check_inside(model: Model, runs: dict[str, Runs]) -> None:
    """Pages of a process lie in its mappings."""
    for process in model.living:
        name = f"pagemap-{process.pid}.img"
        for mm in model.entries(f"mm-{process.pid}.img") if name in runs else ():
            spans = sorted((vma.start, vma.end) for vma in mm.vmas if not vma.status & GUARD)
            for start, end, _ in runs[name]:
                if not _covered(spans, start, end):
                    model.found(name, f"the pages {start:x}-{end:x} lie in no mapping", None, "vaddr")


def _covered(spans: list[tuple[int, int]], start: int, end: int) -> bool:
    at = bisect_right(spans, (start, 1 << 64)) - 1
    while 0 <= at < len(spans) and start < end and spans[at][0] <= start < spans[at][1]:
        start = spans[at][1]
        at += 1
    return start >= end


def _check_pages(model: Model, runs: dict[str, Runs]) -> None:
    """A file of pages has as many as the page maps that name it say."""
    sizes: dict[int, int] = {}
    spaces: set[tuple[int, int]] = set()
    for name, of_name in runs.items():
        entries = model.entries(name)
        if not entries:
            continue
        pages_id, space = entries[0].pages_id, _space(model, name)
        if not model.has(f"pages-{pages_id}.img"):
            if any(flags & PRESENT for _, _, flags in of_name):
                model.found(f"pages-{pages_id}.img", f"is missing: {name} names it", None)
            continue
        sizes.setdefault(pages_id, 0)
        if (pages_id, space) not in spaces or not space:  # who share memory have the same pages
            sizes[pages_id] += sum(end - start for start, end, flags in of_name if flags & PRESENT)
        spaces.add((pages_id, space))
    for name, number in model.numbered("pages"):
        if number not in sizes:
            if not any(one.startswith("pagemap") for one in model.broken):
                model.found(name, "no page map names it")
        elif (size := model.images.size(name)) != sizes[number] and not _any_broken(model):
            model.found(name, f"{size} bytes; the page maps have {sizes[number]} bytes of pages in it")


def _any_broken(model: Model) -> bool:
    return any(name.startswith("pagemap") for name in model.broken)


def _space(model: Model, name: str) -> int:
    """The id of the memory that a page map of a process is of; 0: of no process."""
    number = name.removeprefix("pagemap-").removesuffix(".img")
    return model.ids[int(number)].vm_id if number.isdecimal() and int(number) in model.ids else 0


# ------------------------------------------------------------------------------------------------------- shared memory


def _check_objects(model: Model) -> None:
    """Objects of shared memory: each that is mapped or open has a page map, and each page map an object."""
    known = {number for _, number in model.numbered("pagemap-shmem")}
    segments = {one.desc.id for name, _ in model.of_stem("ipcns-shm") for one in model.entries(name)}
    wanted = set(segments)
    for number, inode in enumerate(model.entries("memfd.img")):
        wanted.add(inode.shmid)
        if inode.shmid not in known:
            text = f"is missing: the pages of entry {number} of memfd.img"
            model.found(f"pagemap-shmem-{inode.shmid}.img", text)
    for process in model.living:
        for mm in model.entries(f"mm-{process.pid}.img"):
            wanted |= _check_mapped_objects(model, f"mm-{process.pid}.img", mm, known, segments)
    for name, number in model.numbered("pagemap-shmem"):
        if number not in wanted and not any(one.startswith(("mm-", "memfd", "ipcns")) for one in model.broken):
            model.found(name, f"nobody has the shared memory {number}")


def _check_mapped_objects(model: Model, name: str, mm: Any, known: set[int], segments: set[int]) -> set[int]:
    """The objects that are mapped; findings for those that are not there."""
    found: set[int] = set()
    for number, vma in enumerate(mm.vmas):
        field = f"vmas[{number}].shmid"
        if vma.status & SYSVIPC and not vma.status & AIORING:
            found.add(vma.shmid)
            if segments and vma.shmid not in segments:
                model.found(name, f"there is no segment {vma.shmid}", 0, field)
        elif vma.status & ANON_SHARED and not vma.status & MEMFD:
            found.add(vma.shmid)
            if vma.shmid not in known:
                model.found(name, f"pagemap-shmem-{vma.shmid}.img is missing", 0, field)
    return found


# ------------------------------------------------------------------------------------------------------------- parents


def _check_parents(model: Model, runs: dict[str, Runs]) -> None:
    """Pages that are said to be in a parent are there, or in one of its parents."""
    wanted = {name: [run for run in of_name if run[2] & PARENT] for name, of_name in runs.items()}
    wanted = {name: some for name, some in wanted.items() if some}
    try:
        parent = model.images.parent()
    except ImageError as error:
        model.found("parent", str(error).split("\n")[0])
        return
    if parent is None:
        for name in wanted:
            model.found(name, "pages are in a parent, but there is none", None, "flags")
        return
    seen = {os.path.realpath(model.images.path)}
    while parent is not None:
        wanted = {name: left for name, some in wanted.items() if (left := _left(model, parent, name, some))}
        source: Source = parent
        try:
            if source.path in seen:
                raise ImageError(f"the parents lead in a circle, back to {source.path}")
            seen.add(source.path)
            parent = source.parent()
        except ImageError as error:
            model.found("parent", str(error).split("\n")[0])
            parent = None
        source.close()
    for name, some in wanted.items():
        for start, end, _ in some:
            model.found(name, f"the pages {start:x}-{end:x} are in no parent", None, "flags")


def _left(model: Model, parent: Source, name: str, wanted: Runs) -> Runs:
    """What of the wanted pages is not in this parent, but may be in one of its own."""
    found: list[tuple[int, int, int]] = []
    try:
        entries: list[Any] = parent.read(name)[1:] if parent.exists(name) else []
    except ImageError as error:
        model.found("parent", str(error).split("\n")[0])
        return []
    for one in entries:
        count = one.nr_pages if one.HasField("nr_pages") else one.compat_nr_pages
        flags = PARENT if one.in_parent else one.flags if one.HasField("flags") else PRESENT
        found.append((one.vaddr, one.vaddr + count * PAGE, flags))
    found.sort()
    spans = [(start, end) for start, end, _ in found]
    left: Runs = []
    for start, end, _ in wanted:
        if not _covered(spans, start, end):
            model.found(name, f"the pages {start:x}-{end:x} are not in the parent", None, "flags")
            continue
        further = [run for run in found if run[0] < end and run[1] > start and run[2] & PARENT]
        left += [(max(start, first), min(end, last), flags) for first, last, flags in further]
    return left
