# SPDX-License-Identifier: GPL-2.0-only
"""The register sets of a thread as an ELF core file has them: one row per architecture; to notes, and from notes.

NT_PRSTATUS is made of the general registers in the kernel's order, which `Arch.load` gives; the rest stands here, as
fs/binfmt_elf.c and the regsets of the architectures write it. What reads notes takes nothing from the CPU that it runs
on: cores come from elsewhere.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from pycriu.arch import x86_64
from pycriu.arch.aarch64 import (
    AARCH64,
    NT_ARM_PACA_KEYS,
    NT_ARM_PACG_KEYS,
    NT_ARM_SVE,
    NT_ARM_TLS,
    RAW_SVE,
    address_keys,
    generic_key,
)
from pycriu.arch.x86_64 import NT_X86_XSTATE, RAW_XSTATE, X86_64
from pycriu.errors import ImageError, Unsupported
from pycriu.record import record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pycriu.arch.description import Arch, Registers

Note = tuple[str, int, bytes]
"""Owner, type and content of a note."""
Thread = tuple[Any, dict[str, bytes]]
"""A core_entry, and the raw register sets that lie beside it."""

NT_FPREGSET, NT_ARM_PAC_MASK = 2, 0x406
NT_X86_XSAVE_LAYOUT = 0x205  # Linux 6.12: where each component of the extended state lies; one for all threads
OF_ALL_THREADS = (NT_X86_XSAVE_LAYOUT,)
_LAYOUT = struct.Struct("<IIII")  # struct x86_xfeat_component: number, size, offset, flags
_PAC_TOP = 54  # the highest bit of an address that authentication codes use

_FXSAVE = struct.Struct("<HHHHQQII32I64I24I")
_SOFTWARE_AT, _BITMAP_AT = 464, 512
# Component → offset, field, struct format: where Intel's CPUs, and debuggers that have only the file, have them.
_COMPONENTS = {
    2: (576, "ymmh_space", "<64I"),
    3: (960, "bndreg_state", "<8Q"),
    4: (1024, "bndcsr_state", "<8Q"),
    5: (1088, "opmask_reg", "<8Q"),
    6: (1152, "zmm_upper", "<64Q"),
    7: (1664, "hi16_zmm", "<128Q"),
    9: (2688, "pkru", "<2I"),
}
_SIZES = ((9, 2696), (5, 2688), (3, 1088), (0, 832))  # the whole, if a component from this one on is used
_BASE = 0b111  # what every layout has room for: x87, SSE, AVX

_FPSIMD = struct.Struct("<64QII8x")
_SVE_HEADER = struct.Struct("<IIHHHH")  # struct user_sve_header: size, max_size, vl, max_vl, flags, reserved
# struct fpsimd_context, 528 bytes, and behind it struct sve_context: magic, size, vl
_SVE_FRAME = rb"\x01\x80PF\x10\x02\x00\x00.{520}\x01EVS.{4}(..)"


_UNKNOWN = "a CPU architecture that pycriu does not know"


def by_mtype(mtype: int) -> Arch:
    """The architecture of a core_entry; Unsupported for one that pycriu does not know."""
    return _known([arch for arch, _ in _TABLE if arch.mtype == mtype], f"the images are of {_UNKNOWN} (mtype {mtype})")


def by_machine(number: int) -> Arch:
    """The architecture of an ELF file by its e_machine; Unsupported for one that pycriu does not know."""
    found = [arch for arch, _ in _TABLE if arch.elf_machine == number]
    return _known(found, f"the core is of {_UNKNOWN} (e_machine {number})")


def _known(found: list[Arch], otherwise: str) -> Arch:
    if not found:
        raise Unsupported(otherwise, "it knows " + " and ".join(arch.name for arch, _ in _TABLE))
    return found[0]


def vector_frame(arch: Arch) -> bytes | None:
    """A regular expression for the part of a signal frame that tells how long vectors are; its group 1 does."""
    return _VECTOR_FRAMES.get(arch)


def notes(arch: Arch, threads: Sequence[Thread], top: int, vector_length: int = 0) -> list[list[Note]]:
    """Every register set but the general one of the threads of a process.

    `top` is the end of its highest mapping; `vector_length` is what signal frames in its memory say, 0 if none does.
    """
    try:
        return dict(_TABLE)[arch](threads, top, vector_length)
    except struct.error as error:
        raise ImageError(f"a register set of the image has the wrong shape: {error}") from None


def _x86_64(threads: Sequence[Thread], _top: int, _vector_length: int) -> list[list[Note]]:
    """The extended state of all threads of a process has one size and one set of features, as the kernel writes it."""
    used = 0
    raw_size, raw_features = 0, 0
    for core, extras in threads:
        used |= sum(1 << n for n in _held(core.thread_info.fpregs))
        if raw := extras.get(RAW_XSTATE):
            raw_size, raw_features = len(raw), int.from_bytes(raw[_SOFTWARE_AT : _SOFTWARE_AT + 8], "little")
    size = next(size for least, size in _SIZES if used >> least) if used else _SIZES[-1][1]
    features = _BASE | sum(1 << n for n, (at, _, _) in _COMPONENTS.items() if at < size)
    if raw_size:
        size, features = max(size, raw_size), raw_features
    found = []
    for core, extras in threads:
        fp = core.thread_info.fpregs
        legacy = _FXSAVE.pack(
            fp.cwd, fp.swd, fp.twd, fp.fop, fp.rip, fp.rdp, fp.mxcsr, fp.mxcsr_mask,
            *fp.st_space, *fp.xmm_space, *(fp.padding or bytes(24)),
        )  # fmt: skip
        state = extras.get(RAW_XSTATE) or _xstate(legacy, fp, size, features)
        found.append([("CORE", NT_FPREGSET, legacy), ("LINUX", NT_X86_XSTATE, state)])
    if found and not raw_size:  # once, at the end, as the kernel writes it: nobody has to guess by the length
        found[-1].append(("LINUX", NT_X86_XSAVE_LAYOUT, _components_below(size)))
    return found


def _components_below(size: int) -> bytes:
    """Where the components of `_xstate` lie."""
    here = [(n, struct.calcsize(layout), at) for n, (at, _, layout) in _COMPONENTS.items() if at < size]
    return b"".join(_LAYOUT.pack(n, length, at, 0) for n, length, at in here)


def _held(fp: Any) -> list[int]:
    """The components of the extended state that an image has."""
    used = fp.xsave.xstate_bv if fp.HasField("xsave") else 0
    return [n for n, (_, field, _) in _COMPONENTS.items() if used >> n & 1 and len(getattr(fp.xsave, field))]


def _xstate(legacy: bytes, fp: Any, size: int, features: int) -> bytes:
    """The extended state in the layout that debuggers know, whatever CPU it is from."""
    out = bytearray(size)
    out[:512] = legacy
    out[_SOFTWARE_AT:512] = features.to_bytes(8, "little").ljust(48, b"\0")
    used = fp.xsave.xstate_bv & 0b11 if fp.HasField("xsave") else 0b11
    for number in _held(fp):
        at, field, layout = _COMPONENTS[number]
        struct.pack_into(layout, out, at, *getattr(fp.xsave, field))
        used |= 1 << number
    out[_BITMAP_AT : _BITMAP_AT + 8] = used.to_bytes(8, "little")
    return bytes(out)


def _aarch64(threads: Sequence[Thread], top: int, vector_length: int) -> list[list[Note]]:
    """Where one thread has SVE registers, or a signal frame says that there could be, all have a note of them.

    The kernel writes it always, and gdb 13 never ends with a signal frame that has SVE where the core has not.
    """
    lengths = [_SVE_HEADER.unpack_from(extras[RAW_SVE])[2] for _, extras in threads if extras.get(RAW_SVE)]
    length = max(lengths, default=vector_length)
    found = []
    for core, extras in threads:
        info = core.ti_aarch64
        simd = _FPSIMD.pack(*info.fpsimd.vregs, info.fpsimd.fpsr, info.fpsimd.fpcr)
        sets = [("CORE", NT_FPREGSET, simd), ("LINUX", NT_ARM_TLS, info.tls.to_bytes(8, "little"))]
        if length:
            size = _SVE_HEADER.size + len(simd)  # flags 0: no more than FP/SIMD has
            header = _SVE_HEADER.pack(size, size, length, length, 0, 0)
            sets.append(("LINUX", NT_ARM_SVE, extras.get(RAW_SVE) or header + simd))
        if info.HasField("pac_keys"):
            sets += _pac(info.pac_keys, top)
        found.append(sets)
    return found


def _pac(keys: Any, top: int) -> list[Note]:
    """Which bits of a return address are its code: those from the width of addresses up to bit 54; and the keys.

    The width is not in the images. The stack lies at the end of the address space, wherever that is.
    """
    width = max((top - 1).bit_length(), 1)
    mask = (1 << _PAC_TOP + 1) - (1 << width) if width <= _PAC_TOP else 0
    found = [("LINUX", NT_ARM_PAC_MASK, struct.pack("<QQ", mask, mask))]
    if keys.HasField("pac_address_keys"):
        found.append(("LINUX", NT_ARM_PACA_KEYS, address_keys(keys.pac_address_keys)))
    if keys.HasField("pac_generic_keys"):
        found.append(("LINUX", NT_ARM_PACG_KEYS, generic_key(keys.pac_generic_keys)))
    return found


_TABLE: tuple[tuple[Arch, Callable[[Sequence[Thread], int, int], list[list[Note]]]], ...] = (
    (X86_64, _x86_64),
    (AARCH64, _aarch64),
)
_VECTOR_FRAMES = {AARCH64: _SVE_FRAME}


# ------------------------------------------------------------------------------------------------------ from notes

# Where AMD's CPUs have components, by the length of the whole, for cores without that note: as gdb guesses.
_OTHER_LAYOUTS = {840: {9: 832}, 2432: {5: 832, 6: 896, 7: 1408}, 2440: {5: 832, 6: 896, 7: 1408, 9: 2432}}
_LEGACY_SIZE = 512
_TCB_ROOM = 0xA00  # struct pthread of glibc


@record
class Facts:
    """What a thread keeps in its memory, and where: the C library's descriptor of it lies near the thread pointer."""

    window: tuple[int, int]  # where glibc's struct pthread can be, from the thread pointer on
    rseq_signature: int  # with which glibc registers


