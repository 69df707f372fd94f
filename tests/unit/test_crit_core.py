# SPDX-License-Identifier: GPL-2.0-only
"""Core files: every byte of memory at its address, every register where debuggers look for it, holes that are holes."""

from __future__ import annotations

import io
import os
import struct
import tarfile
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

from pycriu.arch import aarch64, elfcore
from pycriu.crit import cli, core, elf
from pycriu.errors import ImageError, Unsupported, UserError
from pycriu.images import messages as m
from tests.unit import checkpoints as c


def cores(tmp_path: Path, change: Any = None, *words: str) -> Path:
    """The folder with the core files of a checkpoint."""
    images = c.write(tmp_path, change)
    out = tmp_path / "out"
    out.mkdir()
    assert cli.main(["core", str(images), "-o", str(out), *words]) == 0
    return out


class Core:
    """A core file, read by pyelftools."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        self.elf = ELFFile(io.BytesIO(self.data))
        self.loads = [one for one in self.elf.iter_segments() if one["p_type"] == "PT_LOAD"]

    def read(self, at: int, size: int) -> bytes | None:
        """Memory; None where the file has none."""
        for one in self.loads:
            if one["p_vaddr"] <= at < one["p_vaddr"] + one["p_filesz"]:
                start = one["p_offset"] + at - one["p_vaddr"]
                return self.data[start : start + size]
        return None

    def notes(self) -> list[tuple[str, int, bytes]]:
        """Owner, type, content."""
        segment = next(one for one in self.elf.iter_segments() if one["p_type"] == "PT_NOTE")
        data, found, at = segment.data(), [], 0
        while at < len(data):
            name, size, kind = struct.unpack_from("<III", data, at)
            at += 12
            owner = data[at : at + name - 1].decode()
            at += -(-name // 4) * 4
            found.append((owner, kind, data[at : at + size]))
            at += -(-size // 4) * 4
        return found


def test_memory_is_at_its_addresses(tmp_path: Path) -> None:
    out = cores(tmp_path)
    first, second = Core(out / "core.100"), Core(out / "core.102")
    assert first.read(c.FILE, 3) == b"fff", "the file itself"
    assert first.read(c.FILE + c.PAGE, 3) == b"xxx", "what the process has written to its copy"
    assert first.read(c.FILE + 2 * c.PAGE, c.PAGE) == b"h" * 100 + bytes(c.PAGE - 100), "the end of the file"
    assert first.read(c.ANON + 8, 2) == b"AA"
    assert first.read(c.ANON + c.PAGE, 2) == b"\0\0"
    assert first.read(c.ANON + 2 * c.PAGE, 2) == b"CC"
    assert first.read(c.SHARED + c.PAGE, c.PAGE) == b"S" * c.PAGE
    assert second.read(c.SHARED, c.PAGE) == b"S" * c.PAGE, "mapped from its second page on"
    assert first.read(c.RESERVED, 1) is None
    assert {one["p_vaddr"]: one["p_flags"] for one in first.loads}[c.FILE] == elf.PF_R | elf.PF_X
    assert sum(one["p_memsz"] for one in first.loads) == (3 + 13 + 4) * c.PAGE + (1 << 32)


def test_holes_are_not_written(tmp_path: Path) -> None:
    out = cores(tmp_path)
    status = os.stat(out / "core.100")
    assert status.st_size > 20 * c.PAGE
    assert status.st_blocks * 512 <= 9 * c.PAGE, "seven pages have content, and there are the headers"
    assert status.st_mode & 0o777 == 0o600
    assert sorted(os.listdir(out)) == ["core.100", "core.102"]


def test_one_process_and_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = cores(tmp_path, None, "-p", "102")
    assert os.listdir(out) == ["core.102"]
    capsys.readouterr()
    assert cli.main(["core", str(tmp_path / "images"), "-p", "5"]) == 1
    assert "no process 5 with memory is in the images\n  100, 102" in capsys.readouterr().err
    assert cli.main(["core", str(tmp_path / "images"), "-o", str(tmp_path / "nowhere")]) == 1
    assert "-o names the directory" in capsys.readouterr().err


def test_a_file_that_has_changed_is_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = c.write(tmp_path)
    (tmp_path / "mapped").write_bytes(b"another")
    assert cli.main(["core", str(images), "-o", str(tmp_path)]) == 0
    assert f"{tmp_path}/mapped is 7 bytes, at the dump it was" in capsys.readouterr().out
    first = Core(tmp_path / "core.100")
    assert first.read(c.FILE, 1) is None
    assert first.read(c.FILE + c.PAGE, 1) == b"x"


def test_files_can_be_left_out(tmp_path: Path) -> None:
    first = Core(cores(tmp_path, None, "--no-files") / "core.100")
    assert first.read(c.FILE, 1) is None
    assert first.read(c.FILE + c.PAGE, 1) == b"x"


def test_a_deleted_file_comes_from_the_images(tmp_path: Path) -> None:
    def change(images: dict[str, Any]) -> None:
        ghost = m.ghost_file_entry(uid=0, gid=0, mode=0o100644, chunks=True, size=2 * c.PAGE + 5)
        chunk = m.ghost_chunk_entry(len=5, off=2 * c.PAGE).SerializeToString()
        images["ghost-file-b.img"] = [(ghost, len(chunk).to_bytes(4, "little") + chunk + b"ghost")]
        images["remap-fpath.img"] = [m.remap_file_path_entry(orig_id=1, remap_id=11, remap_type=1)]

    first = Core(cores(tmp_path, change) / "core.100")
    assert first.read(c.FILE, 1) == b"\0", "a hole of the deleted file"
    assert first.read(c.FILE + 2 * c.PAGE, 6) == b"ghost\0"


def test_pages_of_a_parent(tmp_path: Path) -> None:
    parent = c.write(tmp_path / "parent")

    def change(images: dict[str, Any]) -> None:
        runs = [(c.FILE + c.PAGE, 1, 4), (c.ANON, 3, 1)]
        images[f"pagemap-{c.FIRST}.img"] = c.pagemap(1, runs)
        images["pages-1.img"] = b"n" * c.PAGE

    images = c.write(tmp_path, change)
    (images / "parent").symlink_to(parent)
    assert cli.main(["core", str(images), "-o", str(tmp_path)]) == 0
    first = Core(tmp_path / "core.100")
    assert first.read(c.FILE + c.PAGE, 1) == b"n"
    assert first.read(c.ANON + 2 * c.PAGE, 1) == b"C"
    assert first.read(c.ANON + c.PAGE, 1) is None, "neither has it"


def test_pages_that_were_given_up_are_not_zeros(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A set that a later dump has been deduplicated against has holes where the later one has pages."""

    def change(images: dict[str, Any]) -> None:
        images["pycriu-punched.img"] = [m.pycriu_punched_entry(uptime=1)]
        images["pages-1.img"] = b""

    images = c.write(tmp_path, change)
    with open(images / "pages-1.img", "wb") as file:
        file.truncate(3 * c.PAGE)
        file.seek(2 * c.PAGE)
        file.write(b"C" * c.PAGE)
    assert cli.main(["core", str(images), "-o", str(tmp_path)]) == 0
    first = Core(tmp_path / "core.100")
    assert first.read(c.ANON, 1) is None
    assert first.read(c.ANON + c.PAGE, 1) == b"\0", "never touched"
    assert first.read(c.ANON + 2 * c.PAGE, 1) == b"C"
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(images, "images")
    capsys.readouterr()
    assert cli.main(["core", str(tmp_path / "x.tar"), "-o", str(tmp_path)]) == 1
    assert "which pages were given up" in capsys.readouterr().err


