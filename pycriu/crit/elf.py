# SPDX-License-Identifier: GPL-2.0-only
"""An ELF core file in the making (elf(5), core(5)): headers, notes, and segments that need not have their bytes.

All values are little-endian and of 64 bits. Pure: what goes in is numbers and bytes, what comes out is bytes.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ET_CORE, EV_CURRENT = 4, 1
PT_LOAD, PT_NOTE = 1, 4
PF_X, PF_W, PF_R = 1, 2, 4
PN_XNUM = 0xFFFF  # more program headers than e_phnum can tell: section header 0 has their number
NT_PRSTATUS, NT_PRPSINFO, NT_AUXV = 1, 3, 6
NT_SIGINFO, NT_FILE = 0x53494749, 0x46494C45

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_SHDR = struct.Struct("<IIQQQQIIQQ")
_NOTE = struct.Struct("<III")

# struct elf_prstatus up to the registers: siginfo (number, code, errno), current signal, pending, held, four ids, and
# four struct timeval
PRSTATUS = struct.Struct("<iiih2xQQiiii8Q")
# struct elf_prpsinfo: state, its letter, zombie, nice, flags, uid, gid, four ids, name, arguments
PRPSINFO = struct.Struct("<bcbbxxxxQIIiiii16s80s")
_SIGINFO_SIZE = 128


class Segment(NamedTuple):
    """Addresses from `start` up to `end`; `stored` says whether the file has their bytes."""

    start: int
    end: int
    flags: int
    stored: bool


class Thread(NamedTuple):
    """What NT_PRSTATUS says of a thread."""

    tid: int
    ppid: int
    pgid: int
    sid: int
    signal: int  # by which it was stopped, or 0
    pending: int
    held: int
    registers: bytes


class Mapped(NamedTuple):
    """One line of NT_FILE; the offset is in pages."""

    start: int
    end: int
    page: int
    path: bytes


def note(owner: str, kind: int, data: bytes) -> bytes:
    """One note, padded."""
    name = owner.encode() + b"\0"
    return _NOTE.pack(len(name), len(data), kind) + _padded(name) + _padded(data)


def prstatus(thread: Thread) -> bytes:
    """NT_PRSTATUS."""
    low = (1 << 64) - 1
    head = PRSTATUS.pack(
        thread.signal, 0, 0, thread.signal, thread.pending & low, thread.held & low,
        thread.tid, thread.ppid, thread.pgid, thread.sid, *[0] * 8,
    )  # fmt: skip
    return head + thread.registers + struct.pack("<i4x", 1)  # the floating-point registers are there, too


def prpsinfo(
    ids: Sequence[int], state: tuple[int, str], nice: int, owner: tuple[int, int], words: Sequence[bytes]
) -> bytes:
    """NT_PRPSINFO: PID, parent, group, session; state and its letter; uid and gid; name and arguments."""
    name, arguments = words
    return PRPSINFO.pack(state[0], state[1].encode(), 0, nice, 0, *owner, *ids, name[:15], arguments[:80])


def siginfo(signal: int) -> bytes:
    """NT_SIGINFO: a siginfo_t of which only the signal's number is known."""
    return struct.pack("<iii", signal, 0, 0).ljust(_SIGINFO_SIZE, b"\0")


def files(mapped: Sequence[Mapped], page_size: int) -> bytes:
    """NT_FILE."""
    head = struct.pack("<QQ", len(mapped), page_size)
    numbers = b"".join(struct.pack("<QQQ", one.start, one.end, one.page) for one in mapped)
    return head + numbers + b"".join(one.path + b"\0" for one in mapped)


class Layout(NamedTuple):
    """Where everything lies in a file."""

    head: bytes  # from the beginning of the file up to the first segment
    offsets: list[int]  # of the segments that are stored, in their order
    size: int


def layout(machine: int, notes: bytes, segments: Sequence[Segment], page_size: int) -> Layout:
    """The headers and notes of a core file, and where its segments go."""
    count = len(segments) + 1
    many = count >= PN_XNUM
    notes_at = _EHDR.size + count * _PHDR.size
    sections_at = _rounded(notes_at + len(notes), 8) if many else 0
    at = _rounded((sections_at + _SHDR.size) if many else notes_at + len(notes), page_size)
    ident = b"\x7fELF" + bytes((2, 1, EV_CURRENT, 0)) + bytes(8)
    head = bytearray(
        _EHDR.pack(
            ident, ET_CORE, machine, EV_CURRENT, 0, _EHDR.size, sections_at, 0, _EHDR.size, _PHDR.size,
            PN_XNUM if many else count, _SHDR.size if many else 0, int(many), 0,
        )
    )  # fmt: skip
    head += _PHDR.pack(PT_NOTE, 0, notes_at, 0, 0, len(notes), 0, 4)
    offsets = []
    end = at
    for one in segments:
        size = one.end - one.start
        head += _PHDR.pack(PT_LOAD, one.flags, end, one.start, 0, size if one.stored else 0, size, page_size)
        if one.stored:
            offsets.append(end)
            end += size
    head += notes
    if many:
        head += bytes(sections_at - len(head)) + _SHDR.pack(0, 0, 0, 0, 0, 1, 0, count, 0, 0)
    return Layout(bytes(head.ljust(at, b"\0")), offsets, end)


def joined(notes: Iterable[tuple[str, int, bytes]]) -> bytes:
    """Notes one behind the other."""
    return b"".join(note(*one) for one in notes)


def _padded(data: bytes) -> bytes:
    return data.ljust(_rounded(len(data), 4), b"\0")


def _rounded(size: int, unit: int) -> int:
    return -(-size // unit) * unit
