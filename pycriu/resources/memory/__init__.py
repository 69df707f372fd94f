# SPDX-License-Identifier: GPL-2.0-only
"""Memory: the list of mappings, the pages with content, and the fields of mm_struct.

    mappings  what is mapped, and the rows that map it again
    objects   what is mapped without having a path: shared memory
    pages     private pages with content
    layout    brk, auxiliary vector and their like; the vDSO, which is moved, not copied

Everything that others need is here by name.
"""

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
from pycriu.resources.memory.mappings import (
    FILE_PRIVATE,
    FILE_SHARED,
    VDSO,
    Mapping,
    clear_rows,
    file_flags,
    finish_rows,
    look,
    map_rows,
    places,
    vma_entry,
)
from pycriu.resources.memory.objects import Objects, file_number, open_mapped
from pycriu.resources.memory.pages import fill, spans, vdso_run
from pycriu.resources.memory.plan import Plan, plan

__all__ = (
    "FILE_PRIVATE", "FILE_SHARED", "VDSO", "Mapping", "Objects", "Plan", "ask", "clear_rows", "file_flags",
    "file_number", "fill", "finish_rows", "free_span", "look", "map_rows", "merge_clock_pages", "mm_entry", "mm_rows",
    "open_mapped", "parking_size", "places", "plan", "same_vdso", "spans", "vdso_rows", "vdso_run", "vma_entry",
)  # fmt: skip