def test_notes(tmp_path: Path) -> None:
    notes = Core(cores(tmp_path) / "core.100").notes()
    kinds = [kind for _, kind, _ in notes]
    assert kinds[:5] == [elf.NT_PRSTATUS, elf.NT_PRPSINFO, elf.NT_SIGINFO, elf.NT_AUXV, elf.NT_FILE]
    threads = [data for _, kind, data in notes if kind == elf.NT_PRSTATUS]
    assert [len(data) for data in threads] == [336, 336]
    assert [struct.unpack_from("<i", data, 32)[0] for data in threads] == [c.FIRST, c.THREAD]
    assert struct.unpack_from("<27Q", threads[1], 112) == tuple(range(2000, 2027))
    assert struct.unpack_from("<Q", threads[0], 24) == (2,), "blocked signals"
    by_kind = {kind: data for _, kind, data in notes}
    info = by_kind[elf.NT_PRPSINFO]
    assert len(info) == 136
    assert struct.unpack_from("<iiii", info, 24) == (c.FIRST, 0, c.FIRST, c.FIRST)
    assert info[40:56].rstrip(b"\0") == b"first"
    assert info[56:].rstrip(b"\0") == b"argv one"
    assert by_kind[elf.NT_AUXV] == struct.pack("<4Q", *c.AUXV)
    count, page, start, end, offset = struct.unpack_from("<5Q", by_kind[elf.NT_FILE])
    assert (count, page, start, end, offset) == (1, c.PAGE, c.FILE, c.FILE + 3 * c.PAGE, 0)
    assert by_kind[elf.NT_FILE][40:] == str(tmp_path / "mapped").encode() + b"\0"


