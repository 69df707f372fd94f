# SPDX-License-Identifier: GPL-2.0-only
"""Whether our evaluation is the kernel's: the same fragments through make and through us, compared symbol by symbol.

Takes what building a kernel takes (make, flex, bison, the compiler); writes into a temporary folder only.
"""

from __future__ import annotations

import platform
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from layer.errors import BuildError, InputError
from layer.kconfig import assemble, dotconfig
from layer.kconfig.request import Request, cross_prefix, load_tree, requirements
from layer.kconfig.start import Start
from layer.kconfig.tree import Tree
from layer.machine import Machine


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was compared, and (symbol, make's value, ours) where they differ."""

    release: str
    arch: str
    symbols: int
    differing: tuple[tuple[str, str, str], ...]

    def __str__(self) -> str:
        differ = f"{len(self.differing)} differ from make's own answer"
        head = f"Linux {self.release}, {self.arch}: {self.symbols} symbols, {differ}"
        return "\n".join(
            [head, *(f"  CONFIG_{name}: make says {make}, we say {ours}" for name, make, ours in self.differing)]
        )


def compare(request: Request) -> Comparison:
    """allnoconfig with the fragments, then olddefconfig, by make; and the same by us."""
    if request.tree is None:
        raise InputError("the self-check takes a kernel tree", hint="name one with --kernel-tree")
    arch = request.arch or platform.machine()
    wanted, _ = requirements(request, arch, whole=True)
    merged = assemble.merge(wanted)
    tree = load_tree(request, arch)
    cross = cross_prefix(tree.machine) if request.cross is None else request.cross
    make = dotconfig.parse(_made(tree.directory, tree.machine, cross, merged.text), "make's .config")
    Start({entry.symbol: entry.value for entry in merged.entries}, closed=True).apply(tree)
    return Comparison(tree.version, arch, len(make.values), differences(tree, make))


def differences(tree: Tree, make: dotconfig.DotConfig) -> tuple[tuple[str, str, str], ...]:
    """Symbols that are absent on one side, or have another value; the tree is in the state to compare."""
    ours = tree.configuration()
    names = sorted({*ours, *make.values})
    pairs = (
        (name, make.values[name].value if name in make.values else "absent", ours.get(name, "absent")) for name in names
    )
    return tuple((name, theirs, our) for name, theirs, our in pairs if theirs != our)


def _made(directory: Path, target: Machine, cross: str, text: str) -> str:
    with tempfile.TemporaryDirectory(prefix="kconfig-") as name:
        folder = Path(name)
        (folder / "fragments").write_text(text)
        words = [
            "make",
            "-s",
            "-C",
            str(directory),
            f"O={folder}",
            f"ARCH={target.kernel.arch}",
            f"CROSS_COMPILE={cross}",
        ]
        for goal in ([f"KCONFIG_ALLCONFIG={folder / 'fragments'}", "allnoconfig"], ["olddefconfig"]):
            result = subprocess.run([*words, *goal], capture_output=True, text=True, check=False)
            if result.returncode:
                raise BuildError(f"make {goal[-1]} failed: {result.stderr.strip()[-600:]}")
        return (folder / ".config").read_text()
