# SPDX-License-Identifier: GPL-2.0-only
"""The key of an output: a hash of everything that can change it, kept as fields so that a change can be named.

No clock, no path of this machine and no text that cannot change the result (summaries, names of licences) is in a key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from layer.recipes import PathSource, Recipe

ENGINE = "1"  # raised when the engine itself builds the same recipe differently

# Left behind by tools in a working tree; never part of what a path stands for.
DEBRIS = frozenset({"__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".git"})
DEBRIS_SUFFIXES = (".pyc", ".egg-info", "~", ".swp")


@dataclass(frozen=True, slots=True)
class Ingredients:
    """What a key takes from outside the recipe."""

    machine: str  # "native" in a native recipe
    source: Mapping[str, str]  # file name → sha256, from the lock; the repository's files for a path source
    version: str
    toolchain: Mapping[str, str]
    depends: Mapping[str, str]  # recipe name → key
    fragments: tuple[tuple[str, str], ...]  # kernel fragments and their sha256, in order; two may have one name


def fields(recipe: Recipe, ingredients: Ingredients, top: Path) -> dict[str, object]:
    """Everything the key is made of, by name."""
    found = {
        "engine": ENGINE,
        "machine": ingredients.machine,
        "version": ingredients.version,
        "source": dict(ingredients.source),
        "patched": bool(getattr(recipe.source, "patched", False)),
        "patches": {patch: file_hash(top / patch) for patch in recipe.patches},
        "inputs": {name: file_hash(path) for name, path in repository_files(recipe.inputs, top)},
        "env": [list(pair) for pair in recipe.env],
        "steps": [asdict(step) for step in recipe.steps],
        "strip": recipe.strip,
        "licence_files": list(recipe.licence_files),
        "toolchain": dict(ingredients.toolchain),
        "depends": dict(ingredients.depends),
        "fragments": [list(pair) for pair in ingredients.fragments],
    }
    return cast("dict[str, object]", json.loads(json.dumps(found)))  # lists for tuples, as when read back to compare


def digest(parts: Mapping[str, object]) -> str:
    """The key: 128 bits are plenty to tell builds apart, and short enough for a folder name."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def path_source(recipe: Recipe, top: Path) -> dict[str, str]:
    """The files of a path source and their hashes; empty for other sources."""
    if not isinstance(recipe.source, PathSource):
        return {}
    return {name: file_hash(path) for name, path in repository_files(recipe.source.paths, top)}


def repository_files(patterns: tuple[str, ...], top: Path) -> tuple[tuple[str, Path], ...]:
    """Every file that the names, folders and globs stand for: name relative to `top`, and path. Sorted."""
    found: dict[str, Path] = {}
    for pattern in patterns:
        for start in sorted(top.glob(pattern)):
            for path in _files(start):
                found[path.relative_to(top).as_posix()] = path
    return tuple(sorted(found.items()))


def file_hash(path: Path) -> str:
    """sha256 of the content; the executable bit counts, as it can show in a result. A link is its target's name."""
    if path.is_symlink():
        return "link:" + str(path.readlink())
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    return f"{found}+x" if path.stat().st_mode & 0o100 else found


def difference(before: Mapping[str, object], after: Mapping[str, object]) -> tuple[str, ...]:
    """What differs between the fields of two keys, one line each."""
    return tuple(_differences("", before, after))


def _differences(name: str, before: object, after: object) -> Iterator[str]:
    if before == after:
        return
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted({*before, *after}):
            yield from _differences(f"{name}.{key}" if name else str(key), before.get(key), after.get(key))
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from _differences(f"{name}[{index}]", old, new)
    elif isinstance(before, list) and isinstance(after, list):
        yield from (f"{name}: without {_brief(old)}" for old in before if old not in after)
        yield from (f"{name}: with {_brief(new)}" for new in after if new not in before)
    else:
        yield f"{name}: {_brief(before)} → {_brief(after)}"


def _brief(value: object) -> str:
    if value is None:
        return "(absent)"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 72 else text[:69] + "…"


def _files(start: Path) -> Iterator[Path]:
    if start.name in DEBRIS or start.name.endswith(DEBRIS_SUFFIXES):
        return
    if start.is_dir() and not start.is_symlink():
        for child in sorted(start.iterdir()):
            yield from _files(child)
    else:
        yield start
