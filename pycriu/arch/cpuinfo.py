# SPDX-License-Identifier: GPL-2.0-only
"""What the CPU offers, for `cpuinfo` and --cpu-cap: written down, and held against what images say of theirs.

Each architecture says it in words of its own: `cpuid` on x86_64, `hwcaps` on aarch64.
"""

from __future__ import annotations

from pycriu.arch import native
from pycriu.errors import UserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pycriu.images.store import Images

CPU, FPU, INS = "cpu", "fpu", "ins"  # the very model; the state of vectors; the instructions
ALL = frozenset((CPU, FPU, INS))


def wanted(text: str) -> frozenset[str]:
    """What --cpu-cap asks to look at: a list of cpu, fpu, ins, all, none, each taken away with a ^ in front."""
    chosen: frozenset[str] = frozenset()
    for word in text.split(",") if text else ["all"]:
        name = word.removeprefix("^")
        if name not in (*ALL, "all", "none"):
            raise UserError(f"--cpu-cap {word}: not one of cpu, fpu, ins, all, none", "with a ^ in front: without it")
        meant = ALL if name == "all" else frozenset((name,)) & ALL
        chosen = chosen - meant if word.startswith("^") else chosen | meant if meant else frozenset()
    return chosen


def _facts() -> Any:
    """The module of this architecture."""
    if native().name == "x86_64":
        from pycriu.arch import cpuid

        return cpuid
    from pycriu.arch import hwcaps

    return hwcaps


def here() -> tuple[str, Any]:
    """The image, and what it says, of the CPU that we run on."""
    facts = _facts()
    return facts.IMAGE, facts.here()


def check(images: Images, what: frozenset[str]) -> None:
    """UserError with all that the CPU of the images had and ours has not; ImageError where they do not say it."""
    facts = _facts()
    if what and (found := facts.differences(facts.recorded(images), facts.here(), what)):
        raise UserError(
            "the CPU of the images is not this one: " + "; ".join(found),
            "restore on a machine like the first, or look at less: --cpu-cap=ins, --cpu-cap=none",
        )


def remarks(images: Images) -> list[str]:
    """What programs of the images may miss here, as far as the images say what they had; one sentence, or none."""
    facts = _facts()
    if not facts.is_recorded(images):
        return []
    found = facts.differences(facts.recorded(images), facts.here(), frozenset((FPU, INS)))
    return [f"a program that uses what this CPU lacks will die: {'; '.join(found)}"] if found else []
