# SPDX-License-Identifier: GPL-2.0-only
"""The list of mappings: what each is a mapping of, and the calls that make it again.

Refused: devices, userfaultfd, shadow stacks.
"""

from __future__ import annotations

import os
import stat

from pycriu.errors import About, PycriuError, Unsupported
from pycriu.fds import memfd
from pycriu.fds.openfile import OpenFile, Place
from pycriu.images import messages as m
from pycriu.images.catalogue import (
    AIORING,
    ANON_PRIVATE,
    ANON_SHARED,
    FILE_PRIVATE,
    FILE_SHARED,
    HEAP,
    KERNEL_MADE,
    MAP_GROWSDOWN,
    MEMFD,
    REGULAR,
    SYSVIPC,
    VDSO,
    VSYSCALL,
    VVAR,
)
from pycriu.kernel import procfs
from pycriu.tracing.tracee import Row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pycriu.fds.regular import Regular
    from pycriu.resources.memory.plan import Plan

PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4
MAP_SHARED, MAP_PRIVATE, MAP_DROPPABLE, MAP_ANONYMOUS = 1, 2, 8, 0x20
MAP_LOCKED, MAP_NORESERVE, MAP_HUGETLB = 0x2000, 0x4000, 0x40000
MAP_HUGE_SHIFT = 26
MAP_FIXED_NOREPLACE = 0x100000

# What cannot be made again, or not by mmap alone.
REFUSED_FLAGS = {
    "um": "a userfaultfd watch", "uw": "a userfaultfd watch", "ui": "a userfaultfd watch",
    "io": "device memory", "pf": "device memory", "ss": "a shadow stack",
    "sf": "a synchronous mapping of a DAX file (MAP_SYNC)", "mt": "memory with tags (PROT_MTE)",
}  # fmt: skip
# The bits that CRIU gives them; [vsyscall] is at the same address in every task and is not counted as regular.
SPECIAL = {
    "[vdso]": REGULAR | VDSO | ANON_PRIVATE,
    "[vvar]": REGULAR | VVAR | ANON_PRIVATE,
    "[vvar_vclock]": REGULAR | VVAR | ANON_PRIVATE,
    "[vsyscall]": VSYSCALL | ANON_PRIVATE,
}
UPROBES = "[uprobes]"
_DEV_ZERO = os.makedev(1, 5)


class Mapping:
    """One mapping that goes into the image: /proc's line, its status bits, and its file.

    `opened` is our descriptor for what has no path; `objects.Objects` fills it in.
    """

    __slots__ = ("file", "line", "opened", "status")

    def __init__(self, line: procfs.Mapping, status: int, file: Place | None) -> None:
        self.line, self.status, self.file = line, status, file
        self.opened: OpenFile | None = None


def look(pid: int, regular: Regular) -> list[Mapping]:
    """The mappings of a stopped task; Unsupported names the first that cannot be kept.

    `regular` knows what of files with a path, and of deleted ones, can be kept.
    """
    found: list[Mapping] = []
    for line in procfs.parse_smaps(procfs.text(pid, "smaps")):
        # The mappings of one file follow each other: what was found out about the first holds for all.
        last = found[-1] if found else None
        known = last is not None and last.file is not None and last.line.same_file(line)
        one = Mapping(line, 0, None)  # what stays of it if it is refused
        if regular.plugins is not None and regular.plugins.has_vma(pid, line):
            continue
        with About(pid):
            if line.name == UPROBES:
                check_uprobes(pid, regular)
                continue
            one = classify(pid, line, regular, last.file if last is not None and known else None)
        found.append(one)
    return found


def check_uprobes(pid: int, regular: Regular) -> None:
    """What the kernel maps into a task whose program has been probed, until the end of that task: it need not be kept.

    Its breakpoints stand in the pages of code while the probes last, so a restore without them would fail at one.
    """
    if not regular.options.allow_uprobes:
        raise Unsupported(
            f"process {pid} is, or has been, under uprobes (perf probe, bpftrace, uprobe_events)",
            "end the probes, then dump with --allow-uprobes; probes that last must be there at the restore, too",
        )


def classify(pid: int, line: procfs.Mapping, regular: Regular, file: Place | None = None) -> Mapping:
    """What kind of mapping this is, and of which file, if that is not known; Unsupported where it cannot be kept."""
    if line.name in SPECIAL:
        return Mapping(line, SPECIAL[line.name], None)
    bad = next((flag for flag in line.flags if flag in REFUSED_FLAGS), None)
    if bad is not None:
        raise Unsupported(f"process {pid}: {REFUSED_FLAGS[bad]} at {line} cannot be saved")
    if line.inode == 0 and not line.name.startswith("/SYSV"):  # a segment's inode is its id, and the first id is 0
        if line.shared or line.name.startswith("anon_inode:") or line.name.startswith("/"):
            raise Unsupported(f"process {pid}: the mapping {line} cannot be saved")
        return Mapping(line, REGULAR | ANON_PRIVATE | (HEAP if line.name == "[heap]" else 0), None)
    if "ht" in line.flags and not line.shared and line.name == "/anon_hugepage (deleted)":
        return Mapping(line, REGULAR | ANON_PRIVATE, None)
    if line.name == "/[aio] (deleted)":
        return Mapping(line, AIORING, None)
    new = file is None
    file = file or _file_of(pid, line)
    status = REGULAR | (FILE_SHARED if line.shared else FILE_PRIVATE)
    if memfd.is_one(file.path, file.status):
        return Mapping(line, status | MEMFD, file)
    if file.path.startswith("/SYSV") and file.path.endswith(" (deleted)") and line.shared:
        return Mapping(line, REGULAR | ANON_SHARED | SYSVIPC, file)
    if new:
        _check_file(pid, line, file, regular)
    return Mapping(line, status, file)


