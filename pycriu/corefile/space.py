# SPDX-License-Identifier: GPL-2.0-only
"""The memory of a core as mappings: what its segments and NT_FILE say together, and what neither says.

The kernel writes a segment for each mapping, debuggers leave out those whose content is in a file: these are in
NT_FILE alone, and their rights are those of the program's segment. Nobody writes whether a mapping is shared.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from typing import TYPE_CHECKING

from pycriu.corefile import program
from pycriu.errors import ImageError, UserError
from pycriu.fds import validation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pycriu.corefile.reader import Core, Mapped, Segment

PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4
AT_PHDR, AT_ENTRY, AT_SYSINFO_EHDR = 3, 9, 33
DELETED = " (deleted)"
_NAMELESS = ("/dev/zero", "/memfd:", "/SYSV", "/anon_hugepage", "/[aio]", "anon_inode:")
_SHM = "/dev/shm/"


class Region:
    """One mapping to be: `stored` are the pieces of it that the core has, as address, length and offset in the core."""

    __slots__ = (
        "always", "end", "known", "line", "offset", "path", "prot", "shared", "start", "stored", "vdso", "vvar",
    )  # fmt: skip

    def __init__(self, start: int, end: int, prot: int, line: Mapped | None, *, known: bool) -> None:
        self.start, self.end, self.prot = start, end, prot
        self.line = line  # of NT_FILE
        self.path = line.path if line is not None else ""  # emptied where its content comes from the core alone
        self.offset = line.offset + start - line.start if line is not None else 0
        self.stored: list[tuple[int, int, int]] = []
        self.known = known  # whether the core tells the rights
        self.shared = self.vdso = self.vvar = False
        self.always = False  # nobody knows what is there without the pages of the core

    @property
    def size(self) -> int:
        """In bytes."""
        return self.end - self.start

    @property
    def whole(self) -> bool:
        """Whether the core has all of it."""
        return sum(length for _, length, _ in self.stored) == self.size

    def __repr__(self) -> str:
        rights = "".join(letter if self.prot & bit else "-" for letter, bit in (("r", 1), ("w", 2), ("x", 4)))
        return f"{self.start:x}-{self.end:x} {rights} {self.path or 'anonymous'}"


class Space:
    """All of them, in the order of addresses. `lacks` is what had to be assumed, in words."""

    def __init__(self, core: Core, executable: str | None = None) -> None:
        self.core = core
        self.lacks: list[str] = []
        self.regions = _joined(_cut(core))
        self._mark_vdso()
        self.executable = self._find_executable(executable)
        for path, regions in sorted(self._by_path().items()):
            self._settle(regions, path)

    def _by_path(self) -> dict[str, list[Region]]:
        found: dict[str, list[Region]] = {}
        for one in self.regions:
            if one.path:
                found.setdefault(one.path, []).append(one)
        return found

    @classmethod
    def of(cls, core: Core, regions: list[Region]) -> Space:
        """That of mappings which are known otherwise."""
        made = cls.__new__(cls)
        made.core, made.lacks, made.regions, made.executable = core, [], regions, ""
        return made

    def at(self, address: int) -> Region | None:
        """The mapping of an address."""
        number = bisect_right(self.regions, address, key=lambda one: one.start) - 1
        return self.regions[number] if number >= 0 and address < self.regions[number].end else None

    def read(self, address: int, size: int) -> bytes:
        """Bytes of memory, out of the core or out of a mapped file; fewer where nobody has them."""
        data = self.core.read(address, size)
        region = self.at(address + len(data))
        if len(data) < size and region is not None and region.path:
            try:
                with open(region.path, "rb", opener=lambda p, flags: os.open(p, flags | os.O_NONBLOCK)) as file:
                    file.seek(region.offset + address + len(data) - region.start)
                    data += file.read(min(size - len(data), region.end - address - len(data)))
            except OSError:
                return data
        return data

    def base(self, path: str) -> int | None:
        """By how much a mapped ELF file lies above its own addresses; None where its beginning is not mapped."""
        found = program.opened(path)
        first = next((one for one in self.regions if one.path == path), None)
        if found is None or first is None:
            return None
        part = next((part for part in found.parts if part.offset & ~0xFFF == first.offset), None)
        found_at = first.start - (part.address & ~0xFFF) if part is not None else -1
        return found_at if found_at >= 0 else None

    # ------------------------------------------------------------------------------------------------------ what it is

    def _mark_vdso(self) -> None:
        """The vDSO, and right before it the pages of the kernel's clocks, whose content is the kernel's."""
        address = self.core.auxiliary(AT_SYSINFO_EHDR)
        vdso = self.at(address) if address else None
        if vdso is None or vdso.path or vdso.start != address:
            return
        vdso.vdso = True
        before = vdso.start
        for one in reversed(self.regions):
            if one.end == before and one.line is None and one.prot == PROT_READ:
                one.vvar, before = True, one.start

    def _find_executable(self, wanted: str | None) -> str:
        """The path of the program, which may lie elsewhere than it did."""
        address = self.core.auxiliary(AT_PHDR) or self.core.auxiliary(AT_ENTRY)
        mapped = self.at(address)
        if mapped is None or mapped.line is None:
            name = self.core.process.name if self.core.process is not None else ""
            begun = (one for one in self.regions if one.line is not None and one.offset == 0)
            mapped = next((one for one in begun if name and os.path.basename(one.path).startswith(name)), None)
        if wanted is None:
            if mapped is None or not mapped.path:
                raise UserError(f"{self.core.path} does not tell the program", "--executable names it")
            return mapped.path.removesuffix(DELETED)
        if not os.path.isfile(wanted):
            raise UserError(f"{wanted}: no such program")
        found, was = os.path.realpath(wanted), mapped.path if mapped is not None else ""
        for one in self.regions:
            if was and one.path == was:
                one.path = found
        return found

    def _settle(self, regions: list[Region], path: str) -> None:
        """Whether a file is what was mapped; the rights, and whether it is shared, of its mappings."""
        named = path.startswith("/") and not path.endswith(DELETED) and not path.startswith(_NAMELESS)
        gone = not named or not os.path.isfile(path)
        wrong = "" if gone else self._differs(regions, path)
        if gone or wrong:
            self._take_from_core(regions, path, wrong or "is not there")
            return
        elf = program.opened(path)
        base = self.base(path)
        for one in regions:
            if not one.known:
                part = elf.part_at(one.start - base) if elf is not None and base is not None else None
                one.prot = part.prot if part is not None else PROT_READ
                if path.startswith(_SHM):
                    one.prot, one.shared = PROT_READ | PROT_WRITE, True
                    self.lacks.append(f"the rights of the mapping of {path} at {one.start:#x}: it is shared now")
                elif part is None:
                    self.lacks.append(f"the rights of the mapping of {path} at {one.start:#x}: it is read-only now")
            elif elf is None and one.prot & PROT_WRITE and not one.stored:
                one.shared = True
                self.lacks.append(f"whether the mapping of {path} at {one.start:#x} was shared: it is now")

    def _differs(self, regions: list[Region], path: str) -> str:
        """What is wrong with the file of an ELF mapping whose first page the core has; empty: nothing."""
        for one in regions:
            then = self.core.read(one.start, 1 << 12) if one.offset == 0 else b""
            if len(then) == 1 << 12 and then[:4] == b"\x7fELF":
                with open(path, "rb") as file:
                    now = file.read(1 << 12)
                mine, wanted = validation.build_id(path), program.build_id(then)
                if now != then[: len(now)] and (not mine or mine != wanted):  # strip(1) changes the header, no more
                    return f"is another build (its build-id is {mine.hex() or 'none'}, not {wanted.hex() or 'none'})"
        return ""

    def _take_from_core(self, regions: list[Region], path: str, why: str) -> None:
        """The memory is the core's alone, and private."""
        missing = next((one for one in regions if not one.whole and one.prot), None)
        if missing is not None:
            raise UserError(
                f"{path} {why}, and the core does not hold what was mapped of it at {missing.start:#x}",
                "put the file back as it was; --executable names a program that has moved",
            )
        self.lacks.append(f"what {path} was: it {why}, and its content is private memory now")
        for one in regions:
            one.path, one.offset = "", 0