def test_extended_state_has_the_layout_of_its_size() -> None:
    entry = c.core("x", leader=True)
    notes = {kind: data for _, kind, data in elfcore.notes(elfcore.by_mtype(1), [(entry, {})], 1)[0]}
    assert len(notes[2]) == 512
    state = notes[0x202]
    assert len(state) == 832
    assert struct.unpack_from("<Q", state, 464) == (7,)
    assert struct.unpack_from("<Q", state, 512) == (7,)
    assert struct.unpack_from("<64I", state, 576) == tuple(range(100, 164))
    xsave = entry.thread_info.fpregs.xsave
    xsave.xstate_bv = 7 | 7 << 5
    xsave.opmask_reg.extend(range(8))
    xsave.zmm_upper.extend(range(64))
    xsave.hi16_zmm.extend(range(128))
    wide = {kind: data for _, kind, data in elfcore.notes(elfcore.by_mtype(1), [(entry, {})], 1)[0]}[0x202]
    assert len(wide) == 2688
    assert struct.unpack_from("<8Q", wide, 1088) == tuple(range(8))
    raw = {kind: data for _, kind, data in elfcore.notes(elfcore.by_mtype(1), [(entry, {"xstate": b"raw"})], 1)[0]}
    assert raw[0x202] == b"raw"


def test_all_threads_have_the_layout_of_the_widest() -> None:
    """gdb takes the features of the first thread for all, and complains where another has less."""
    narrow, wide = c.core("x", leader=True), c.core("y", leader=False)
    wide.thread_info.fpregs.xsave.xstate_bv = 7 | 1 << 9
    wide.thread_info.fpregs.xsave.pkru.extend((0x55555554, 0))
    states = [sets[1][2] for sets in elfcore.notes(elfcore.by_mtype(1), [(narrow, {}), (wide, {})], 1)]
    assert [len(one) for one in states] == [2696, 2696]
    assert {one[464:472] for one in states} == {(0x2FF).to_bytes(8, "little")}
    assert struct.unpack_from("<I", states[1], 2688) == (0x55555554,)
    raw = bytes(464) + (0x60207).to_bytes(8, "little") + bytes(11008 - 472)
    states = [sets[1][2] for sets in elfcore.notes(elfcore.by_mtype(1), [(narrow, {}), (wide, {"xstate": raw})], 1)]
    assert [len(one) for one in states] == [11008, 11008]
    assert states[0][464:472] == raw[464:472]


SVE = struct.pack("<IIHHHH", 32, 32, 16, 16, 1, 0) + b"all of it"


def aarch64_core() -> Any:
    keys = dict.fromkeys([f"ap{one}key_{half}" for one in ("ia", "ib", "da", "db") for half in ("lo", "hi")], 5)
    info = m.thread_info_aarch64(
        clear_tid_addr=0,
        tls=0x1234,
        gpregs=m.user_aarch64_regs_entry(regs=range(31), sp=1, pc=2, pstate=3),
        fpsimd=m.user_aarch64_fpsimd_context_entry(vregs=range(64), fpsr=8, fpcr=9),
        pac_keys=m.pac_keys(pac_address_keys=m.pac_address_keys(**keys, pac_enabled_key=15)),
    )
    return m.core_entry(mtype=3, ti_aarch64=info)


@pytest.mark.parametrize(("top", "mask"), [(0xFFFF_FFFF_F000, 0x7F << 48), (0x7F_FFFF_F000, 0xFFFF << 39)])
def test_aarch64(top: int, mask: int) -> None:
    """Authentication codes lie above the addresses, whose width the stack tells."""
    arch = elfcore.by_mtype(3)
    assert arch is aarch64.AARCH64
    notes = {kind: data for _, kind, data in elfcore.notes(arch, [(aarch64_core(), {"sve": SVE})], top)[0]}
    assert len(notes[2]) == 528
    assert struct.unpack_from("<64QII", notes[2]) == (*range(64), 8, 9)
    assert notes[aarch64.NT_ARM_TLS] == (0x1234).to_bytes(8, "little")
    assert notes[aarch64.NT_ARM_SVE] == SVE
    assert struct.unpack("<QQ", notes[elfcore.NT_ARM_PAC_MASK]) == (mask, mask)
    assert notes[aarch64.NT_ARM_PACA_KEYS] == struct.pack("<8Q", *[5] * 8)