def _file_of(pid: int, line: procfs.Mapping) -> Place:
    """What is mapped: where its link leads, and the status of the very file."""
    name = f"map_files/{line.start:x}-{line.end:x}"
    path = procfs.link(pid, name)
    try:
        status = procfs.target(pid, name)
    except PermissionError:
        raise PycriuError(
            f"process {pid}: the mapped file {line.name} cannot be looked at", "CAP_CHECKPOINT_RESTORE is needed"
        ) from None
    if path == memfd.SECRET:
        raise memfd.secret(f"the mapping {line} of process {pid}")
    return Place(path, status, f"/proc/{pid}/{name}", f"process {pid}: the mapped file {path}")


def _check_file(pid: int, line: procfs.Mapping, file: Place, regular: Regular) -> None:
    """Unsupported for a mapped file that cannot be opened again."""
    mode = file.status.st_mode
    if not stat.S_ISREG(mode) and file.status.st_rdev != _DEV_ZERO:
        what = "the device" if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else "what is no file"
        raise Unsupported(f"process {pid}: {what} {file.path} is mapped at {line}", "devices cannot be saved")
    regular.inspect_place(file)


def places(mappings: list[Mapping]) -> list[tuple[Place, int]]:
    """The files with a path that are mapped, with the flags to open them."""
    return [
        (one.file, file_flags(one.line))
        for one in mappings
        if one.file is not None and not one.status & (MEMFD | SYSVIPC)
    ]  # fmt: skip


def vma_entry(mapping: Mapping, file_id: int, madv: int) -> Any:
    """The image of one mapping; `file_id` is 0 for one without a file, `madv` is from `advice.vma_advice`."""
    line = mapping.line
    flags = MAP_SHARED if line.shared else MAP_DROPPABLE if "dp" in line.flags else MAP_PRIVATE
    if not mapping.status & (FILE_PRIVATE | FILE_SHARED | AIORING):
        flags |= MAP_ANONYMOUS
    flags |= (
        MAP_GROWSDOWN * ("gd" in line.flags) | MAP_LOCKED * ("lo" in line.flags) | MAP_NORESERVE * ("nr" in line.flags)
    )
    if "ht" in line.flags:
        flags |= MAP_HUGETLB | (line.page_size.bit_length() - 1) << MAP_HUGE_SHIFT
    anonymous = mapping.status & ANON_PRIVATE and "ht" in line.flags
    entry = m.vma_entry(
        start=line.start, end=line.end, pgoff=0 if anonymous else line.offset, shmid=file_id, prot=line.prot,
        flags=flags, status=mapping.status, fd=-1, fdflags=file_flags(line),
    )  # fmt: skip
    if madv:
        entry.madv = madv
    return entry


def file_flags(line: procfs.Mapping) -> int:
    """How a mapped file must be opened: for writing only where the task may write to the file through the mapping."""
    return os.O_RDWR if line.shared and "mw" in line.flags else os.O_RDONLY


# ---------------------------------------------------------------------------------------------------------- restore


def clear_rows(present: list[procfs.Mapping]) -> list[Row]:
    """Unmap everything that a new task was born with but the kernel's own mappings."""
    return [Row("munmap", line.start, line.end - line.start) for line in present if line.name not in SPECIAL]


def map_rows(plan: Plan, fd_of: dict[tuple[int, int], int]) -> list[Row]:
    """One mmap per mapping; private ones with pages are writable until these are in.

    Others keep their protection, because a large reservation (PROT_NONE) that is writable would need the memory.
    `fd_of` is from `objects.open_mapped`. System V segments are attached later, see `sysv`.
    """
    rows = []
    for vma in plan.vmas:
        if vma.status & (KERNEL_MADE | SYSVIPC):
            continue
        prot = vma.prot | PROT_WRITE if plan.is_filled(vma) else vma.prot
        flags = vma.flags & ~MAP_LOCKED | MAP_FIXED_NOREPLACE
        fd, offset = (fd_of[plan.file_key(vma)], vma.pgoff) if vma.status & (FILE_PRIVATE | FILE_SHARED) else (-1, 0)
        what = f"the mapping {vma.start:x}-{vma.end:x}"
        rows.append(Row("mmap", vma.start, vma.end - vma.start, prot, flags, fd, offset, what=what))
    return rows
