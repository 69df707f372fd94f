# SPDX-License-Identifier: GPL-2.0-only
"""Memory: the list of mappings, the pages with content, and the fields of mm_struct.

Kept: private anonymous memory, private and shared file mappings, stack, heap, vDSO, advice given by madvise(2), locks.
Refused before anything is copied: shared anonymous memory, memfd and System V segments, huge pages, deleted files,
devices, userfaultfd. The vDSO is moved, not copied, so image and kernel must have the same one.
"""

from __future__ import annotations

import os
import stat
import struct

from pycriu.errors import ImageError, PycriuError, TraceeGone, Unsupported
from pycriu.fds.openfile import Place
from pycriu.images import messages as m
from pycriu.kernel import procfs
from pycriu.kernel.pagemap import PAGE_SIZE, Run
from pycriu.tracee import Remote, Row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pycriu.arch.description import Arch

PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4
MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS, MAP_GROWSDOWN, MAP_LOCKED, MAP_NORESERVE = 1, 2, 0x20, 0x100, 0x2000, 0x4000
MAP_FIXED_NOREPLACE = 0x100000
MREMAP_MAYMOVE_FIXED = 3

# vma_entry.status
REGULAR, STACK, VSYSCALL, VDSO, HEAP = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 5
FILE_PRIVATE, FILE_SHARED, ANON_PRIVATE, VVAR = 1 << 6, 1 << 7, 1 << 9, 1 << 12
KERNEL_MADE = VSYSCALL | VDSO | VVAR
KNOWN_STATUS = REGULAR | STACK | HEAP | FILE_PRIVATE | FILE_SHARED | ANON_PRIVATE | KERNEL_MADE

# VmFlags of smaps (Documentation/filesystems/proc.rst) → the madvise(2) advice that sets them.
ADVICE = {"dc": 10, "mg": 12, "hg": 14, "nh": 15, "dd": 16, "wf": 18}
# What cannot be made again, or not by mmap alone.
REFUSED_FLAGS = {
    "ht": "huge pages", "um": "a userfaultfd watch", "uw": "a userfaultfd watch", "ui": "a userfaultfd watch",
    "sl": "a sealed mapping", "io": "device memory", "pf": "device memory", "dp": "droppable memory",
    "ss": "a shadow stack",
}  # fmt: skip
# The bits that CRIU gives them; [vsyscall] is at the same address in every task and is not counted as regular.
_SPECIAL = {
    "[vdso]": REGULAR | VDSO | ANON_PRIVATE,
    "[vvar]": REGULAR | VVAR | ANON_PRIVATE,
    "[vvar_vclock]": REGULAR | VVAR | ANON_PRIVATE,
    "[vsyscall]": VSYSCALL | ANON_PRIVATE,
}

IN_PARENT, PRESENT = 1, 4  # pagemap_entry.flags; 2 says that a page could be fetched late, which changes nothing here
PR_SET_MM, PR_SET_MM_MAP = 35, 14
_MM_MAP = struct.Struct("<12QIi")  # struct prctl_mm_map, include/uapi/linux/prctl.h
_IOV_MAX = 1024


class Mapping:
    """One mapping that goes into the image: /proc's line, its status bits, and its file."""

    __slots__ = ("file", "line", "status")

    def __init__(self, line: procfs.Mapping, status: int, file: Place | None) -> None:
        self.line, self.status, self.file = line, status, file


def look(pid: int) -> list[Mapping]:
    """The mappings of a stopped task; Unsupported names the first that cannot be kept."""
    found: list[Mapping] = []
    for line in procfs.parse_smaps(procfs.text(pid, "smaps")):
        # The mappings of one file follow each other: what was found out about the first holds for all.
        last = found[-1] if found else None
        known = last is not None and last.file is not None and last.line.same_file(line)
        found.append(classify(pid, line, last.file if last is not None and known else None))
    return found


