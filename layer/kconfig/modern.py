# SPDX-License-Identifier: GPL-2.0-only
"""What symbols mean in current kernels, where kconfiglib 14.1 has the meaning of its day.

- `imply` (since 5.7) is a hint for the default, bounded by the symbol's dependencies; what y implies can be m.
- A choice (since 6.11) passes over members that are set to n: a default that was refused is not chosen.

Symbols and choices that this does not concern keep kconfiglib's own classes.
"""

from __future__ import annotations

import re

import kconfiglib  # type: ignore[import-untyped]

CHOICES_REFUSE = (6, 11)
SAME_LAYOUT: tuple[str, ...] = ()  # no slots of its own, so that `__class__` of a finished object can be set to it


class ImpliedSymbol(kconfiglib.Symbol):  # type: ignore[misc]  # kconfiglib carries no types
    """Takes the place of a symbol that something implies."""

    __slots__ = SAME_LAYOUT
    _cached_tri_val: int | None
    _write_to_conf: bool

    @property
    def tri_value(self) -> int:
        """sym_calc_value of scripts/kconfig/symbol.c; other types, choices and cached values as in the base class."""
        if (
            self._cached_tri_val is not None
            or self.choice
            or self.orig_type not in (kconfiglib.BOOL, kconfiglib.TRISTATE)
        ):
            return int(super().tri_value)
        visible: int = self.visibility
        value = min(self.user_value, visible) if visible and self.user_value is not None else self._unasked()
        selected: int = kconfiglib.expr_value(self.rev_dep)
        implied: int = kconfiglib.expr_value(self.weak_rev_dep)
        value = max(value, selected)
        if value == 1 and self.type is kconfiglib.BOOL:
            value = 2
        # An implied symbol stands in .config even where its dependencies keep it off.
        self._write_to_conf = bool(visible or value or implied)
        self._cached_tri_val = value
        return value

    def _unasked(self) -> int:
        """The value that nobody set: the first default that applies, or what is implied, within the dependencies."""
        value = 0
        for default, condition in self.defaults:
            level: int = kconfiglib.expr_value(condition)
            if level:
                value = min(kconfiglib.expr_value(default), level)
                break
        implied: int = kconfiglib.expr_value(self.weak_rev_dep)
        return min(max(value, implied), kconfiglib.expr_value(self.direct_dep)) if implied else value


class RefusingChoice(kconfiglib.Choice):  # type: ignore[misc]  # kconfiglib carries no types
    """Takes the place of every choice."""

    __slots__ = SAME_LAYOUT

    def _selection_from_defaults(self) -> kconfiglib.Symbol | None:
        """sym_calc_choice of scripts/kconfig/symbol.c, after no visible member was selected."""
        visible = [symbol for symbol in self.syms if symbol.visibility]
        asked = [symbol for symbol in visible if symbol.user_value == 2]
        first = asked[0] if asked else super()._selection_from_defaults()
        if first is None or first.user_value != 0:
            return first
        open_ones = [symbol for symbol in visible if symbol.user_value is None]
        return open_ones[0] if open_ones else visible[0]


def modernise(tree: kconfiglib.Kconfig, release: str) -> None:
    """Gives the symbols and choices of a parsed tree the meaning that they have in the kernel of that release."""
    for symbol in tree.unique_defined_syms:
        if symbol.weak_rev_dep is not tree.n:
            symbol.__class__ = ImpliedSymbol
    if tuple(map(int, re.findall(r"\d+", release)[:2])) >= CHOICES_REFUSE:
        for choice in tree.unique_choices:
            choice.__class__ = RefusingChoice
    tree.unset_values()
    tree._invalidate_all()