_FACTS = {X86_64: Facts((0, _TCB_ROOM), 0x53053053), AARCH64: Facts((-_TCB_ROOM, 0), 0xD428BC00)}


def facts(arch: Arch) -> Facts:
    """Of threads on an architecture."""
    return _FACTS[arch]


def thread_info(arch: Arch, general: bytes, sets: dict[int, bytes], tid_address: int) -> tuple[Any, dict[str, bytes]]:
    """The message with a thread's registers out of its notes, and raw sets beside it; with what it goes on with.

    `general` is what NT_PRSTATUS has, `sets` are the other notes by type. ImageError where one has the wrong shape.
    """
    try:
        gpr = arch.after_interruption(list(arch.gpr.unpack(general)), None)
        return (_x86_64_info if arch is X86_64 else _aarch64_info)(gpr, sets, tid_address)
    except (struct.error, KeyError, ValueError) as error:
        raise ImageError(f"a register set of the core has the wrong shape, or is missing: {error}") from None


def lacking(arch: Arch, sets: dict[int, bytes], *, here: bool) -> list[str]:
    """Register sets that the notes of a thread do not have, in words; `here`: it was written on a CPU like ours."""
    if arch is not X86_64:
        return []
    if NT_X86_XSTATE not in sets:
        return ["vector registers beyond SSE (no NT_X86_XSTATE)"]
    # gdb before 14 reads and writes components where Intel's CPUs have them, on all CPUs
    intel = len(sets[NT_X86_XSTATE]) == _INTEL_SIZE and NT_X86_XSAVE_LAYOUT not in sets
    if here and intel and x86_64.component_offset(5) not in (0, _COMPONENTS[5][0]):
        return ["AVX-512 registers (the debugger, a gdb before 14, does not know where this CPU has them)"]
    return []


