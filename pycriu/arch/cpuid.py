# SPDX-License-Identifier: GPL-2.0-only
"""x86_64: what CPUID says that the CPU offers, as cpuinfo.img has it, and what an image asks for that a CPU lacks.

The words of `capability` are the kernel's (arch/x86/include/asm/cpufeature.h) as CRIU numbers them. Those that CPUID
has are filled in and compared; those that the kernel makes up, about itself and errors, are zero and left alone.
"""

from __future__ import annotations

from pycriu.arch.x86_64 import cpuid
from pycriu.errors import ImageError
from pycriu.images import messages as m

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pycriu.images.store import Images

IMAGE = "cpuinfo.img"

_EAX, _EBX, _ECX, _EDX = range(4)
# index of the word: CPUID leaf, subleaf, register
_WORDS = {
    0: (1, 0, _EDX), 1: (0x80000001, 0, _EDX), 4: (1, 0, _ECX), 6: (0x80000001, 0, _ECX), 9: (7, 0, _EBX),
    10: (0xD, 1, _EAX), 11: (7, 0, _ECX), 13: (0x80000008, 0, _EBX), 18: (7, 0, _EDX),
}  # fmt: skip
_WORD_COUNT, _VERSION = 19, 2
# What programs use; the rest is of the system, or depends on the machine around the CPU. Word and bit: name.
_NAMES = {
    (0, 15): "cmov", (0, 23): "mmx", (0, 24): "fxsr", (0, 25): "sse", (0, 26): "sse2", (1, 30): "3dnowext",
    (1, 31): "3dnow", (4, 0): "sse3", (4, 1): "pclmulqdq", (4, 9): "ssse3", (4, 12): "fma", (4, 13): "cx16",
    (4, 19): "sse4_1", (4, 20): "sse4_2", (4, 22): "movbe", (4, 23): "popcnt", (4, 25): "aes", (4, 26): "xsave",
    (4, 28): "avx", (4, 29): "f16c", (4, 30): "rdrand", (6, 0): "lahf_lm", (6, 5): "abm", (6, 6): "sse4a",
    (6, 8): "3dnowprefetch", (6, 11): "xop", (6, 16): "fma4", (6, 21): "tbm", (9, 3): "bmi1", (9, 5): "avx2",
    (9, 8): "bmi2", (9, 16): "avx512f", (9, 17): "avx512dq", (9, 21): "avx512ifma", (9, 26): "avx512pf",
    (9, 27): "avx512er", (9, 28): "avx512cd", (9, 29): "sha_ni", (9, 31): "avx512vl", (11, 1): "avx512vbmi",
    (11, 6): "avx512_vbmi2", (11, 8): "gfni", (11, 9): "vaes", (11, 10): "vpclmulqdq", (11, 11): "avx512_vnni",
    (11, 12): "avx512_bitalg", (11, 14): "avx512_vpopcntdq", (13, 0): "clzero", (18, 2): "avx512_4vnniw",
    (18, 3): "avx512_4fmaps", (18, 8): "avx512_vp2intersect", (18, 24): "amx_tile",
}  # fmt: skip
_OF_PROGRAMS = {index: sum(1 << bit for word, bit in _NAMES if word == index) for index in _WORDS}
_SSE_STATE = 1 << 1  # every CPU has it, and CRIU leaves it out


def here() -> Any:
    """cpuinfo_entry of the CPU that we run on."""
    highest, *vendor = cpuid(0, 0)
    highest_extended = cpuid(0x80000000, 0)[_EAX]
    capability = [0] * _WORD_COUNT
    for index, (leaf, subleaf, register) in _WORDS.items():
        if leaf <= (highest_extended if leaf >> 31 else highest):
            capability[index] = cpuid(leaf, subleaf)[register]
    family, model, stepping = _signature(cpuid(1, 0)[_EAX])
    name = b"".join(number.to_bytes(4, "little") for leaf in range(0x80000002, 0x80000005) for number in cpuid(leaf, 0))
    entry = m.cpuinfo_x86_entry(
        vendor_id={0x756E6547: 1, 0x68747541: 2}.get(vendor[0], 0), cpu_family=family, model=model, stepping=stepping,
        capability_ver=_VERSION, capability=capability, model_id=name.split(b"\0")[0].decode("ascii", "replace"),
    )  # fmt: skip
    if highest >= 0xD:
        low, size, size_max, high = cpuid(0xD, 0)
        entry.xfeatures_mask = (low | high << 32) & ~_SSE_STATE
        entry.xsave_size, entry.xsave_size_max = size, size_max
    return m.cpuinfo_entry(x86_entry=[entry])


def _signature(eax: int) -> tuple[int, int, int]:
    family, model = eax >> 8 & 0xF, eax >> 4 & 0xF
    if family in (6, 15):
        model |= (eax >> 16 & 0xF) << 4
    if family == 15:
        family += eax >> 20 & 0xFF
    return family, model, eax & 0xF


def is_recorded(images: Images) -> bool:
    """Whether the images say anything of their CPU."""
    return images.exists(IMAGE)


def recorded(images: Images) -> Any:
    """What the images say of their CPU; ImageError for one that is none of ours."""
    image: Any = images.read_one(IMAGE)
    if len(image.x86_entry) != 1:
        raise ImageError("cpuinfo.img is not of a CPU of this architecture")
    return image


def differences(theirs: Any, ours: Any, what: frozenset[str]) -> list[str]:
    """In words, what their CPU had and ours has not."""
    theirs, ours = theirs.x86_entry[0], ours.x86_entry[0]
    found = []
    if "cpu" in what:
        for name in ("vendor_id", "cpu_family", "model"):
            if getattr(theirs, name) != getattr(ours, name):
                found.append(f"{name} {getattr(theirs, name)}, here {getattr(ours, name)}")
    if "fpu" in what and theirs.xfeatures_mask & ~(ours.xfeatures_mask | _SSE_STATE):
        lacking = theirs.xfeatures_mask & ~(ours.xfeatures_mask | _SSE_STATE)
        found.append(f"register state {lacking:#x} (XSAVE components) is missing here")
    if "ins" in what:
        lacking_names = _instructions(theirs.capability, ours.capability)
        if lacking_names:
            found.append("instructions that are missing here: " + " ".join(lacking_names))
    return found


def _instructions(theirs: Any, ours: Any) -> list[str]:
    found = []
    for index, mask in _OF_PROGRAMS.items():
        if index >= len(theirs):
            continue
        lacking = theirs[index] & ~(ours[index] if index < len(ours) else 0) & mask
        found += [_NAMES[index, bit] for bit in range(32) if lacking >> bit & 1]
    return found
