# SPDX-License-Identifier: GPL-2.0-only
"""Core files as they are read: notes, segments, mappings; whatever is damaged is refused in words."""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path
from typing import Any

import pytest

from pycriu.arch import aarch64, elfcore, x86_64
from pycriu.corefile import build, clib, importing
from pycriu.corefile.asked import Options
from pycriu.corefile.pages import Writer
from pycriu.corefile.reader import Core
from pycriu.corefile.space import Space
from pycriu.crit import elf
from pycriu.errors import ImageError, PycriuError, Unsupported, UserError
from pycriu.images import messages as m

PAGE = 4096
GPR = list(range(1, 28))


def status(tid: int = 100, registers: bytes = b"", **changes: int) -> bytes:
    """NT_PRSTATUS."""
    registers = registers or struct.pack("<27Q", *GPR)
    fields = {"ppid": 1, "pgid": 100, "sid": 100, "signal": 3, "pending": 0, "held": 4} | changes
    return elf.prstatus(elf.Thread(tid=tid, registers=registers, **fields))


def xstate(size: int = 2440, used: int = 0b111) -> bytes:
    """The extended state, with `used` components."""
    raw = bytearray(size)
    raw[464:472] = (0x2E7).to_bytes(8, "little")
    raw[512:520] = used.to_bytes(8, "little")
    return bytes(raw)


def notes(*threads: int, auxv: tuple[int, ...] = (6, PAGE), files: tuple[elf.Mapped, ...] = ()) -> bytes:
    """The notes of a core, as the kernel has them."""
    first, *others = threads or (100,)
    found = [
        ("CORE", elf.NT_PRSTATUS, status(first)),
        ("CORE", elf.NT_PRPSINFO, elf.prpsinfo((100, 1, 100, 100), (0, "R"), 5, (7, 8), (b"name", b"name of it"))),
        ("CORE", elf.NT_SIGINFO, elf.siginfo(3)),
        ("CORE", elf.NT_AUXV, struct.pack(f"<{len(auxv) + 2}Q", *auxv, 0, 0)),
        ("CORE", elf.NT_FILE, elf.files(files, PAGE)),
        ("LINUX", x86_64.NT_X86_XSTATE, xstate()),
    ]
    for tid in others:
        found += [("CORE", elf.NT_PRSTATUS, status(tid)), ("LINUX", x86_64.NT_X86_XSTATE, xstate())]
    return elf.joined(found)