def _cut(core: Core) -> list[Region]:
    """Segments, each cut where NT_FILE has a border; and what NT_FILE has and no segment."""
    pieces: list[Region] = []
    lines = core.files
    first = 0
    for segment in core.segments:
        while first < len(lines) and lines[first].end <= segment.start:
            first += 1
        at, number = segment.start, first
        while number < len(lines) and lines[number].start < segment.end:
            line = lines[number]
            if at < line.start:
                pieces.append(_piece(segment, at, line.start, None))
            end = min(line.end, segment.end)
            pieces.append(_piece(segment, max(at, line.start), end, line))
            at, number = end, number + 1
        if at < segment.end:
            pieces.append(_piece(segment, at, segment.end, None))
    return sorted([*pieces, *_left_out(core)], key=lambda one: one.start)


def _left_out(core: Core) -> Iterator[Region]:
    """What NT_FILE has and no segment: of what rights, nobody knows."""
    number = 0
    for line in core.files:
        while number < len(core.segments) and core.segments[number].end <= line.start:
            number += 1
        at, later = line.start, number
        while at < line.end:
            known = core.segments[later] if later < len(core.segments) else None
            until = line.end if known is None else min(max(known.start, at), line.end)
            if at < until:
                yield Region(at, until, PROT_READ, line, known=False)
            at, later = line.end if known is None else max(until, min(known.end, line.end)), later + 1


def _piece(segment: Segment, start: int, end: int, line: Mapped | None) -> Region:
    prot = (segment.flags & 4) >> 2 | segment.flags & 2 | (segment.flags & 1) << 2
    made = Region(start, end, prot, line, known=True)
    there = segment.start + segment.stored
    if start < there:
        made.stored.append((start, min(end, there) - start, segment.offset + start - segment.start))
    return made


def _joined(pieces: list[Region]) -> list[Region]:
    """What is one mapping though the core has it in several segments, of which some have no content."""
    found: list[Region] = []
    for one in pieces:
        last = found[-1] if found else None
        if last is not None and last.end > one.start:
            raise ImageError(f"two mappings overlap at {one.start:#x}")
        same = last is not None and last.end == one.start and last.line is one.line and last.prot == one.prot
        if last is not None and same and last.known == one.known and (one.line or last.whole != one.whole):
            last.end = one.end
            last.stored += one.stored
        else:
            found.append(one)
    return found
