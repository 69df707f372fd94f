# SPDX-License-Identifier: GPL-2.0-only
"""Fragments in their order → the one file that KCONFIG_ALLCONFIG names, with a record of what overrides what.

The result is for `make KCONFIG_ALLCONFIG=<file> allnoconfig`: whatever it does not name is off. (`make tinyconfig`
has the same base, but sets KCONFIG_ALLCONFIG itself; its few symbols are in the base fragment.) Of two fragments, the
later counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from layer.errors import InputError
from layer.kconfig.fragments import TOP, Entry, Fragment, load
from layer.kconfig.values import satisfies
from layer.yamlfile import suggestion

KERNEL_CONFIG = TOP / "kernel-config"


@dataclass(frozen=True, slots=True)
class Overridden:
    """`entry` does not get its value, because `by` stands later and says otherwise."""

    entry: Entry
    by: Entry

    def __str__(self) -> str:
        entry, by = self.entry, self.by
        return f"{entry.where}: CONFIG_{entry.symbol}={entry.value} is overridden by ={by.value} in {by.where}"


@dataclass(frozen=True, slots=True)
class Merged:
    """One assignment per symbol, the last; `text` is the file for the kernel's make."""

    entries: tuple[Entry, ...]
    overridden: tuple[Overridden, ...]
    text: str


def fragment_file(name: str) -> Path:
    """The file of the fragment called `name`; InputError with a suggestion when there is none."""
    file = KERNEL_CONFIG / f"{name}.cfg"
    if not file.is_file():
        raise InputError(f"unknown kernel fragment {name!r}", hint=suggestion(name, names()))
    return file


def names() -> tuple[str, ...]:
    """Every fragment there is."""
    return tuple(sorted(file.stem for file in KERNEL_CONFIG.glob("*.cfg")))


def assemble(files: Sequence[Path]) -> Merged:
    """The fragments in `files`, merged in that order."""
    return merge([load(file) for file in files])


def merge(fragments: Sequence[Fragment]) -> Merged:
    """One assignment per symbol: the last one counts."""
    last: dict[str, Entry] = {}
    every = [entry for fragment in fragments for entry in fragment.entries]
    for entry in every:
        last.pop(entry.symbol, None)
        last[entry.symbol] = entry
    overridden = tuple(
        Overridden(entry, last[entry.symbol])
        for entry in every
        if not satisfies(entry.value, last[entry.symbol].value, entry.accept)
    )
    entries = tuple(last.values())
    return Merged(entries, overridden, _text(entries))


def _text(entries: Sequence[Entry]) -> str:
    """Grouped by file; file names without folders, so that the same fragments give the same text in every checkout."""
    lines: list[str] = []
    file: Path | None = None
    for entry in entries:
        if entry.file != file:
            file = entry.file
            lines.append(f"# {file.name}")
        lines.append(entry.assignment)
    return "".join(f"{line}\n" for line in lines)