_INTEL_SIZE = 2688


def signs_addresses(arch: Arch, sets: dict[int, bytes]) -> bool:
    """Whether return addresses may be signed with keys that the core does not tell."""
    return arch is AARCH64 and NT_ARM_PAC_MASK in sets and NT_ARM_PACA_KEYS not in sets


def thread_pointer(arch: Arch, info: Any) -> int:
    """Where a thread's descriptor is looked for; 0: it has none."""
    found: int = info.gpregs.fs_base if arch is X86_64 else info.tls
    return found


def _x86_64_info(gpr: Registers, sets: dict[int, bytes], tid_address: int) -> tuple[Any, dict[str, bytes]]:
    raw = sets.get(NT_X86_XSTATE, b"")
    if not raw:
        raw = sets[NT_FPREGSET][:_LEGACY_SIZE] + (0b11).to_bytes(8, "little") + bytes(_AVX_END - _LEGACY_SIZE - 8)
    if len(raw) < _AVX_AT:
        raise ImageError(f"the extended state of a thread has {len(raw)} bytes")
    offsets = {number: at for number, (at, _, _) in _COMPONENTS.items()} | _OTHER_LAYOUTS.get(len(raw), {})
    told = sets.get(NT_X86_XSAVE_LAYOUT, b"")
    for number, _, offset, _ in _LAYOUT.iter_unpack(told[: len(told) // _LAYOUT.size * _LAYOUT.size]):
        offsets[number] = offset
    raw = raw.ljust(_AVX_END, b"\0")
    return x86_64.save(gpr, sets | {NT_X86_XSTATE: raw}, tid_address, offsets.__getitem__)


_AVX_AT, _AVX_END = 576, 832  # the shortest extended state that `save` reads


def _aarch64_info(gpr: Registers, sets: dict[int, bytes], tid_address: int) -> tuple[Any, dict[str, bytes]]:
    sets = dict(sets)
    sve = sets[NT_ARM_SVE] = _aligned(sets.get(NT_ARM_SVE, b""))
    live = len(sve) >= _SVE_HEADER.size and _SVE_HEADER.unpack_from(sve)[4] & 1
    if sve and NT_FPREGSET not in sets:  # gdb writes the one or the other
        sets[NT_FPREGSET] = _simd_of(sve) if live else sve[_SVE_HEADER.size :]
    if not live:  # it says no more than FP/SIMD does
        sets.pop(NT_ARM_SVE, None)
    return AARCH64.save(gpr, sets, tid_address)


def _aligned(sve: bytes) -> bytes:
    """A set of SVE registers as the kernel has it: gdb 13 has FPSR and FPCR right behind the predicates."""
    if len(sve) < _SVE_HEADER.size:
        return sve
    _, most, length, longest, flags, reserved = _SVE_HEADER.unpack_from(sve)
    end, status = _ends(length)
    if len(sve) != end + _STATUS or not flags & 1:
        return sve
    size = -(-(status + _STATUS) // 16) * 16
    head = _SVE_HEADER.pack(size, max(size, most), length, longest, flags, reserved)
    return ((head + sve[len(head) : end]).ljust(status, b"\0") + sve[end:]).ljust(size, b"\0")


_STATUS = 8  # FPSR and FPCR


def _ends(length: int) -> tuple[int, int]:
    """Where 32 vectors and 17 predicates of an eighth end, and where FPSR follows, in a set of SVE registers."""
    end = _SVE_HEADER.size + 32 * length + 17 * length // 8
    return end, -(-end // 16) * 16


def _simd_of(sve: bytes) -> bytes:
    """The FP/SIMD registers in a set of SVE registers: the lower parts of the vectors."""
    length = _SVE_HEADER.unpack_from(sve)[2]
    start = _SVE_HEADER.size
    vectors = b"".join(sve[at : at + 16] for at in range(start, start + 32 * length, length or 1))
    return _FPSIMD.pack(*struct.unpack("<64Q", vectors), *struct.unpack_from("<II", sve, _ends(length)[1]))
