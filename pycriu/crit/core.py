# SPDX-License-Identifier: GPL-2.0-only
"""`crit core`: ELF core files out of images, one per process with all its threads, as gdb wants them.

What the images hold is written; of mapped files what is not in the images comes from the files, where they still are
what they were. Pages of zeros are holes of the file. A stretch that nobody has the bytes of, and a hole of more than
MAX_HOLE, is a segment without content.
"""

from __future__ import annotations

import os
import re
import struct
from typing import TYPE_CHECKING, Any, TextIO

from pycriu.arch import elfcore
from pycriu.crit import elf, search
from pycriu.crit.content import PIECE, UNKNOWN, ZERO, Stretch, runs
from pycriu.crit.output import replaced
from pycriu.crit.space import Memory, Process, opened, processes
from pycriu.errors import ImageError, UserError
from pycriu.images.catalogue import FILE_PRIVATE, FILE_SHARED

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator, Sequence

    from pycriu.arch.description import Arch

MAX_HOLE = 1 << 30
_MAX_ARGUMENTS = 80
_LONGEST_FRAME = 1024
_STATES = {1: (0, "S"), 3: (3, "T")}  # task_state → number and letter of NT_PRPSINFO
_PROTECTION = ((1, elf.PF_R), (2, elf.PF_W), (4, elf.PF_X))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `crit core`."""
    parser.add_argument("images", metavar="DIR", help="a directory of images, or an archive of them")
    parser.add_argument("-o", "--out-dir", metavar="DIR", default=".", help="where core.PID goes (default: here)")
    parser.add_argument("-p", "--pid", type=int, metavar="PID", help="only this process")
    parser.add_argument("--root", metavar="DIR", default="/", help="where the mapped files lie (default: /)")
    parser.add_argument("--no-files", action="store_true", help="leave out what only the mapped files hold")


def run(args: argparse.Namespace, out: TextIO) -> int:
    """Write them; a line for each."""
    if not os.path.isdir(args.out_dir):
        raise UserError(f"{args.out_dir}: no directory", "-o names the directory for the core files")
    with opened(args.images) as layers:
        found = chosen(processes(layers[0]), args.pid)
        with Memory(layers, from_disk=not args.no_files, root=args.root) as memory:
            for process in found:
                path = os.path.join(args.out_dir, f"core.{process.pid}")
                size, stored = write(path, process, memory, layers[0])
                out.write(f"{path}: {len(process.entry.threads)} threads, {stored} of {size} bytes stored\n")
            for remark in memory.remarks:
                out.write(f"  {remark}\n")
    return 0


def chosen(found: list[Process], pid: int | None) -> list[Process]:
    """All processes, or the one; UserError where there is none."""
    wanted = [one for one in found if pid in (None, one.pid)]
    if not wanted:
        has = ", ".join(str(one.pid) for one in found) or "none"
        raise UserError(f"no process {pid} with memory is in the images" if pid else "no process here has memory", has)
    return wanted


def write(path: str, process: Process, memory: Memory, images: Any) -> tuple[int, int]:
    """Write the core file of a process; its length, and how many bytes of that are no holes.

    It appears under its name when it is whole.
    """
    own = memory.own_pages(process)
    pieces = [piece for vma in process.vmas for piece in _segments(process, vma, memory, own)]
    arch = elfcore.by_mtype(process.core.mtype)
    try:
        notes = elf.joined(_notes(process, arch, images, memory, own))
    except struct.error as error:
        raise ImageError(f"core-{process.pid}.img: an id, a signal or the like is out of bounds: {error}") from None
    plan = elf.layout(arch.elf_machine, notes, [segment for segment, _ in pieces], process.page_size)
    stored = [stretches for segment, stretches in pieces if segment.stored]
    with replaced(path, "-o names another directory, -p one process only") as file:
        written = file.write(plan.head)
        for offset, stretches in zip(plan.offsets, stored, strict=True):
            written += _copy(file, offset, stretches, process.page_size)
        file.truncate(plan.size)
    return plan.size, written


def _copy(file: Any, offset: int, stretches: Sequence[Stretch], page: int) -> int:
    """Write what is not zero; how many bytes that was."""
    zeros = bytes(page)
    written = 0
    for one in stretches:
        if one.source is ZERO:
            offset += one.end - one.start
            continue
        for at in range(0, one.end - one.start, PIECE):
            data = one.source.read(one.offset + at, min(PIECE, one.end - one.start - at))
            for start, end in _used(data, zeros):
                piece = memoryview(data)[start:end]
                while piece:  # a disk that is nearly full takes a part
                    taken = os.pwrite(file.fileno(), piece, offset + end - len(piece))
                    piece = piece[taken:]
                    written += taken
            offset += len(data)
    return written


def _used(data: bytes, zeros: bytes) -> Iterator[tuple[int, int]]:
    """The runs of pages that are not all zeros."""
    start = None
    for at in range(0, len(data), len(zeros)):
        if data.startswith(zeros, at) if len(data) - at >= len(zeros) else not any(data[at:]):
            if start is not None:
                yield start, at
            start = None
        elif start is None:
            start = at
    if start is not None:
        yield start, len(data)


def _segments(
    process: Process, vma: Any, memory: Memory, own: Sequence[Stretch]
) -> Iterator[tuple[elf.Segment, list[Stretch]]]:
    """A mapping as segments: stored ones, and between them what is not known or too long a hole."""
    flags = sum(flag for bit, flag in _PROTECTION if vma.prot & bit)
    run: list[Stretch] = []
    for one in _with_holes(memory.stretches(process, vma, own), readable=bool(vma.prot)):
        if one.source is not UNKNOWN:
            run.append(one)
            continue
        if run:
            yield elf.Segment(run[0].start, run[-1].end, flags, True), run
        yield elf.Segment(one.start, one.end, flags, False), []
        run = []
    if run:
        yield elf.Segment(run[0].start, run[-1].end, flags, True), run


def _with_holes(stretches: Iterable[Stretch], *, readable: bool) -> Iterator[Stretch]:
    """Zeros that are too many, or that the process could not have read, are left out."""
    for one in stretches:
        hole = one.source is ZERO and (one.end - one.start > MAX_HOLE or not readable)
        yield Stretch(one.start, one.end, UNKNOWN, 0) if hole else one


def _notes(
    process: Process, arch: Arch, images: Any, memory: Memory, own: Sequence[Stretch]
) -> Iterator[tuple[str, int, bytes]]:
    """All notes: the first thread, then the process, then the other threads, as the kernel writes them."""
    top = max((vma.end for vma in process.vmas if vma.start < arch.task_size << 9), default=1)
    tids = [process.pid, *(tid for tid in process.entry.threads if tid != process.pid)]
    cores = [_core(process, tid, arch, images) for tid in tids]
    extras = [_extras(images, tid) for tid in tids]
    sets = elfcore.notes(arch, list(zip(cores, extras, strict=True)), top, _vector_length(arch, own))
    yield "CORE", elf.NT_PRSTATUS, _prstatus(process, tids[0], cores[0], arch)
    yield "CORE", elf.NT_PRPSINFO, _prpsinfo(process, memory, own)
    yield "CORE", elf.NT_SIGINFO, elf.siginfo(process.core.tc.stop_signo)
    yield "CORE", elf.NT_AUXV, b"".join(word.to_bytes(8, "little") for word in process.mm.mm_saved_auxv)
    yield "CORE", elf.NT_FILE, elf.files(_mapped(process, memory), process.page_size)
    for tid, core, others in zip(tids, cores, sets, strict=True):
        if tid != tids[0]:
            yield "CORE", elf.NT_PRSTATUS, _prstatus(process, tid, core, arch)
        yield from others


def _vector_length(arch: Arch, own: Sequence[Stretch]) -> int:
    """What the first signal frame in memory says of the length of vectors; 0 where there is none."""
    frame = elfcore.vector_frame(arch)
    if frame is None:
        return 0
    compiled = re.compile(frame, re.DOTALL)
    for start, pieces in runs(own):
        for found in search.Pattern(compiled, _LONGEST_FRAME).matches(start, pieces):
            inside = compiled.match(found.text)
            if inside is not None:
                return int.from_bytes(inside[1], "little")
    return 0


def _core(process: Process, tid: int, arch: Arch, images: Any) -> Any:
    core = process.core if tid == process.pid else images.read_one(f"core-{tid}.img")
    if core.mtype != process.core.mtype or not core.HasField(arch.thread_info):
        raise ImageError(f"core-{tid}.img has no registers of {arch.name}")
    return core


def _extras(images: Any, tid: int) -> dict[str, bytes]:
    """Register sets that CRIU's messages have no fields for."""
    names = {kind: f"pycriu-{kind}-{tid}.img" for kind in ("xstate", "sve")}
    return {kind: images.read_one(name).data for kind, name in names.items() if images.exists(name)}