def written(folder: Path, segments: list[elf.Segment], data: bytes | None = None, machine: int = 62) -> Path:
    """A core with segments whose pages have the number of the page in them."""
    plan = elf.layout(machine, notes() if data is None else data, segments, PAGE)
    content = bytearray(plan.head.ljust(plan.size, b"\0"))
    for offset, one in zip(plan.offsets, [one for one in segments if one.stored], strict=True):
        for at in range(0, one.end - one.start, PAGE):
            content[offset + at : offset + at + 8] = ((one.start + at) // PAGE).to_bytes(8, "little")
    path = folder / "core"
    path.write_bytes(content)
    return path


def stored(start: int, pages: int = 1, flags: int = 6) -> elf.Segment:
    """A segment with content."""
    return elf.Segment(start, start + pages * PAGE, flags, True)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    data = notes(101, 100, files=(elf.Mapped(0x10000, 0x12000, 3, b"/a/b"),))
    with Core(str(written(tmp_path, [stored(0x10000, 2), elf.Segment(0x20000, 0x22000, 4, False)], data))) as core:
        assert [one.tid for one in core.threads] == [101, 100]
        assert core.pid == 100
        assert core.process is not None
        assert (core.process.nice, core.process.uid, core.process.gid) == (5, 7, 8)
        assert (core.process.name, core.process.arguments) == ("name", "name of it")
        assert (core.threads[0].held, core.threads[0].signal) == (4, 3)
        assert core.auxiliary(6) == PAGE
        (line,) = core.files
        assert (line.start, line.end, line.offset, line.path) == (0x10000, 0x12000, 3 * PAGE, "/a/b")
        assert core.word(0x11000) == 0x11
        assert core.read(0x10FFC, 8) == bytes(4) + (0x11).to_bytes(4, "little")
        assert core.read(0x20000, 1) == b""
        assert core.word(0x11FFC) is None
        assert {len(one.sets[x86_64.NT_X86_XSTATE]) for one in core.threads} == {2440}


def test_more_segments_than_e_phnum_can_tell(tmp_path: Path) -> None:
    count = 0x10010
    segments = [elf.Segment(at * 2 * PAGE, (at * 2 + 1) * PAGE, 6, False) for at in range(1, count)]
    with Core(str(written(tmp_path, segments))) as core:
        assert len(core.segments) == count - 1
        assert core.segments[-1].start == (count - 1) * 2 * PAGE


def test_a_core_that_was_cut_says_so(tmp_path: Path) -> None:
    path = written(tmp_path, [stored(0x10000, 4)])
    os.truncate(path, path.stat().st_size - 2 * PAGE - 100)
    with Core(str(path)) as core:
        assert core.truncated
        assert core.segments[0].stored == 2 * PAGE - 100
        assert core.word(0x11000) == 0x11


@pytest.mark.parametrize(
    ("at", "value", "says"),
    [
        (0, b"\x7fELG", "not an ELF core"),
        (4, b"\x01", "32 bits"),
        (16, b"\x02\x00", "not an ELF core"),
        (18, b"\x08\x00", "architecture that pycriu does not know"),
        (32, (1 << 63).to_bytes(8, "little"), "ends before"),
        (54, b"\x20\x00", "make no core file"),
        (56, b"\x00\x00", "make no core file"),
        (56, b"\xff\xff", "no section to count"),
        (64 + 8, (1 << 62).to_bytes(8, "little"), "ends before"),
        (64 + 32, (1 << 40).to_bytes(8, "little"), "bytes of notes"),
        (120 + 16, (0x10001).to_bytes(8, "little"), "not aligned"),
        (120 + 40, (1 << 63).to_bytes(8, "little"), "out of bounds"),
        (120 + 8, (1 << 63).to_bytes(8, "little"), "out of bounds"),
    ],
)
def test_headers_that_lie(tmp_path: Path, at: int, value: bytes, says: str) -> None:
    path = written(tmp_path, [stored(0x10000)])
    data = bytearray(path.read_bytes())
    data[at : at + len(value)] = value
    path.write_bytes(data)
    with pytest.raises(PycriuError, match=says):
        Core(str(path))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no thread"),
        (elf.note("CORE", elf.NT_PRSTATUS, bytes(50)), "NT_PRSTATUS has 50 bytes"),
        (elf.note("CORE", elf.NT_PRSTATUS, status(0)), "id of no thread"),
        (elf.note("CORE", elf.NT_PRSTATUS, status(1 << 30)), "id of no thread"),
        (elf.note("CORE", elf.NT_PRSTATUS, status()) * 2, "the same id"),
        (elf.note("CORE", elf.NT_PRSTATUS, status())[:-4], "ends behind the notes"),
        (elf.note("CORE", elf.NT_PRPSINFO, bytes(20)), "NT_PRPSINFO has 20 bytes"),
        (elf.note("CORE", elf.NT_FILE, struct.pack("<QQ", 1 << 60, 1)), "NT_FILE promises"),
        (elf.note("CORE", elf.NT_FILE, b"short"), "too short"),
        (notes(auxv=(6, 5)), "a page has 5 bytes"),
        (notes(files=(elf.Mapped(5, 7, 0, b"/a"),)), "not aligned"),
        (notes(files=(elf.Mapped(0x10000, 0x11000, 1 << 51, b"/a"),)), "of no place in a file"),
    ],
)
def test_notes_that_lie(tmp_path: Path, data: bytes, says: str) -> None:
    with pytest.raises(ImageError, match=says):
        Core(str(written(tmp_path, [stored(0x10000)], data)))


