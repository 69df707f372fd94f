# SPDX-License-Identifier: GPL-2.0-only
"""Symbols that a later kernel renamed or dropped: what a request for them means there. The facts are in
`kernel-config/renamed.yaml`; symbols that a tree itself marks transitional need no entry.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from layer.kconfig.assemble import KERNEL_CONFIG
from layer.kconfig.wishes import Wish

FILE = KERNEL_CONFIG / "renamed.yaml"


@dataclass(frozen=True, slots=True)
class Renamed:
    """Asked for where it is not known, a symbol means `heir`; from release `gone` on it means nothing."""

    why: str
    heir: str | None = None
    gone: str | None = None


def load(file: Path = FILE) -> dict[str, Renamed]:
    """The table, by old name."""
    data: Mapping[str, Mapping[str, str]] = yaml.safe_load(file.read_text())
    return {symbol: Renamed(**facts) for symbol, facts in data.items()}


def current(asked: Iterable[Wish], known: Callable[[str], bool], release: str | None) -> tuple[Wish, ...]:
    """The wishes as a kernel of that release understands them; `known` says whether it has a symbol."""
    table = load()
    return tuple(
        wish
        for old in asked
        if (
            wish := old
            if known(old.symbol) or old.symbol not in table
            else _today(old, table[old.symbol], known, release)
        )
    )


def _today(wish: Wish, renamed: Renamed, known: Callable[[str], bool], release: str | None) -> Wish | None:
    if renamed.heir and known(renamed.heir):
        return replace(wish, symbol=renamed.heir, reason=f"{wish.reason} (for {wish.symbol}: {renamed.why})")
    if renamed.gone and release and _numbers(release) >= _numbers(renamed.gone):
        return None
    return wish


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", release)[:2]))