def test_signal_frames_tell_how_long_vectors_are(tmp_path: Path) -> None:
    """The kernel gives SVE registers that nobody has used yet a note, too, and gdb wants it."""
    context = b"\x01\x80PF" + struct.pack("<I", 528) + b"v" * 520 + b"\x01EVS" + struct.pack("<IH", 16, 64)

    def change(images: dict[str, Any]) -> None:
        for name in (f"core-{c.FIRST}.img", f"core-{c.THREAD}.img"):
            old, new = images[name][0], aarch64_core()
            new.thread_core.CopyFrom(old.thread_core)
            if old.HasField("tc"):
                new.tc.CopyFrom(old.tc)
                new.ids.CopyFrom(old.ids)
            new.ti_aarch64.ClearField("pac_keys")
            images[name] = [new]
        images["pages-1.img"] = images["pages-1.img"][: 2 * c.PAGE] + b"x" * 100 + context.ljust(c.PAGE - 100, b"y")

    found = Core(cores(tmp_path, change, "-p", "100") / "core.100")
    assert found.elf["e_machine"] == "EM_AARCH64"
    sets = [data for _, kind, data in found.notes() if kind == aarch64.NT_ARM_SVE]
    assert len(sets) == 2
    assert struct.unpack_from("<IIHHHH", sets[0]) == (544, 544, 64, 64, 0, 0)
    assert sets[0][16:528] == struct.pack("<64Q", *range(64))


def test_other_architectures_and_wrong_shapes_are_refused() -> None:
    with pytest.raises(Unsupported):
        elfcore.by_mtype(8)
    short = aarch64_core()
    del short.ti_aarch64.fpsimd.vregs[3:]
    with pytest.raises(ImageError, match="wrong shape"):
        elfcore.notes(aarch64.AARCH64, [(short, {})], 1)


def test_more_segments_than_a_header_counts(tmp_path: Path) -> None:
    segments = [elf.Segment(at << 12, at + 1 << 12, elf.PF_R, at % 2 == 0) for at in range(70000)]
    plan = elf.layout(62, elf.note("CORE", 1, b"x"), segments, c.PAGE)
    assert len(plan.offsets) == 35000
    (tmp_path / "core").write_bytes(plan.head)
    found = ELFFile((tmp_path / "core").open("rb"))
    assert found.num_segments() == 70001
    assert found.get_segment(70000)["p_vaddr"] == 69999 << 12


@pytest.mark.parametrize(
    "change",
    [
        lambda images: images.update({"pages-1.img": b"short"}),
        lambda images: images.update({f"pagemap-{c.FIRST}.img": c.pagemap(1, [(c.ANON + 1, 1, 4)])}),
        lambda images: images.update({f"pagemap-{c.FIRST}.img": c.pagemap(1, [(c.ANON, 1, 4), (c.ANON, 1, 4)])}),
        lambda images: images.update({f"pagemap-{c.FIRST}.img": c.pagemap(1, [(c.ANON, 1 << 60, 4)])}),
        lambda images: images[f"mm-{c.FIRST}.img"][0].vmas.add().CopyFrom(c.vma(c.ANON, 1, 1)),
        lambda images: images[f"mm-{c.FIRST}.img"][0].mm_saved_auxv.__setitem__(1, 3),
        lambda images: images[f"core-{c.THREAD}.img"][0].ClearField("thread_info"),
    ],
)
def test_hostile_images_are_refused_and_leave_nothing(
    tmp_path: Path, change: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    images = c.write(tmp_path, change)
    assert cli.main(["core", str(images), "-o", str(tmp_path / "images"), "-p", "100"]) == 1
    assert capsys.readouterr().err.startswith("crit: ")
    assert not [name for name in os.listdir(images) if name.startswith("core.")]


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    images = c.write(tmp_path)
    (tmp_path / "core.100").mkdir()
    assert cli.main(["core", str(images), "-o", str(tmp_path)]) == 1
    assert not (tmp_path / "core.100.part").exists()


def test_zeros_are_told_from_content() -> None:
    zeros = bytes(16)
    data = zeros + b"a" + bytes(31) + b"b" * 16 + zeros + b"c" + bytes(3)
    assert list(core._used(data, zeros)) == [(16, 32), (48, 64), (80, 84)]


def test_chosen() -> None:
    with pytest.raises(UserError):
        core.chosen([], None)


def test_mapped_files_may_lie_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As those of another machine do."""
    images = c.write(tmp_path)
    where = tmp_path / "root" / str(tmp_path / "mapped").lstrip("/")
    where.parent.mkdir(parents=True)
    (tmp_path / "mapped").rename(where)
    assert cli.main(["core", str(images), "-o", str(tmp_path), "--root", str(tmp_path / "root")]) == 0
    assert Core(tmp_path / "core.100").read(c.FILE, 3) == b"fff"
    assert cli.main(["core", str(images), "-o", str(tmp_path)]) == 0
    assert "No such file or directory; its pages are left out" in capsys.readouterr().out


def test_pages_stored_in_a_way_of_the_future(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(images: dict[str, Any]) -> None:
        images[f"pagemap-{c.FIRST}.img"][2].MergeFromString(bytes([15 << 3, 1]))  # field 15: 1

    assert cli.main(["core", str(c.write(tmp_path, change)), "-o", str(tmp_path)]) == 1
    assert "the pages at 0x200000 are stored in a way that is not known here" in capsys.readouterr().err