def classify(pid: int, line: procfs.Mapping, file: Place | None = None) -> Mapping:
    """What kind of mapping this is, and of which file, if that is not known; Unsupported where it cannot be kept."""
    if line.name in _SPECIAL:
        return Mapping(line, _SPECIAL[line.name], None)
    bad = next((flag for flag in line.flags if flag in REFUSED_FLAGS), None)
    if bad is not None:
        raise Unsupported(f"process {pid}: {REFUSED_FLAGS[bad]} at {line} cannot be saved")
    if line.inode == 0:
        if line.shared or line.name.startswith("anon_inode:") or line.name.startswith("/"):
            raise Unsupported(f"process {pid}: the mapping {line} cannot be saved")
        return Mapping(line, REGULAR | ANON_PRIVATE | (HEAP if line.name == "[heap]" else 0), None)
    return Mapping(line, REGULAR | (FILE_SHARED if line.shared else FILE_PRIVATE), file or _file_of(pid, line))


def _file_of(pid: int, line: procfs.Mapping) -> Place:
    """The path of a mapped file, made sure to lead to that very file, and its status."""
    try:
        path = procfs.link(pid, f"map_files/{line.start:x}-{line.end:x}")
    except PermissionError:
        raise PycriuError(
            f"process {pid}: the mapped file {line.name} cannot be looked at", "CAP_CHECKPOINT_RESTORE is needed"
        ) from None
    try:
        mapped = os.stat(f"/proc/{pid}/map_files/{line.start:x}-{line.end:x}")
    except FileNotFoundError:
        raise TraceeGone(f"process {pid}: the mapping {line} is gone") from None
    try:
        there = os.stat(path)
    except OSError:
        there = None
    if there is None or (there.st_dev, there.st_ino) != (mapped.st_dev, mapped.st_ino):
        what = (
            "shared memory without a file" if path.startswith(("/dev/zero", "/SYSV", "/memfd:")) else "a deleted file"
        )
        raise Unsupported(f"process {pid}: {what} is mapped at {line}", "it cannot be saved: its content has no name")
    if not procfs.is_utf8(path):
        raise Unsupported(f"process {pid}: the path of the mapped file {path!a} is not UTF-8", "rename the file")
    if not stat.S_ISREG(there.st_mode):
        raise Unsupported(f"process {pid}: the device {path} is mapped at {line}", "devices cannot be saved")
    return Place(
        path, there, f"/proc/{pid}/map_files/{line.start:x}-{line.end:x}", f"process {pid}: the mapped file {path}"
    )


def spans(mappings: list[Mapping]) -> list[tuple[int, int]]:
    """Where private pages can be: start and end of every private mapping that the kernel did not make."""
    return [(x.line.start, x.line.end) for x in mappings if not x.line.shared and not x.status & KERNEL_MADE]


