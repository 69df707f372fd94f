# SPDX-License-Identifier: GPL-2.0-only
"""aarch64: what the kernel tells programs that the CPU offers (AT_HWCAP and so on), and what ours lacks of it.

CRIU's cpuinfo.img has no place for that. But every task has it in its auxiliary vector, which is in the images, of
pycriu's making or CRIU's; and that is what its program went by. Where there are no tasks, pycriu-cpu.img has it.
"""

from __future__ import annotations

from pycriu.arch.aarch64 import AARCH64
from pycriu.errors import ImageError
from pycriu.images import messages as m
from pycriu.kernel import procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from pycriu.images.store import Images

IMAGE = "pycriu-cpu.img"
_KEYS = (16, 26, 29, 30)  # AT_HWCAP, AT_HWCAP2, AT_HWCAP3, AT_HWCAP4
# By word and bit, the names of /proc/cpuinfo (arch/arm64/kernel/cpuinfo.c, up to Linux 6.18).
_NAMES = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma lrcpc dcpop sha3 "
    "sm3 sm4 asimddp sha512 sve asimdfhm dit uscat ilrcpc flagm ssbs sb paca pacg gcs cmpbr fprcvt f8mm8 f8mm4 "
    "svef16mm sveeltperm sveaes2 svebfscale sve2p2 sme2p2 smesbitperm smeaes smesfexpa smestmop smesmop4",
    "dcpodp sve2 sveaes svepmull svebitperm svesha3 svesm4 flagm2 frint svei8mm svef32mm svef64mm svebf16 i8mm "
    "bf16 dgh rng bti mte ecv afp rpres mte3 sme smei16i64 smef64f64 smei8i32 smef16f32 smeb16f32 smef32f32 "
    "smefa64 wfxt ebf16 sveebf16 cssc rprfm sve2p1 sme2 sme2p1 smei16i32 smebi32i32 smeb16b16 smef16f16 mops "
    "hbc sveb16b16 lrcpc3 lse128 fpmr lut faminmax f8cvt f8fma f8dp4 f8dp2 f8e4m3 f8e5m2 smelutv2 smef8f16 "
    "smef8f32 smesf8fma smesf8dp4 smesf8dp2 poe",
    "mtefar mtestoreonly lsfe",
    "",
)
_OF_SYSTEM = {"evtstrm"}  # whether a timer wakes up who waits for an event
_STATE = {"fp", "asimd", "sve", "sme", "sme2", "fpmr", "gcs", "poe"}  # what has registers


def here() -> Any:
    """pycriu_cpu_entry of the CPU that we run on."""
    return m.pycriu_cpu_entry(mtype=AARCH64.mtype, capabilities=told(procfs.parse_auxv(procfs.read("self", "auxv"))))


def told(auxv: Sequence[int]) -> list[int]:
    """The words of an auxiliary vector that tell of the CPU."""
    vector = dict(zip(auxv[::2], auxv[1::2], strict=False))
    return [vector.get(key, 0) for key in _KEYS]


def is_recorded(images: Images) -> bool:
    """Whether the images say anything of their CPU."""
    return bool(_tasks(images)) or images.exists(IMAGE)


def _tasks(images: Images) -> list[str]:
    return [name.removeprefix("mm-") for name in images.names() if name.startswith("mm-")]


def recorded(images: Images) -> Any:
    """What the tasks of a checkpoint were told, all in all; where there are none, what pycriu-cpu.img says."""
    tasks = _tasks(images)
    if not tasks:
        entry: Any = images.read_one(IMAGE)
        _refuse_other(entry.mtype, IMAGE)
        return entry
    words = [0] * len(_KEYS)
    for name in tasks:
        core: Any = images.read_one(f"core-{name}")
        _refuse_other(core.mtype, f"core-{name}")
        mm: Any = images.read_one(f"mm-{name}")
        words = [one | other for one, other in zip(words, told(mm.mm_saved_auxv), strict=True)]
    return m.pycriu_cpu_entry(mtype=AARCH64.mtype, capabilities=words)


def _refuse_other(mtype: int, name: str) -> None:
    if mtype != AARCH64.mtype:
        raise ImageError(f"{name} is not of a CPU of this architecture")


def names(words: Sequence[int]) -> list[str]:
    """What the bits of the words mean; one that is not known here has its number."""
    found = []
    for place, word in enumerate(words):
        known = _NAMES[place].split() if place < len(_NAMES) else []
        for bit in range(word.bit_length()):
            if word >> bit & 1:
                found.append(known[bit] if bit < len(known) else f"bit {bit} of word {place + 1}")
    return [name for name in found if name not in _OF_SYSTEM]


def differences(theirs: Any, ours: Any, what: frozenset[str]) -> list[str]:
    """In words, what their CPU had and ours has not; if it is to be the very same, what it had not, too."""
    had, have = names(theirs.capabilities), names(ours.capabilities)
    lacking = [name for name in had if name not in have]
    kinds = {
        "fpu": ("register state that is missing here", [name for name in lacking if name in _STATE]),
        "ins": ("instructions that are missing here", [name for name in lacking if name not in _STATE]),
        "cpu": ("only here there is", [name for name in have if name not in had]),
    }
    return [f"{text}: {' '.join(some)}" for kind, (text, some) in kinds.items() if kind in what and some]
