# SPDX-License-Identifier: GPL-2.0-only
"""The fields of mm_struct, and the mappings that the kernel makes itself.

The vDSO is moved, not copied, so image and kernel must have the same one.
"""

from __future__ import annotations

import os
import struct

from pycriu.errors import ImageError
from pycriu.images import messages as m
from pycriu.images.catalogue import VDSO, VVAR
from pycriu.kernel import procfs
from pycriu.resources.memory.mappings import SPECIAL, Mapping
from pycriu.tracing.tracee import Remote, Row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pycriu.resources.memory.plan import Plan

MREMAP_MAYMOVE_FIXED = 3
PR_SET_MM, PR_SET_MM_MAP = 35, 14
_MM_MAP = struct.Struct("<12QIi")  # struct prctl_mm_map, include/uapi/linux/prctl.h


def ask(_remote: Remote) -> tuple[list[Row], Callable[[list[int]], int]]:
    """brk(2): where the heap ends, to the byte."""
    return [Row("brk", 0)], lambda results: results[0]


def mm_entry(stat_: procfs.Stat, brk: int, auxv: list[int], exe_id: int, dumpable: int, vmas: list[Any]) -> Any:
    """The mm image."""
    return m.mm_entry(
        mm_start_code=stat_.startcode, mm_end_code=stat_.endcode, mm_start_data=stat_.start_data,
        mm_end_data=stat_.end_data, mm_start_stack=stat_.startstack, mm_start_brk=stat_.start_brk, mm_brk=brk,
        mm_arg_start=stat_.arg_start, mm_arg_end=stat_.arg_end, mm_env_start=stat_.env_start,
        mm_env_end=stat_.env_end, exe_file_id=exe_id, mm_saved_auxv=auxv, vmas=vmas, dumpable=dumpable,
    )  # fmt: skip


def mm_rows(mm: Any, remote: Remote, exe_fd: int) -> list[Row]:
    """PR_SET_MM_MAP: code, data, heap, stack, arguments, environment, auxiliary vector and /proc/PID/exe."""
    auxv = struct.pack(f"<{len(mm.mm_saved_auxv)}Q", *mm.mm_saved_auxv)
    fields = _MM_MAP.pack(
        mm.mm_start_code, mm.mm_end_code, mm.mm_start_data, mm.mm_end_data, mm.mm_start_brk, mm.mm_brk,
        mm.mm_start_stack, mm.mm_arg_start, mm.mm_arg_end, mm.mm_env_start, mm.mm_env_end,
        remote.data(auxv), len(auxv), exe_fd,
    )  # fmt: skip
    address = remote.data(fields)
    what = "the layout of memory and /proc/PID/exe; needs CONFIG_CHECKPOINT_RESTORE"
    return [Row("prctl", PR_SET_MM, PR_SET_MM_MAP, address, len(fields), 0, what=what)]


def merge_clock_pages(mappings: list[Mapping]) -> list[Mapping]:
    """[vvar] and [vvar_vclock] (Linux 6.13) as one mapping, which is what the format knows."""
    merged: list[Mapping] = []
    for mapping in mappings:
        last = merged[-1] if merged else None
        if last is not None and mapping.status & last.status & VVAR and last.line.end == mapping.line.start:
            last.line.end = mapping.line.end
        else:
            merged.append(mapping)
    return merged


def free_span(busy: list[tuple[int, int]], size: int, lowest: int, highest: int) -> int:
    """The lowest address from `lowest` where `size` bytes touch none of `busy`; ImageError when there is none."""
    at = lowest
    for start, end in sorted(busy):
        if start - at >= size:
            return at
        at = max(at, end)
    if highest - at < size:
        raise ImageError("the task's address space has no room left for a few pages")
    return at


def vdso_rows(present: list[procfs.Mapping], vmas: list[Any], park: int) -> list[Row]:
    """Move the kernel's own mappings to where the image has them, by way of `park` where old and new place overlap.

    An image has [vvar] and [vvar_vclock] as one mapping; they follow each other without a gap.
    """
    ours = [line for line in present if line.name in SPECIAL and line.name != "[vsyscall]"]
    theirs = [vma for vma in vmas if vma.status & (VDSO | VVAR)]
    if not theirs:
        return [Row("munmap", line.start, line.end - line.start) for line in ours]
    park_rows, place_rows = [], []
    for bit, prefix in ((VVAR, "[vvar"), (VDSO, "[vdso")):
        block = [vma for vma in theirs if vma.status & bit]
        lines = [line for line in ours if line.name.startswith(prefix)]
        if sum(vma.end - vma.start for vma in block) != sum(line.end - line.start for line in lines):
            hint = "restore on the kernel on which it was dumped"
            raise ImageError("the image's vDSO has another layout than this kernel's", hint)
        to = block[0].start if block else 0
        for line in lines:
            size = line.end - line.start
            park_rows.append(_move(line.start, size, park))
            place_rows.append(_move(park, size, to))
            park, to = park + size, to + size
    return park_rows + place_rows


def _move(old: int, size: int, new: int) -> Row:
    return Row("mremap", old, size, size, MREMAP_MAYMOVE_FIXED, new, what="moving the vDSO")


def parking_size(present: list[procfs.Mapping]) -> int:
    """Bytes that `vdso_rows` needs at its parking place."""
    return sum(line.end - line.start for line in present if line.name in SPECIAL and line.name != "[vsyscall]")


def same_vdso(plan_: Plan, own: bytes, pages: int) -> bool:
    """Whether the image's vDSO pages, where it has them in the file `pages`, are this kernel's, byte for byte."""
    for vma in plan_.vmas:
        if vma.status & VDSO:
            fd, offset, there = plan_.find(vma.start, pages)
            if there:
                return os.pread(fd, len(own), offset) == own
    return True
