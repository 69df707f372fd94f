# SPDX-License-Identifier: GPL-2.0-only
"""The state of a tree before a fix: values that were written, and what becomes of symbols that nobody wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from layer.kconfig.plan import Plan
from layer.kconfig.tree import TRISTATE, Tree


@dataclass(frozen=True, slots=True)
class Start:
    """`values` as written. A closed one turns off what it does not name, as allnoconfig does; an open one gives it its
    default, as olddefconfig does. A complete .config is the same either way, until a fix makes more symbols visible."""

    values: Mapping[str, str]
    closed: bool

    def apply(self, tree: Tree, change: Plan | None = None) -> None:
        """Puts `tree` into this state, with `change` on top."""
        tree.unset_values()
        if self.closed:
            for symbol in tree.unique_defined_syms:
                if symbol.orig_type in TRISTATE and not symbol.choice:
                    symbol.set_value(2 if symbol.is_allnoconfig_y else 0)
        for name, value in {**self.values, **(change or {})}.items():
            tree.assign(name, value)
