# SPDX-License-Identifier: GPL-2.0-only
"""What of ELF programs and libraries on the disk is needed: segments, and values of exported symbols. elf(5)."""

from __future__ import annotations

import os
import struct
from functools import lru_cache
from typing import TYPE_CHECKING

from pycriu.fds import validation
from pycriu.record import record

if TYPE_CHECKING:
    from collections.abc import Iterator

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_SHDR = struct.Struct("<IIQQQQIIQQ")
_SYM = struct.Struct("<IBBHQQ")
_PT_LOAD, _PT_NOTE = 1, 4
_SHT_SYMTAB, _SHT_DYNSYM = 2, 11
_SYMBOLS = (_SHT_SYMTAB, _SHT_DYNSYM)
_TABLE_MAX = 1 << 26  # bytes of a table that is read
_PAGE = 0xFFF


@record
class Part:
    """A PT_LOAD of a program: at `address` in its own counting, `offset` in the file."""

    address: int
    size: int
    offset: int
    stored: int
    prot: int  # PROT_*


@record
class Program:
    """An ELF file."""

    path: str
    entry: int
    parts: tuple[Part, ...]
    sections: tuple[int, int, int]  # offset, size of one, number

    @property
    def first(self) -> int:
        """The page at which it begins, in its own counting."""
        return self.parts[0].address & ~_PAGE

    def part_at(self, address: int) -> Part | None:
        """The part that decides the rights of the page at `address`, in its own counting."""
        found = None
        for one in self.parts:  # where two share a page of the file, each has it mapped at a page of its own
            if one.address & ~_PAGE <= address < one.address + one.size:
                found = one
        return found

    def symbol(self, name: str) -> int | None:
        """The value of an exported symbol, in its own counting; None where it has none."""
        return _symbols(self.path, self.sections).get(name.encode())


@lru_cache(maxsize=256)
def opened(path: str) -> Program | None:
    """The ELF file at `path`; None for what is none, or cannot be read."""
    try:
        with open(path, "rb", opener=_opener) as file:
            head = file.read(_EHDR.size)
            if len(head) < _EHDR.size or head[:6] != b"\x7fELF\x02\x01":
                return None
            _, _, _, _, entry, at, sections, _, _, size, count, section_size, section_count, _ = _EHDR.unpack(head)
            if size != _PHDR.size:
                return None
            file.seek(at)
            table = file.read(size * count)
            parts = tuple(_parts(table[: len(table) // size * size]))
            return Program(path, entry, parts, (sections, section_size, section_count)) if parts else None
    except (OSError, OverflowError, ValueError):  # whatever it is, it is no program that could have been mapped
        return None


def build_id(page: bytes) -> bytes:
    """The GNU build-id in the first page of an ELF file, as far as its notes are there; else empty."""
    if len(page) < _EHDR.size:
        return b""
    at, size, count = struct.unpack_from("<Q14xHH", page, 32)
    table = page[at : at + size * count] if size == _PHDR.size else b""
    for kind, _, offset, _, _, length, *_ in _PHDR.iter_unpack(table[: len(table) // _PHDR.size * _PHDR.size]):
        if kind == _PT_NOTE and (found := validation.parse_notes(page[offset : offset + length])):
            return found
    return b""


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def _parts(table: bytes) -> Iterator[Part]:
    for kind, flags, offset, address, _, stored, size, _ in _PHDR.iter_unpack(table):
        if kind == _PT_LOAD and size:
            yield Part(address, size, offset, stored, (flags & 4) >> 2 | flags & 2 | (flags & 1) << 2)


@lru_cache(maxsize=8)
def _symbols(path: str, sections: tuple[int, int, int]) -> dict[bytes, int]:
    """Symbols, by name without a version; those that are exported count first."""
    at, size, count = sections
    found: dict[bytes, int] = {}
    try:
        with open(path, "rb", opener=_opener) as file:
            file.seek(at)
            table = [_SHDR.unpack(file.read(size)) for _ in range(count)] if size == _SHDR.size else []
            # a static program exports nothing, but may have its symbols still
            for _, kind, _, _, offset, length, link, *_ in sorted(table, key=lambda row: row[1] != _SHT_DYNSYM):
                if kind in _SYMBOLS and link < count and max(length, table[link][5]) <= _TABLE_MAX:
                    file.seek(offset)
                    symbols = file.read(length)
                    file.seek(table[link][4])
                    names = file.read(table[link][5])
                    found = dict(_named(symbols[: len(symbols) // _SYM.size * _SYM.size], names)) | found
    except (OSError, struct.error, OverflowError, ValueError):  # not the file that its first page promised
        return {}
    return found


def _named(symbols: bytes, names: bytes) -> Iterator[tuple[bytes, int]]:
    for name, _, _, section, value, _ in _SYM.iter_unpack(symbols):
        end = names.find(b"\0", name)
        if section and end > name:
            yield names[name:end], value