def vdso_run(mappings: list[Mapping]) -> list[Run]:
    """The vDSO's pages: in the image, they tell a restore whether its kernel has the same."""
    return [(x.line.start, (x.line.end - x.line.start) // PAGE_SIZE) for x in mappings if x.status & VDSO]


def ask(_remote: Remote) -> tuple[list[Row], Callable[[list[int]], int]]:
    """brk(2): where the heap ends, to the byte."""
    return [Row("brk", 0)], lambda results: results[0]


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


def vma_entry(mapping: Mapping, file_id: int) -> Any:
    """The image of one mapping; `file_id` is 0 for one without a file."""
    line = mapping.line
    flags = MAP_SHARED if line.shared else MAP_PRIVATE
    if not mapping.status & (FILE_PRIVATE | FILE_SHARED):
        flags |= MAP_ANONYMOUS
    flags |= (
        MAP_GROWSDOWN * ("gd" in line.flags) | MAP_LOCKED * ("lo" in line.flags) | MAP_NORESERVE * ("nr" in line.flags)
    )
    madv = sum(1 << advice for flag, advice in ADVICE.items() if flag in line.flags)
    entry = m.vma_entry(
        start=line.start, end=line.end, pgoff=line.offset, shmid=file_id, prot=line.prot, flags=flags,
        status=mapping.status, fd=-1, fdflags=file_flags(line),
    )  # fmt: skip
    if madv:
        entry.madv = madv
    return entry


def file_flags(line: procfs.Mapping) -> int:
    """How a mapped file must be opened: for writing only where the task may write to the file through the mapping."""
    return os.O_RDWR if line.shared and "mw" in line.flags else os.O_RDONLY


def mm_entry(stat_: procfs.Stat, brk: int, auxv: list[int], exe_id: int, dumpable: int, vmas: list[Any]) -> Any:
    """The mm image."""
    return m.mm_entry(
        mm_start_code=stat_.startcode, mm_end_code=stat_.endcode, mm_start_data=stat_.start_data,
        mm_end_data=stat_.end_data, mm_start_stack=stat_.startstack, mm_start_brk=stat_.start_brk, mm_brk=brk,
        mm_arg_start=stat_.arg_start, mm_arg_end=stat_.arg_end, mm_env_start=stat_.env_start,
        mm_env_end=stat_.env_end, exe_file_id=exe_id, mm_saved_auxv=auxv, vmas=vmas, dumpable=dumpable,
    )  # fmt: skip


def pagemap_entries(pages_id: int, runs: list[Run]) -> list[Any]:
    """The pagemap image: the head, then one entry per run."""
    low = (1 << 32) - 1
    return [m.pagemap_head(pages_id=pages_id)] + [
        m.pagemap_entry(vaddr=start, compat_nr_pages=pages & low, flags=PRESENT, nr_pages=pages)
        for start, pages in runs
    ]


# ---------------------------------------------------------------------------------------------------------- restore


class Plan:
    """The memory of one task to be: its mappings and the runs of its pages with their place in the pages image."""

    __slots__ = ("filled", "mm", "runs", "vmas")

    def __init__(self, mm: Any, runs: list[tuple[int, int, int]]) -> None:
        self.mm = mm
        self.vmas = [vma for vma in mm.vmas if not vma.status & VSYSCALL]
        self.runs = runs  # address, pages, offset in the pages image
        self.filled: set[int] = set()  # where the mappings start that have pages


def plan(mm: Any, entries: list[Any], pages_size: int, page_size: int, arch: Arch) -> Plan:
    """Check everything that an image says about memory; ImageError names what cannot be."""
    end = 0
    for vma in mm.vmas:
        if vma.status & VSYSCALL:
            continue
        if vma.start % page_size or vma.end % page_size or not end <= vma.start < vma.end <= arch.task_size << 9:
            raise ImageError(
                f"the mapping {vma.start:x}-{vma.end:x} is not aligned, overlaps another, or is out of bounds"
            )
        end = vma.end
        if vma.status & ~KNOWN_STATUS or not vma.status & (REGULAR | VSYSCALL):
            raise ImageError(
                f"the mapping {vma.start:x}-{vma.end:x} is of a kind that cannot be restored ({vma.status:#x})",
                "restore these images with criu",
            )
    runs, offset = [], 0
    for entry in entries:
        pages = entry.nr_pages or entry.compat_nr_pages
        if entry.HasField("flags") and entry.flags & (PRESENT | IN_PARENT) != PRESENT:
            raise ImageError(
                f"the pages at {entry.vaddr:#x} lie in a parent image or on another machine ({entry.flags})"
            )
        if entry.vaddr % page_size:
            raise ImageError(f"the pagemap has pages at {entry.vaddr:#x}, which is not aligned")
        runs.append((entry.vaddr, pages, offset))
        offset += pages * page_size
    if offset > pages_size:
        raise ImageError(f"the pagemap promises {offset} bytes of pages, the pages image has {pages_size}")
    result = Plan(mm, runs)
    _check_inside(result, page_size)
    return result


def _check_inside(plan_: Plan, page_size: int) -> None:
    ends = iter(plan_.vmas)
    vma = next(ends, None)
    for start, pages, _ in plan_.runs:
        at, end = start, start + pages * page_size
        while at < end:
            while vma is not None and vma.end <= at:
                vma = next(ends, None)
            if vma is None or at < vma.start:
                raise ImageError(f"the pagemap has a page at {at:#x}, where no mapping is")
            plan_.filled.add(vma.start)
            at = min(end, vma.end)


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


def clear_rows(present: list[procfs.Mapping]) -> list[Row]:
    """Unmap everything that a new task was born with but the kernel's own mappings."""
    return [Row("munmap", line.start, line.end - line.start) for line in present if line.name not in _SPECIAL]


def vdso_rows(present: list[procfs.Mapping], vmas: list[Any], park: int) -> list[Row]:
    """Move the kernel's own mappings to where the image has them, by way of `park` where old and new place overlap.

    An image has [vvar] and [vvar_vclock] as one mapping; they follow each other without a gap.
    """
    ours = [line for line in present if line.name in _SPECIAL and line.name != "[vsyscall]"]
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
    return sum(line.end - line.start for line in present if line.name in _SPECIAL and line.name != "[vsyscall]")


def map_rows(plan_: Plan, fd_of: dict[int, int]) -> list[Row]:
    """One mmap per mapping; private ones with pages are writable until these are in. `fd_of`: file id → descriptor.

    Others keep their protection, because a large reservation (PROT_NONE) that is writable would need the memory.
    """
    rows = []
    for vma in plan_.vmas:
        if vma.status & KERNEL_MADE:
            continue
        prot = vma.prot | PROT_WRITE if _filled(plan_, vma) else vma.prot
        flags = vma.flags & ~MAP_LOCKED | MAP_FIXED_NOREPLACE
        fd, offset = (fd_of[vma.shmid], vma.pgoff) if vma.status & (FILE_PRIVATE | FILE_SHARED) else (-1, 0)
        what = f"the mapping {vma.start:x}-{vma.end:x}"
        rows.append(Row("mmap", vma.start, vma.end - vma.start, prot, flags, fd, offset, what=what))
    return rows


def _filled(plan_: Plan, vma: Any) -> bool:
    return vma.start in plan_.filled and not vma.flags & MAP_SHARED


def fill(remote: Remote, plan_: Plan, pages_fd: int, page_size: int) -> int:
    """Let the task read its pages from the descriptor `pages_fd` of its own; returns how many."""
    vdso = [(vma.start, vma.end) for vma in plan_.vmas if vma.status & KERNEL_MADE]
    pieces = [
        (address, pages * page_size, offset)
        for address, pages, offset in plan_.runs
        if not any(start <= address < end for start, end in vdso)
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


_READ_AT_ONCE = 1 << 30  # preadv(2) moves at most 2 GiB less a page in one call


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


def finish_rows(plan_: Plan) -> list[Row]:
    """Protection, locks and advice, once the pages are in."""
    rows = []
    for vma in plan_.vmas:
        if vma.status & KERNEL_MADE:
            continue
        size = vma.end - vma.start
        what = f"the mapping {vma.start:x}-{vma.end:x}"
        if _filled(plan_, vma) and not vma.prot & PROT_WRITE:
            rows.append(Row("mprotect", vma.start, size, vma.prot, what=what))
        if vma.flags & MAP_LOCKED:
            rows.append(Row("mlock", vma.start, size, what=what))
        rows += [Row("madvise", vma.start, size, n, what=what) for n in ADVICE.values() if vma.madv >> n & 1]
    return rows


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


def same_vdso(plan_: Plan, own: bytes, pages: int) -> bool:
    """Whether the image's vDSO pages, where it has them in the file `pages`, are this kernel's, byte for byte."""
    for vma in plan_.vmas:
        if vma.status & VDSO:
            for address, _, offset in plan_.runs:
                if address == vma.start:
                    return os.pread(pages, len(own), offset) == own
    return True
