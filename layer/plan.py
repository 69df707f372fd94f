# SPDX-License-Identifier: GPL-2.0-only
"""A configuration with everything it names looked up: recipes in order, their pins, and the keys that follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from layer import cache, configuration, keys, machine, recipes, toolchain
from layer.cache import Cache
from layer.configuration import BuildFolder, Configuration
from layer.fetch import lock
from layer.machine import Machine
from layer.recipes import TOP, Recipe
from layer.toolchain import Toolchain

LOCK = recipes.RECIPES / "sources.lock"


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is needed to say what to build, and under which key it is kept."""

    folder: BuildFolder
    configuration: Configuration
    machine: Machine
    recipes: Mapping[str, Recipe]  # closed under depends, dependencies first
    pins: lock.Lock
    cache: Cache
    top: Path
    _fields: dict[str, dict[str, object]] = field(default_factory=dict)  # of keys already computed

    def fields(self, name: str) -> dict[str, object]:
        """What the key of a recipe is made of."""
        if name not in self._fields:
            recipe = self.recipes[name]
            self._fields[name] = keys.fields(recipe, self._ingredients(recipe), self.top)
        return self._fields[name]

    def key(self, name: str) -> str:
        """The key of a recipe's output."""
        return keys.digest(self.fields(name))

    def output(self, name: str) -> Path:
        """Where the recipe's output lies in the cache, or will."""
        return self.cache.output(name, self.key(name))

    def pin(self, name: str) -> lock.Pin | None:
        """The pinned source; None when the source is not a remote one."""
        return lock.pin_of(name, self.pins, LOCK) if self.recipes[name].locked else None

    def version(self, name: str) -> str:
        """The upstream version, or what the recipe says of itself."""
        pin = self.pin(name)
        return pin.upstream if pin else self.recipes[name].version

    def depends(self, name: str) -> tuple[Recipe, ...]:
        """All that a recipe is built with, dependencies first."""
        return recipes.dependencies(self.recipes[name], self.recipes)

    def packages(self) -> tuple[Recipe, ...]:
        """The recipes whose files go into the image: the chosen ones and the target recipes they depend on."""
        chosen: dict[str, Recipe] = {}
        for name in self.configuration.packages:
            for recipe in (*self.depends(name), self.recipes[name]):
                if not recipe.native and not recipe.kernel:
                    chosen[recipe.name] = recipe
        return tuple(chosen[name] for name in self.recipes if name in chosen)

    def fragments(self) -> tuple[Path, ...]:
        """The kernel fragments, in order."""
        return tuple(self.top / name for name in self.configuration.fragments)

    def toolchain(self, recipe: Recipe) -> Toolchain:
        """What compiles a recipe."""
        return toolchain.NATIVE if recipe.native else toolchain.target(self.machine)

    def with_pin(self, name: str, pin: lock.Pin) -> Plan:
        """The same with another source for one recipe; every key is computed anew."""
        return replace(self, pins={**self.pins, name: pin}, _fields={})

    def afresh(self) -> Plan:
        """The same with no key remembered: files are looked at again."""
        return replace(self, _fields={})

    def _ingredients(self, recipe: Recipe) -> keys.Ingredients:
        pin = self.pin(recipe.name)
        files = self.fragments() if recipe.kernel else ()
        return keys.Ingredients(
            machine="native" if recipe.native else self.machine.name,
            source=pin.files if pin else keys.path_source(recipe, self.top),
            version=self.version(recipe.name),
            toolchain=toolchain.identity(self.toolchain(recipe)),
            depends={needed.name: self.key(needed.name) for needed in self.depends(recipe.name)},
            fragments=tuple((path.name, keys.file_hash(path)) for path in files),
        )


def load(path: Path) -> Plan:
    """The plan of a configured build folder."""
    folder = BuildFolder(path.absolute())
    chosen = configuration.read(folder)
    pins = lock.read_with_overlay(LOCK, folder.overlay)
    closed = {recipe.name: recipe for recipe in recipes.closure((*chosen.packages, chosen.kernel))}
    return Plan(folder, chosen, machine.load(chosen.machine), closed, pins, cache.default(), TOP)
