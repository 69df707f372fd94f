# SPDX-License-Identifier: GPL-2.0-only
"""Recipes as values: what one file of `recipes/` says, checked, with everything it names looked up.

Reading a recipe touches neither the network nor the lock; exact versions are `layer.fetch.lock`'s.
"""

from __future__ import annotations

import graphlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from layer import yamlfile
from layer.errors import InputError
from layer.yamlfile import Document

TOP = Path(__file__).resolve().parent.parent
RECIPES = TOP / "recipes"

Environment = tuple[tuple[str, str | None], ...]  # None removes a variable


@dataclass(frozen=True, slots=True)
class DebianSource:
    """A Debian source package; `series` narrows the versions the lock may move to."""

    package: str
    suite: str
    series: str = ""
    patched: bool = False  # with Debian's own patches


@dataclass(frozen=True, slots=True)
class PypiSource:
    """A source distribution of the package index that pip is configured with."""

    package: str
    version: str = ""  # a requirement such as ==6.*


@dataclass(frozen=True, slots=True)
class PathSource:
    """Files of this repository."""

    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HttpsSource:
    """One file at an address."""

    url: str
    version: str


Source = DebianSource | PypiSource | PathSource | HttpsSource


@dataclass(frozen=True, slots=True)
class Step:
    """One command of a build; its words may hold {placeholders}."""

    name: str
    run: tuple[str, ...]
    cwd: str
    env: Environment


@dataclass(frozen=True, slots=True)
class Package:
    """Which files of the result go into an image."""

    include: tuple[str, ...]
    exclude: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Recipe:
    """One recipe; the fields are those of recipes/schema.yaml."""

    name: str
    summary: str
    homepage: str
    licence: str
    licence_files: tuple[str, ...]
    version: str  # "" where the lock has it
    native: bool
    kernel: bool
    source: Source | None
    patches: tuple[str, ...]
    inputs: tuple[str, ...]
    depends: tuple[str, ...]
    host_packages: tuple[str, ...]
    env: Environment
    steps: tuple[Step, ...]
    strip: bool
    package: Package
    file: Path
    document: Document

    @property
    def locked(self) -> bool:
        """Whether the source's version and hashes stand in the lock."""
        return isinstance(self.source, DebianSource | PypiSource | HttpsSource)


def names(folder: Path = RECIPES) -> tuple[str, ...]:
    """Every recipe there is, sorted."""
    return tuple(sorted(path.stem for path in folder.glob("*.yaml") if path.name != "schema.yaml"))


def load(name: str, folder: Path = RECIPES) -> Recipe:
    """The recipe called `name`; InputError with a suggestion when there is none or it is malformed."""
    file = folder / f"{name}.yaml"
    if name not in names(folder):
        raise InputError(f"unknown recipe {name!r}", hint=yamlfile.suggestion(name, names(folder)))
    recipe = parse(file.read_text(), file)
    if recipe.name != name:
        raise InputError(
            f"name is {recipe.name!r}",
            hint="it must be the file's own name",
            file=file,
            line=recipe.document.line("name"),
        )
    return recipe


def parse(text: str, file: Path) -> Recipe:
    """The recipe written in `text`."""
    document = yamlfile.parse(text, file, yamlfile.load_schema(RECIPES / "schema.yaml"))
    data = document.data
    package = cast("Mapping[str, list[str]]", data.get("package", {}))
    return Recipe(
        name=str(data["name"]),
        summary=str(data["summary"]),
        homepage=str(data.get("homepage", "")),
        licence=str(data["licence"]),
        licence_files=document.strings("licence_files"),
        version=str(data.get("version", "")),
        native=bool(data.get("native", False)),
        kernel=bool(data.get("kernel", False)),
        source=_source(cast("Mapping[str, object]", data["source"])) if "source" in data else None,
        patches=document.strings("patches"),
        inputs=document.strings("inputs"),
        depends=document.strings("depends"),
        host_packages=document.strings("host_packages"),
        env=_environment(data.get("env")),
        steps=tuple(_step(step) for step in cast("list[Mapping[str, object]]", data["steps"])),
        strip=bool(data.get("strip", True)),
        package=Package(tuple(package.get("include", ["**"])), tuple(package.get("exclude", []))),
        file=file,
        document=document,
    )


def closure(wanted: Iterable[str], folder: Path = RECIPES) -> tuple[Recipe, ...]:
    """`wanted` and all they depend on, dependencies first; InputError on a cycle or an unknown name."""
    found: dict[str, Recipe] = {}
    waiting = list(wanted)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        recipe = found[name] = load(name, folder)
        _check_files(recipe)
        for index, needed in enumerate(recipe.depends):
            if needed not in names(folder):
                raise InputError(
                    f"{name} depends on {needed!r}, which no recipe is called",
                    hint=yamlfile.suggestion(needed, names(folder)),
                    file=recipe.file,
                    line=recipe.document.line("depends", index),
                )
            waiting.append(needed)
    return tuple(found[name] for name in _order(found))


def dependencies(recipe: Recipe, among: Mapping[str, Recipe]) -> tuple[Recipe, ...]:
    """All that `recipe` depends on, directly or not, dependencies first, out of a closed set.

    A native recipe is a finished tool: what it was made from is not followed further.
    """
    seen: dict[str, Recipe] = {}

    def visit(one: Recipe) -> None:
        for name in one.depends:
            needed = among[name]
            if name not in seen:
                if not needed.native:
                    visit(needed)
                seen[name] = needed

    visit(recipe)
    return tuple(seen.values())


def _check_files(recipe: Recipe) -> None:
    """Patches and inputs must exist: a glob that matches nothing is a typing mistake."""
    for key in ("patches", "inputs"):
        for index, name in enumerate(recipe.document.strings(key)):
            if not any(TOP.glob(name)):
                line = recipe.document.line(key, index)
                raise InputError(f"nothing in the repository is called {name}", file=recipe.file, line=line)


def _order(found: Mapping[str, Recipe]) -> tuple[str, ...]:
    sorter = graphlib.TopologicalSorter({name: found[name].depends for name in sorted(found)})
    try:
        return tuple(sorter.static_order())
    except graphlib.CycleError as error:
        cycle: list[str] = list(reversed(error.args[1]))
        first = found[cycle[0]]
        line = first.document.line("depends", first.depends.index(cycle[1]))
        raise InputError(
            f"recipes depend on each other in a circle: {' → '.join(cycle)}", file=first.file, line=line
        ) from error


def _source(data: Mapping[str, object]) -> Source:
    if "debian" in data:
        return DebianSource(
            str(data["debian"]), str(data["suite"]), str(data.get("series", "")), bool(data.get("patched", False))
        )
    if "pypi" in data:
        return PypiSource(str(data["pypi"]), str(data.get("version", "")))
    if "path" in data:
        return PathSource(tuple(cast("list[str]", data["path"])))
    return HttpsSource(str(data["https"]), str(data["version"]))


def _environment(data: object) -> Environment:
    pairs = cast("Mapping[str, object]", data or {})
    return tuple((name, None if value is None else str(value)) for name, value in sorted(pairs.items()))


def _step(data: Mapping[str, object]) -> Step:
    words = tuple(str(word) for word in cast("list[object]", data["run"]))
    return Step(str(data["name"]), words, str(data.get("cwd", "{build}")), _environment(data.get("env")))
