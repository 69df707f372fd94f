# SPDX-License-Identifier: GPL-2.0-only
"""Memory: the list of mappings, the pages with content, and the fields of mm_struct.

    mappings  what is mapped, and the rows that map it again
    advice    what mappings have beyond that: advice, locks, guards, names, keys, seals
    objects   what is mapped without having a path: shared memory
    outside   shared memory that others have, too
    sysv      System V shared memory
    huge      whether there are enough huge pages
    aio       rings of asynchronous I/O
    pages     private pages with content
    embedding mapped files whose pages are saved, too
    layout    brk, auxiliary vector and their like; the vDSO, which is moved, not copied

Everything that others need is here by name.
"""

from pycriu.images.catalogue import FILE_PRIVATE, FILE_SHARED, VDSO
from pycriu.resources.memory.advice import allocated_keys, extra_entries, guard_entries, key_rows, vma_advice
from pycriu.resources.memory.advice import rows as finish_rows
from pycriu.resources.memory.aio import Ring, check_idle
from pycriu.resources.memory.aio import entries as ring_entries
from pycriu.resources.memory.aio import look as look_at_rings
from pycriu.resources.memory.aio import restore as restore_rings
from pycriu.resources.memory.huge import check as check_huge_pages
from pycriu.resources.memory.layout import (
    ask,
    free_span,
    merge_clock_pages,
    mm_entry,
    mm_rows,
    parking_size,
    same_vdso,
    vdso_rows,
)
from pycriu.resources.memory.mappings import Mapping, clear_rows, file_flags, look, map_rows, places, vma_entry
from pycriu.resources.memory.objects import Objects, file_number, object_of, open_mapped
from pycriu.resources.memory.outside import Shared
from pycriu.resources.memory.pages import content, fill
from pycriu.resources.memory.plan import Plan, plan
from pycriu.resources.memory.sysv import Attached, Segments, Sources

__all__ = (
    "FILE_PRIVATE",
    "FILE_SHARED",
    "VDSO",
    "Attached",
    "Mapping",
    "Objects",
    "Plan",
    "Ring",
    "Segments",
    "Shared",
    "Sources",
    "allocated_keys",
    "ask",
    "check_huge_pages",
    "check_idle",
    "clear_rows",
    "content",
    "extra_entries",
    "file_flags",
    "file_number",
    "fill",
    "finish_rows",
    "free_span",
    "guard_entries",
    "key_rows",
    "look",
    "look_at_rings",
    "map_rows",
    "merge_clock_pages",
    "mm_entry",
    "mm_rows",
    "object_of",
    "open_mapped",
    "parking_size",
    "places",
    "plan",
    "restore_rings",
    "ring_entries",
    "same_vdso",
    "vdso_rows",
    "vma_advice",
    "vma_entry",
)  # fmt: skip
