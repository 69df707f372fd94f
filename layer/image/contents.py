# SPDX-License-Identifier: GPL-2.0-only
"""The parts of an image as the cache has them: which recipe, which version, where its files and licence texts lie."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from layer.errors import BuildError
from layer.fetch.lock import Pin
from layer.plan import Plan
from layer.recipes import Recipe

GLIBC_VERSION = re.compile(rb"GNU C Library .{0,80}?version (\d+\.\d+)")


@dataclass(frozen=True, slots=True)
class Part:
    """One recipe's finished output."""

    recipe: Recipe
    version: str
    pin: Pin | None  # its source, when that is a remote one
    key: str
    output: Path
    depends: tuple[str, ...]  # other parts of the image that it needs

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.recipe.name

    @property
    def dest(self) -> Path:
        """The files it installs."""
        return self.output / "dest"

    @property
    def licences(self) -> Path:
        """Its licence texts."""
        return self.output / "licences"


def packages(plan: Plan) -> tuple[Part, ...]:
    """What goes into the root file system, in the order it was built."""
    chosen = plan.packages()
    names = {recipe.name for recipe in chosen}
    return tuple(_part(plan, recipe, names) for recipe in chosen)


def kernel(plan: Plan) -> Part:
    """The kernel."""
    return _part(plan, plan.recipes[plan.configuration.kernel], set())


def _part(plan: Plan, recipe: Recipe, among: set[str]) -> Part:
    output = plan.output(recipe.name)
    if not output.is_dir():
        raise BuildError(f"{recipe.name} is not built", hint=f"`ninja {recipe.name}` builds it, `ninja image` all")
    depends = tuple(sorted(among.intersection(recipe.depends)))
    return Part(recipe, _version(plan, recipe, output), plan.pin(recipe.name), plan.key(recipe.name), output, depends)


def _version(plan: Plan, recipe: Recipe, output: Path) -> str:
    """What the lock or the recipe says; of a library copied from the toolchain, what the library says of itself."""
    version = plan.version(recipe.name)
    if version != "toolchain":
        return version
    for library in sorted(output.glob("dest/**/libc.so.6")):
        found = GLIBC_VERSION.search(library.read_bytes())
        if found:
            return found[1].decode()
    raise BuildError(f"{recipe.name} holds no C library that tells its version")
