# SPDX-License-Identifier: GPL-2.0-only
"""Whether our evaluation is the kernel's: the same fragments through make and through us, compared symbol by symbol.

Takes what building a kernel takes (make, flex, bison, the compiler); writes into a temporary folder only.
"""

from __future__ import annotations

import platform
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from layer.errors import BuildError, InputError
from layer.kconfig import assemble, dotconfig
from layer.kconfig.request import Request, cross_prefix, load_tree, read, requirements
from layer.kconfig.start import Start
from layer.kconfig.tree import Tree
from layer.kconfig.values import assignment
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
    """By make and by us: allnoconfig with the fragments; or, where a configuration was named, olddefconfig of that."""
    if request.tree is None:
        raise InputError("the self-check takes a kernel's source", hint="name it with --kernel-tree")
    written = read(request.source) if request.source else None
    arch = request.arch or (written.arch if written else platform.machine())
    tree = load_tree(request, arch)
    cross = cross_prefix(tree.machine) if request.cross is None else request.cross
    make = Make(tree.directory, tree.machine, cross)
    if written:
        start = Start({name: line.value for name, line in written.values.items()}, closed=False)
        made = make.olddefconfig(start.values)
    else:
        merged = assemble.merge(requirements(request, arch, whole=True)[0])
        start = Start({entry.symbol: entry.value for entry in merged.entries}, closed=True)
        made = make.allnoconfig(merged.text)
    start.apply(tree)
    theirs = dotconfig.parse(made, "make's .config")
    return Comparison(tree.version, tree.machine.name, len(theirs.values), differences(tree, theirs))


def differences(tree: Tree, make: dotconfig.DotConfig) -> tuple[tuple[str, str, str], ...]:
    """Symbols that are absent on one side, or have another value; the tree is in the state to compare."""
    ours = tree.configuration()
    names = sorted({*ours, *make.values})
    pairs = (
        (name, make.values[name].value if name in make.values else "absent", ours.get(name, "absent")) for name in names
    )
    return tuple((name, theirs, our) for name, theirs, our in pairs if theirs != our)


@dataclass(frozen=True, slots=True)
class Make:
    """The kernel's own configuration, run in a temporary folder."""

    source: Path
    target: Machine
    cross: str

    def allnoconfig(self, fragments: str) -> str:
        """The .config from fragments, gone once more through olddefconfig, which must not change it."""
        with tempfile.TemporaryDirectory(prefix="kconfig-") as folder:
            (Path(folder) / "fragments").write_text(fragments)
            self._run(folder, f"KCONFIG_ALLCONFIG={folder}/fragments", "allnoconfig")
            return self._run(folder, "olddefconfig")

    def olddefconfig(self, values: Mapping[str, str]) -> str:
        """The .config completed from some values."""
        with tempfile.TemporaryDirectory(prefix="kconfig-") as folder:
            (Path(folder) / ".config").write_text("".join(f"{assignment(*pair)}\n" for pair in values.items()))
            return self._run(folder, "olddefconfig")

    def _run(self, folder: str, *goal: str) -> str:
        words = ["make", "-s", "-C", str(self.source), f"O={folder}", f"ARCH={self.target.kernel.arch}"]
        words += [f"CROSS_COMPILE={self.cross}", *goal]
        result = subprocess.run(words, capture_output=True, text=True, check=False)
        if result.returncode:
            raise BuildError(f"make {goal[-1]} failed: {result.stderr.strip()[-600:]}")
        return (Path(folder) / ".config").read_text()