def _prstatus(process: Process, tid: int, core: Any, arch: Arch) -> bytes:
    registers, _ = arch.load(core)
    entry, of_thread = process.entry, core.thread_core
    held = of_thread.blk_sigset if of_thread.HasField("blk_sigset") else core.tc.blk_sigset
    queued = [*of_thread.signals_p.signals, *core.tc.signals_s.signals]
    status = elf.Thread(
        tid=tid, ppid=entry.ppid, pgid=entry.pgid, sid=entry.sid, signal=process.core.tc.stop_signo,
        pending=_signal_set(one.siginfo for one in queued), held=held, registers=arch.gpr.pack(*registers),
    )  # fmt: skip
    return elf.prstatus(status)


def _signal_set(infos: Iterable[bytes]) -> int:
    numbers = {int.from_bytes(info[:4], "little") for info in infos}
    return sum(1 << number - 1 for number in numbers if 1 <= number <= 64)


def _prpsinfo(process: Process, memory: Memory, own: Sequence[Stretch]) -> bytes:
    entry, creds = process.entry, process.core.thread_core.creds
    ids = (process.pid, entry.ppid, entry.pgid, entry.sid)
    nice = max(-20, min(19, process.core.thread_core.sched_nice))
    state = _STATES.get(process.core.tc.task_state, (0, "R"))
    mm = process.mm
    size = min(max(mm.mm_arg_end - mm.mm_arg_start, 0), _MAX_ARGUMENTS)
    arguments = read(process, memory, own, mm.mm_arg_start, size)
    words = arguments.rstrip(b"\0").replace(b"\0", b" ")
    return elf.prpsinfo(ids, state, nice, (creds.uid, creds.gid), (process.name.encode(), words))


def read(process: Process, memory: Memory, own: Sequence[Stretch], start: int, size: int) -> bytes:
    """Bytes of a process's memory; fewer where they end, or where nobody knows them."""
    found = b""
    for vma in process.vmas:
        if vma.start <= start + len(found) < vma.end:
            for one in memory.stretches(process, vma, own):
                at = start + len(found)
                if len(found) < size and one.start <= at < one.end:
                    if one.source is UNKNOWN:
                        return found
                    found += one.source.read(one.offset + at - one.start, min(size - len(found), one.end - at))
    return found


def _mapped(process: Process, memory: Memory) -> list[elf.Mapped]:
    """The file mappings. A newline in a name is one; what cannot be is a NUL byte."""
    found = []
    for vma in process.vmas:
        if not vma.status & (FILE_PRIVATE | FILE_SHARED):
            continue
        path = memory.files.path(vma.shmid).encode(errors="surrogateescape").replace(b"\0", b"?")
        found.append(elf.Mapped(vma.start, vma.end, vma.pgoff // process.page_size, path))
    return found