def test_pids_that_are_free() -> None:
    """Those that ask at the same time are told others, and nobody fewer than are needed."""
    assert len({tuple(importing.free_pids(3)) for _ in range(20)}) > 1
    with pytest.raises(UserError, match="4194304 threads need a PID each"):
        importing.free_pids(1 << 22)


def test_damaged_at_random(tmp_path: Path) -> None:
    """Whatever it is, it is read, or refused in words."""
    whole = written(tmp_path, [stored(0x10000, 3), stored(0x40000)], notes(100, 101)).read_bytes()
    source, refused = random.Random(5), 0
    for _ in range(500):
        data = bytearray(whole)
        for _ in range(source.randrange(1, 8)):
            data[source.randrange(min(len(data), 9000))] = source.randrange(256)
        (tmp_path / "core").write_bytes(data[: source.choice((len(data), source.randrange(len(data))))])
        try:
            with Core(str(tmp_path / "core")) as core:
                space = Space(core, "/bin/true")
                build.mm(space, build.Files())
                finder = clib.Finder(space)
                for thread, info, _ in build.infos(core):
                    build.core_entry(core, thread, info, finder.of(thread, info), first=True).SerializeToString()
                with open(os.devnull, "wb", buffering=0) as out:
                    Writer(out.fileno(), PAGE).take(space)
        except PycriuError:
            refused += 1
    assert 50 < refused < 450


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name, says in (("fifo", "ends before"), ("nothing", "No such file"), (".", "Is a directory")):
        with pytest.raises(PycriuError, match=says):
            Core(str(tmp_path / name))


# ------------------------------------------------------------------------------------------------------- registers


def saved(arch: Any, gpr: list[int], sets: dict[int, bytes], *, tid_address: int = 0) -> Any:
    """A core_entry with these registers."""
    info, extras = arch.save(gpr, sets, tid_address)
    entry = m.core_entry(mtype=arch.mtype)
    getattr(entry, arch.thread_info).CopyFrom(info)
    return entry, extras


def test_notes_of_images_are_the_images_again() -> None:
    """What `crit core` makes of a thread is read as that thread, with the layout of Intel's CPUs."""
    raw = bytearray(xstate(2696, 0b1011100111))
    for number, (at, _, _) in ((5, (1088, 0, 0)), (6, (1152, 0, 0)), (7, (1664, 0, 0)), (9, (2688, 0, 0))):
        raw[at] = number
    offsets = {2: 576, 3: 960, 4: 1024, 5: 1088, 6: 1152, 7: 1664, 9: 2688}
    info, _ = x86_64.save(GPR, {x86_64.NT_X86_XSTATE: bytes(raw)}, 0, offsets.__getitem__)
    entry = m.core_entry(mtype=1, thread_info=info)
    (sets,) = elfcore.notes(x86_64.X86_64, [(entry, {})], 1 << 47)
    gpr = [*GPR]
    gpr[x86_64.ORIG_AX] = (1 << 64) - 1
    again, extras = elfcore.thread_info(
        x86_64.X86_64, struct.pack("<27Q", *gpr), {kind: data for _, kind, data in sets}, 0
    )
    for one in (again, info):
        one.fpregs.ClearField("padding")  # room for software, where notes have the features
    assert again.fpregs == info.fpregs
    assert again.fpregs.xsave.hi16_zmm[0] == 7
    assert not extras


@pytest.mark.parametrize(("size", "place"), [(2440, 832), (2696, 1088)])
def test_components_lie_where_the_cpu_had_them(size: int, place: int) -> None:
    raw = bytearray(xstate(size, 0b100111))
    raw[place : place + 8] = (77).to_bytes(8, "little")
    info, _ = elfcore.thread_info(x86_64.X86_64, struct.pack("<27Q", *GPR), {x86_64.NT_X86_XSTATE: bytes(raw)}, 0)
    assert info.fpregs.xsave.opmask_reg[0] == 77


