# SPDX-License-Identifier: GPL-2.0-only
"""An ELF core file as it is read: program headers (also more than 65534 of them), notes, threads. core(5), elf(5).

Cores of the kernel, of gdb's gcore and of `crit core`. A core is hostile input: every count, size and offset is held
against the file before use. Little-endian and 64 bits; no others.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from bisect import bisect_right
from typing import TYPE_CHECKING, Any

from pycriu.arch import elfcore
from pycriu.crit import elf
from pycriu.errors import ImageError, Unsupported, UserError
from pycriu.record import record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from pycriu.arch.description import Arch

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_SHDR = struct.Struct("<IIQQQQIIQQ")
_NOTE = struct.Struct("<III")
_MAX_NOTES = 1 << 28  # bytes; a thread has a few KiB of them
_MAX_SEGMENTS = 1 << 20
_MAX_NAMES = 1 << 16  # lines of NT_FILE
_MAX_TID = 1 << 22
_KERNEL_HALF = 1 << 63  # [vsyscall] lies there
AT_PAGESZ = 6


@record
class Segment:
    """Memory from `start` to `end`; the file has `stored` bytes of its beginning, at `offset`."""

    start: int
    end: int
    flags: int  # PF_*
    offset: int
    stored: int


@record
class Mapped:
    """A line of NT_FILE; the offset is in bytes."""

    start: int
    end: int
    offset: int
    path: str


class Thread:
    """One thread: what NT_PRSTATUS says, and its register sets by type."""

    __slots__ = ("general", "held", "pending", "pgid", "ppid", "sets", "sid", "signal", "tid")

    def __init__(self, data: bytes, general_size: int) -> None:
        head = elf.PRSTATUS
        if len(data) < head.size + general_size:
            raise ImageError(f"NT_PRSTATUS has {len(data)} bytes, {head.size + general_size} are due")
        _, _, _, self.signal, self.pending, self.held, self.tid, self.ppid, self.pgid, self.sid, *_ = head.unpack_from(
            data
        )
        if not 0 < self.tid < _MAX_TID:
            raise ImageError(f"NT_PRSTATUS: {self.tid} is the id of no thread")
        self.general = data[head.size : head.size + general_size]
        self.sets: dict[int, bytes] = {}


@record
class Process:
    """NT_PRPSINFO."""

    nice: int
    uid: int
    gid: int
    pid: int
    ppid: int
    pgid: int
    sid: int
    name: str
    arguments: str  # the first 80 bytes, blanks between words


class Core:
    """An open core file. A context manager. `threads` begins with the one that the core was written for."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            # O_NONBLOCK: a FIFO must not make us wait
            self.fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from None
        try:
            status = os.fstat(self.fd)
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            self.size = status.st_size
            self._read()
        except BaseException as error:
            os.close(self.fd)
            if isinstance(error, OSError):  # also of a disk that fails
                raise UserError(f"{path}: {error.strerror}") from None
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def _read(self) -> None:
        self.truncated = False
        self.segments: list[Segment] = []
        self.threads: list[Thread] = []
        self.process: Process | None = None
        self.auxv: list[int] = []
        self.files: list[Mapped] = []
        self.signal_info = b""
        header = self._bytes(0, _EHDR.size, "the ELF header")
        self.arch: Arch = _machine(header, self.path)
        for kind, flags, offset, address, stored, size in self._program_headers(header):
            if kind == elf.PT_NOTE:
                for owner, number, data in self._notes(offset, stored):
                    self._take(owner, number, data)
            elif kind == elf.PT_LOAD and size and address < _KERNEL_HALF:
                self._segment(flags, offset, address, stored, size)
        self.segments.sort(key=lambda one: one.start)
        self._auxiliary = dict(zip(self.auxv[::2], self.auxv[1::2], strict=False))
        self._starts = [one.start for one in self.segments]
        self._check()

    def _program_headers(self, header: bytes) -> Iterator[tuple[int, int, int, int, int, int]]:
        """Type, flags, offset, address, size in the file, size in memory."""
        *_, at, sections, _flags, _size, entry, count, section_size, _sections, _names = _EHDR.unpack(header)
        if count == elf.PN_XNUM:
            if section_size != _SHDR.size:
                raise ImageError(f"{self.path}: too many segments for e_phnum, and no section to count them")
            count = _SHDR.unpack(self._bytes(sections, _SHDR.size, "the section header"))[7]
        if entry != _PHDR.size or not 0 < count <= _MAX_SEGMENTS:
            raise ImageError(f"{self.path}: {count} program headers of {entry} bytes make no core file")
        for kind, flags, offset, address, _, stored, size, _ in _PHDR.iter_unpack(
            self._bytes(at, count * _PHDR.size, "the program headers")
        ):
            yield kind, flags, offset, address, stored, size

    def _segment(self, flags: int, offset: int, address: int, stored: int, size: int) -> None:
        if stored > size or address + size > _KERNEL_HALF or offset + stored >= _KERNEL_HALF:
            raise ImageError(f"{self.path}: the segment at {address:#x} is out of bounds")
        there = max(0, min(stored, self.size - offset))
        self.truncated = self.truncated or there < stored
        self.segments.append(Segment(address, address + size, flags, offset, there))

    def _notes(self, offset: int, size: int) -> Iterator[tuple[str, int, bytes]]:
        if size > _MAX_NOTES:
            raise ImageError(f"{self.path}: {size} bytes of notes; a core has {_MAX_NOTES} at most")
        data, at = self._bytes(offset, size, "the notes"), 0
        while at + _NOTE.size <= len(data):
            name_size, length, kind = _NOTE.unpack_from(data, at)
            name = at + _NOTE.size
            content = name + -(-name_size // 4) * 4
            at = content + -(-length // 4) * 4
            if content + length > len(data):
                raise ImageError(f"{self.path}: a note of type {kind:#x} ends behind the notes")
            yield (
                data[name : name + name_size].rstrip(b"\0").decode(errors="replace"),
                kind,
                data[content : content + length],
            )

    def _take(self, owner: str, kind: int, data: bytes) -> None:
        """One note. What follows a thread's NT_PRSTATUS is that thread's, but for what is said of the process."""
        if owner == "CORE" and kind == elf.NT_PRSTATUS:
            self.threads.append(Thread(data, self.arch.gpr.size))
        elif owner == "CORE" and kind == elf.NT_PRPSINFO:
            self.process = _process(data)
        elif owner == "CORE" and kind == elf.NT_SIGINFO:
            self.signal_info = data
        elif owner == "CORE" and kind == elf.NT_AUXV:
            self.auxv = _words(data)
        elif owner == "CORE" and kind == elf.NT_FILE:
            self.files = _files(data)
        elif owner in ("CORE", "LINUX") and self.threads:
            for thread in self.threads if kind in elfcore.OF_ALL_THREADS else self.threads[-1:]:
                thread.sets[kind] = data

    def _check(self) -> None:
        if not self.threads:
            raise ImageError(f"{self.path}: no thread is in it (no NT_PRSTATUS)")
        if len({one.tid for one in self.threads}) != len(self.threads):
            raise ImageError(f"{self.path}: two threads have the same id")
        end = 0
        for one in self.segments:
            if one.start < end or one.start % self.page_size or one.end % self.page_size:
                raise ImageError(f"{self.path}: the segment at {one.start:#x} is not aligned, or overlaps another")
            end = one.end
        end = 0
        for line in self.files:
            aligned = not line.start % self.page_size and not line.end % self.page_size
            if not aligned or not end <= line.start < line.end < _KERNEL_HALF:
                raise ImageError(f"{self.path}: NT_FILE: the mapping at {line.start:#x} is not aligned, or overlaps")
            if line.offset + line.end - line.start >= _KERNEL_HALF:
                raise ImageError(f"{self.path}: NT_FILE: the mapping at {line.start:#x} is of no place in a file")
            end = line.end

    @property
    def page_size(self) -> int:
        """In bytes; from the auxiliary vector."""
        size = self.auxiliary(AT_PAGESZ) or 4096
        if size not in (4096, 16384, 65536):
            raise ImageError(f"{self.path}: the auxiliary vector says that a page has {size} bytes")
        return size

    def auxiliary(self, key: int) -> int:
        """A value of the auxiliary vector; 0 where it has none."""
        return self._auxiliary.get(key, 0)

    @property
    def pid(self) -> int:
        """Of the process; without NT_PRPSINFO, the id of the first thread."""
        return self.process.pid if self.process is not None else self.threads[0].tid

    def read(self, address: int, size: int) -> bytes:
        """Bytes of memory; fewer where the core has no more."""
        found = b""
        number = bisect_right(self._starts, address) - 1
        while 0 <= number < len(self.segments) and len(found) < size:
            one, at = self.segments[number], address + len(found)
            if not one.start <= at < one.start + one.stored:
                break
            data = os.pread(self.fd, min(size - len(found), one.start + one.stored - at), one.offset + at - one.start)
            found += data
            number += 1 if data else len(self.segments)
        return found

    def word(self, address: int) -> int | None:
        """Eight bytes as a number; None where the core has not all of them."""
        data = self.read(address, 8)
        return int.from_bytes(data, "little") if len(data) == 8 else None

    def _bytes(self, offset: int, size: int, what: str) -> bytes:
        data = os.pread(self.fd, size, offset) if offset < _KERNEL_HALF and offset + size <= self.size else b""
        if len(data) != size:
            raise ImageError(f"{self.path} ends before {what}", "the core was cut, or is none")
        return data


def _machine(header: bytes, path: str) -> Arch:
    ident, kind, machine, *_ = _EHDR.unpack(header)
    if ident[:4] != b"\x7fELF" or kind != elf.ET_CORE:
        hint = (
            None if any(header) else "it begins with zeros: gdb writes the header last, and the disk may have been full"
        )
        raise UserError(f"{path} is not an ELF core file", hint)
    if ident[4:6] != b"\x02\x01":
        raise Unsupported(f"{path} is the core of a program of 32 bits, or of a big-endian machine")
    return elfcore.by_machine(machine)


def _process(data: bytes) -> Process:
    if len(data) < elf.PRPSINFO.size:
        raise ImageError(f"NT_PRPSINFO has {len(data)} bytes, {elf.PRPSINFO.size} are due")
    fields: tuple[Any, ...] = elf.PRPSINFO.unpack_from(data)
    _, _, _, nice, _, uid, gid, pid, ppid, pgid, sid, name, arguments = fields
    if not 0 < pid < _MAX_TID or not 0 <= pgid < _MAX_TID or not 0 <= sid < _MAX_TID:
        raise ImageError(f"NT_PRPSINFO: the process {pid} in group {pgid} and session {sid} is out of bounds")
    words = os.fsdecode(arguments.split(b"\0")[0]).strip()
    return Process(nice, uid, gid, pid, ppid, pgid, sid, name.split(b"\0")[0].decode(errors="replace"), words)


def _words(data: bytes) -> list[int]:
    """Keys and values, up to AT_NULL."""
    words = [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data) - 7, 8)]
    end = next((at for at in range(0, len(words) - 1, 2) if words[at] == 0), len(words) // 2 * 2)
    return words[:end]


def _files(data: bytes) -> list[Mapped]:
    """Where names were cut (core_file_note_size_limit), the lines that have one."""
    if len(data) < 16:
        raise ImageError("NT_FILE is too short")
    count, unit = struct.unpack_from("<QQ", data)
    if count > _MAX_NAMES or 16 + 24 * count > len(data) or not 0 < unit <= 1 << 21:
        raise ImageError(f"NT_FILE promises {count} mappings in units of {unit} bytes, and has {len(data)} bytes")
    names = data[16 + 24 * count :].split(b"\0")
    lines = struct.iter_unpack("<QQQ", data[16 : 16 + 24 * count])
    return [
        Mapped(start, end, page * unit, os.fsdecode(name))
        for (start, end, page), name in zip(lines, names, strict=False)
        if name
    ]
