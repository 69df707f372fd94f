# SPDX-License-Identifier: GPL-2.0-only
"""The requirement list of an audit: what fragments ask, gathered by symbol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from layer.kconfig.fragments import Entry
from layer.kconfig.values import satisfies


@dataclass(frozen=True, slots=True)
class Wish:
    """All that the requirement list says of one symbol, as far as it agrees."""

    symbol: str
    wanted: str
    accept: tuple[str, ...]
    requested_by: tuple[str, ...]
    reason: str
    excuse: str | None
    later: Entry | None = None  # a later entry that wants something else


def gather(entries: Sequence[Entry], arch: str | None) -> tuple[Wish, ...]:
    """One wish per symbol and value, in the order in which symbols first appear."""
    last = {entry.symbol: entry for entry in entries}
    found: dict[tuple[str, str], Wish] = {}
    for entry in entries:
        key = (entry.symbol, entry.value)
        before = found.get(key)
        final = last[entry.symbol]
        later = None if satisfies(entry.value, final.value, entry.accept) else final
        wish = Wish(entry.symbol, entry.value, entry.accept, (entry.where,), entry.reason, entry.excuse(arch), later)
        found[key] = wish if before is None else _joined(before, wish)
    return tuple(found.values())


def _joined(first: Wish, second: Wish) -> Wish:
    required = first.excuse is None or second.excuse is None
    return replace(
        first,
        requested_by=first.requested_by + second.requested_by,
        accept=tuple(value for value in first.accept if value in second.accept),
        excuse=None if required else first.excuse,
        reason=second.reason or first.reason,
    )