def test_the_kernel_tells_where_components_lie() -> None:
    raw = bytearray(xstate(2696, 0b100111))
    raw[2000:2008] = (78).to_bytes(8, "little")
    sets = {x86_64.NT_X86_XSTATE: bytes(raw), elfcore.NT_X86_XSAVE_LAYOUT: struct.pack("<IIII", 5, 64, 2000, 0)}
    info, _ = elfcore.thread_info(x86_64.X86_64, struct.pack("<27Q", *GPR), sets, 0)
    assert info.fpregs.xsave.opmask_reg[0] == 78


def test_without_extended_state_there_is_the_legacy_one() -> None:
    legacy = bytearray(512)
    legacy[24:28] = (0x1F80).to_bytes(4, "little")
    legacy[160] = 9
    info, _ = elfcore.thread_info(x86_64.X86_64, struct.pack("<27Q", *GPR), {2: bytes(legacy)}, 0)
    assert (info.fpregs.mxcsr, info.fpregs.xmm_space[0]) == (0x1F80, 9)
    assert elfcore.lacking(x86_64.X86_64, {2: bytes(legacy)}, here=False)


def test_an_interrupted_call_is_made_again() -> None:
    """nanosleep(2) at a kernel's core, or a debugger's: rax is -ERESTART_RESTARTBLOCK."""
    gpr = [0] * 27
    gpr[x86_64.ORIG_AX], gpr[x86_64.AX], gpr[x86_64.IP] = 35, -516 & (1 << 64) - 1, 0x1002
    info, _ = elfcore.thread_info(x86_64.X86_64, struct.pack("<27Q", *gpr), {x86_64.NT_X86_XSTATE: xstate()}, 0)
    assert (info.gpregs.ax, info.gpregs.ip) == (35, 0x1000)


def test_registers_of_aarch64(tmp_path: Path) -> None:
    """On whatever machine; keys come back, and where only their mask is told, somebody has to know."""
    gpr, simd = list(range(34)), struct.pack("<64QII8x", *range(64), 1, 2)
    keys = struct.pack("<8Q", *range(8))
    sets = {
        2: simd, aarch64.NT_ARM_TLS: (0x5000).to_bytes(8, "little"), aarch64.NT_ARM_PACA_KEYS: keys,
        aarch64.NT_ARM_SVE: struct.pack("<IIHHHH", 544, 544, 16, 16, 0, 0) + simd,
    }  # fmt: skip
    arch = aarch64.AARCH64
    info, extras = elfcore.thread_info(arch, struct.pack("<34Q", *gpr), sets, 0x99)
    assert list(info.gpregs.regs) == gpr[:31]
    assert (info.tls, info.clear_tid_addr) == (0x5000, 0x99)
    assert list(info.fpsimd.vregs) == list(range(64))
    assert info.pac_keys.pac_address_keys.apdbkey_hi == 7
    assert not extras, "SVE says no more than FP/SIMD"
    assert elfcore.thread_pointer(arch, info) == 0x5000
    mask = {2: simd, elfcore.NT_ARM_PAC_MASK: bytes(16)}
    assert elfcore.signs_addresses(arch, mask)
    assert not elfcore.signs_addresses(arch, mask | sets)
    with pytest.raises(ImageError, match="is missing"):
        elfcore.thread_info(arch, struct.pack("<34Q", *gpr), mask, 0)


