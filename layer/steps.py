# SPDX-License-Identifier: GPL-2.0-only
"""The words of a recipe's steps with their placeholders filled in, and the environment in which they run."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from layer import process
from layer.errors import InputError
from layer.machine import Machine
from layer.plan import Plan
from layer.recipes import Recipe, Step

PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([a-z_]+(?::[a-z0-9+.-]+)?)\}")


@dataclass(frozen=True, slots=True)
class Workplace:
    """The folders of one build of one recipe."""

    root: Path

    @property
    def source(self) -> Path:
        """The unpacked source."""
        return self.root / "source"

    @property
    def build(self) -> Path:
        """Where steps run."""
        return self.root / "build"

    @property
    def dest(self) -> Path:
        """What is installed."""
        return self.root / "dest"

    @property
    def sysroot(self) -> Path:
        """What it is built against."""
        return self.root / "sysroot"

    @property
    def tools(self) -> Path:
        """The compiler wrappers."""
        return self.root / "tools"

    @property
    def home(self) -> Path:
        """HOME and TMPDIR of the steps."""
        return self.root / "home"


def placeholders(plan: Plan, recipe: Recipe, place: Workplace) -> dict[str, str]:
    """The value of every placeholder that stands for one string."""
    native = {
        f"native:{one.name}": str(plan.output(one.name) / "dest") for one in plan.depends(recipe.name) if one.native
    }
    return {
        "source": str(place.source),
        "build": str(place.build),
        "dest": str(place.dest),
        "sysroot": str(place.sysroot),
        "top": str(plan.top),
        "jobs": str(os.cpu_count() or 1),
        "version": plan.version(recipe.name),
        "python": sys.executable,
        **_names(plan.machine, native=recipe.native),
        **native,
    }


def expand(step: Step, values: Mapping[str, str], fragments: tuple[Path, ...], recipe: Recipe) -> tuple[str, ...]:
    """The argument list of a step."""
    words: list[str] = []
    for word in step.run:
        if word == "{layer}":
            words += [sys.executable, "-m", "layer"]
        elif word == "{fragments}":
            words += [str(path) for path in fragments]
        else:
            words.append(fill(word, values, recipe))
    return tuple(words)


def fill(text: str, values: Mapping[str, str], recipe: Recipe) -> str:
    """`text` with its placeholders replaced; InputError on one that does not exist."""

    def replaced(found: re.Match[str]) -> str:
        if found[0] in {"{{", "}}"}:
            return found[0][0]
        if found[1] not in values:
            close = difflib.get_close_matches(found[1], values, n=1, cutoff=0.3)
            hint = (
                f"did you mean {{{close[0]}}}?"
                if close
                else "recipes/README.md lists them; plain braces are written {{ }}"
            )
            raise InputError(
                f"unknown placeholder {found[0]}", hint=hint, file=recipe.file, line=recipe.document.line("steps")
            )
        return values[found[1]]

    return PLACEHOLDER.sub(replaced, text)


def environment(plan: Plan, recipe: Recipe, place: Workplace, epoch: int) -> dict[str, str]:
    """What every step of the recipe finds in its environment; nothing else gets through."""
    native = [str(plan.output(one.name) / "dest/usr/bin") for one in plan.depends(recipe.name) if one.native]
    path = [str(place.tools), *native, "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
    variables = {
        "PATH": ":".join(path),
        "HOME": str(place.home),
        "TMPDIR": str(place.home),
        "LC_ALL": "C",
        "TZ": "UTC",
        "SOURCE_DATE_EPOCH": str(epoch),
        "PYTHONPATH": str(plan.top) if any("{layer}" in step.run for step in recipe.steps) else "",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    if not recipe.native:
        variables |= plan.toolchain(recipe).variables()
        variables["PKG_CONFIG_LIBDIR"] = f"{place.sysroot}/usr/lib/pkgconfig:{place.sysroot}/usr/share/pkgconfig"
        variables["PKG_CONFIG_SYSROOT_DIR"] = str(place.sysroot)
    return {name: value for name, value in variables.items() if value}


def with_changes(
    base: Mapping[str, str], changes: tuple[tuple[str, str | None], ...], values: Mapping[str, str], recipe: Recipe
) -> dict[str, str]:
    """An environment with a recipe's or a step's own wishes; None removes."""
    result = dict(base)
    for name, value in changes:
        if value is None:
            result.pop(name, None)
        else:
            result[name] = fill(value, values, recipe)
    return result


def _names(machine: Machine, *, native: bool) -> dict[str, str]:
    host = process.output(["gcc", "-dumpmachine"]).strip()
    return {
        "machine": os.uname().machine if native else machine.name,
        "triplet": host if native else machine.triplet,
        "debian_arch": process.output(["dpkg", "--print-architecture"]).strip() if native else machine.debian_arch,
        "host_triplet": host,
        "kernel_arch": machine.kernel.arch,
        "kernel_srcarch": machine.kernel.srcarch,
        "kernel_target": machine.kernel.target,
        "kernel_image": machine.kernel.image,
    }