@pytest.mark.parametrize("length", [16, 32, 64, 256])
def test_vectors_that_gdb_writes_as_sve(length: int) -> None:
    """It leaves out FP/SIMD then, which is the lower part of each vector, and what the kernel has for alignment."""
    vectors = b"".join(struct.pack("<QQ", n, n + 100).ljust(length, b"\xff") for n in range(32))
    body, words = vectors + bytes(17 * length // 8), struct.pack("<II", 7, 8)
    aligned = body.ljust(-(-(16 + len(body)) // 16) * 16 - 16, b"\0") + words
    whole = aligned.ljust(-(-(16 + len(aligned)) // 16) * 16 - 16, b"\0")

    def with_header(data: bytes) -> bytes:
        return struct.pack("<IIHHHH", 16 + len(data), 16 + len(data), length, length, 1, 0) + data

    tls = {aarch64.NT_ARM_TLS: (0x5000).to_bytes(8, "little")}
    for raw in (with_header(whole), with_header(body + words)):
        sets = tls | {aarch64.NT_ARM_SVE: raw}
        info, extras = elfcore.thread_info(aarch64.AARCH64, struct.pack("<34Q", *range(34)), sets, 0)
        assert list(info.fpsimd.vregs) == [word for n in range(32) for word in (n, n + 100)]
        assert (info.fpsimd.fpsr, info.fpsimd.fpcr) == (7, 8)
        assert extras == {"sve": with_header(whole)}
    with pytest.raises(ImageError):
        cut = tls | {aarch64.NT_ARM_SVE: with_header(whole)[:300]}
        elfcore.thread_info(aarch64.AARCH64, struct.pack("<34Q", *range(34)), cut, 0)


@pytest.mark.parametrize("size", [0, 100, 511, 600, 2439])
def test_register_sets_that_are_too_short(size: int) -> None:
    sets = {x86_64.NT_X86_XSTATE: xstate(2440, (1 << 10) - 1)[:size]}
    with pytest.raises(ImageError):
        elfcore.thread_info(x86_64.X86_64, struct.pack("<27Q", *GPR), sets, 0)


# ---------------------------------------------------------------------------------------------------------- memory


def lines(*words: tuple[int, int, int, str]) -> tuple[elf.Mapped, ...]:
    return tuple(elf.Mapped(start, start + pages * PAGE, offset, path.encode()) for start, pages, offset, path in words)


def test_segments_and_names_become_mappings(tmp_path: Path) -> None:
    """A segment over two files is cut; what has a name and no segment is there; the rest is anonymous."""
    one, two = tmp_path / "one", tmp_path / "two"
    for path in (one, two):
        path.write_bytes(bytes(4 * PAGE))
    named = lines((0x10000, 2, 0, str(one)), (0x12000, 1, 1, str(two)), (0x30000, 1, 2, str(two)))
    data = notes(auxv=(6, PAGE, 9, 0x10000), files=named)
    segments = [stored(0x10000, 4), elf.Segment(0x20000, 0x22000, 0, False)]
    with Core(str(written(tmp_path, segments, data))) as core:
        space = Space(core)
        found = [(one.start, one.end, one.prot, os.path.basename(one.path), one.offset) for one in space.regions]
        assert found == [
            (0x10000, 0x12000, 3, "one", 0),
            (0x12000, 0x13000, 3, "two", PAGE),
            (0x13000, 0x14000, 3, "", 0),
            (0x20000, 0x22000, 0, "", 0),
            (0x30000, 0x31000, 1, "two", 2 * PAGE),
        ]
        assert any("rights of the mapping" in one for one in space.lacks)
        assert space.executable == str(one)


def test_a_mapping_in_pieces_is_one(tmp_path: Path) -> None:
    """`crit core` leaves out what it does not know in the middle of a mapping."""
    segments = [stored(0x10000), elf.Segment(0x11000, 0x12000, 6, False), stored(0x12000)]
    data = notes(auxv=(6, PAGE, 9, 0x10000))
    with Core(str(written(tmp_path, segments, data))) as core:
        (region,) = Space(core, "/bin/true").regions
        assert (region.start, region.end, region.whole) == (0x10000, 0x13000, False)
        assert [address for address, _, _ in region.stored] == [0x10000, 0x12000]


def test_a_file_that_is_gone_is_needed_or_not(tmp_path: Path) -> None:
    named = lines((0x10000, 2, 0, "/dev/zero (deleted)"))
    data = notes(auxv=(6, PAGE), files=named)
    with Core(str(written(tmp_path, [stored(0x10000, 2)], data))) as core:
        space = Space(core, "/bin/true")
        assert [one.path for one in space.regions] == [""]
        assert "private memory now" in space.lacks[0]
    with (
        Core(str(written(tmp_path, [elf.Segment(0x10000, 0x12000, 6, False)], data))) as core,
        pytest.raises(UserError, match="the core does not hold"),
    ):
        Space(core, "/bin/true")


def test_only_pages_that_differ_are_written(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes((0x10).to_bytes(8, "little") + bytes(PAGE - 8) + b"other".ljust(PAGE, b"\0") + b"end")
    named = lines((0x10000, 3, 0, str(file)))
    data = notes(auxv=(6, PAGE), files=named)
    with Core(str(written(tmp_path, [stored(0x10000, 3), stored(0x20000, 2)], data))) as core:
        space = Space(core, "/bin/true")
        with open(tmp_path / "pages", "wb", buffering=0) as out:
            writer = Writer(out.fileno(), PAGE, {0x20010: b"patched"})
            writer.take(space)
    assert writer.runs == [(0x11000, 2), (0x20000, 2)]
    content = (tmp_path / "pages").read_bytes()
    assert content[2 * PAGE + 16 :].startswith(b"patched")
    assert content[:8] == (0x11).to_bytes(8, "little")


def test_holes_and_zeros_are_no_pages(tmp_path: Path) -> None:
    path = written(tmp_path, [stored(0x10000, 600)])
    data = bytearray(path.read_bytes())
    size = len(data) - 600 * PAGE
    path.write_bytes(data[:size])
    with open(path, "r+b") as file:
        file.truncate(len(data))
        file.seek(size + 500 * PAGE)
        file.write(b"x")
    with Core(str(path)) as core, open(tmp_path / "pages", "wb", buffering=0) as out:
        writer = Writer(out.fileno(), PAGE)
        writer.take(Space(core, "/bin/true"))
        assert writer.runs == [(0x10000 + 500 * PAGE, 1)]


def test_a_process_without_its_first_thread_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    path = written(tmp_path, [stored(0x10000)], notes(101, 102))
    with pytest.raises(Unsupported, match="had lost its first thread"):
        importing.run(Options(core=str(path), images_dir=str(tmp_path / "images"), executable="/bin/true"))
    assert not list((tmp_path / "images").iterdir())


@pytest.mark.parametrize(("result", "number", "says"), [(0, 435, True), (200, 435, False), (0, 202, False)])
def test_a_thread_that_has_done_nothing_yet(tmp_path: Path, result: int, number: int, says: bool) -> None:
    gpr = [0] * 27
    gpr[x86_64.AX], gpr[x86_64.ORIG_AX], gpr[x86_64.IP] = result, number, 0x10102
    data = elf.note("CORE", elf.NT_PRSTATUS, status(100, struct.pack("<27Q", *gpr)))
    path = written(tmp_path, [stored(0x10000)], data)
    with open(path, "r+b") as file:
        file.seek(-PAGE + 0x100, os.SEEK_END)
        file.write(b"\x0f\x05")
    with Core(str(path)) as core:
        assert clib.begins(Space(core, "/bin/true"), core.threads[0]) is says


def test_what_is_not_known_of_threads_is_told_once(tmp_path: Path) -> None:
    """Of a C library that is not glibc, or of a debugger that writes less than there is."""
    (tmp_path / "images").mkdir()
    plain = [("CORE", elf.NT_PRSTATUS, status(tid)) for tid in range(100, 108)]
    sets = [("CORE", 2, bytes(512))]
    data = notes(100) + elf.joined([one for note in plain[1:] for one in (note, *sets)])
    path = written(tmp_path, [stored(0x10000)], data)
    made = importing.run(Options(core=str(path), images_dir=str(tmp_path / "images"), executable="/bin/true"))
    ids = [one for one in made.lacks if "clears the id" in one]
    assert ids == [
        "where the kernel clears the id at the end of threads 100, 101, 102, 103, 104 and 3 more: whoever joins it "
        "waits for ever"
    ]
    (vectors,) = (one for one in made.lacks if "NT_X86_XSTATE" in one)
    assert vectors.endswith("of threads 101, 102, 103, 104, 105 and 2 more")


# ------------------------------------------------------------------------------------------- descriptors and words
