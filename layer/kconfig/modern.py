# SPDX-License-Identifier: GPL-2.0-only
"""What symbols mean in current kernels, where kconfiglib 14.1 has the meaning of its day.

- `imply` (since 5.7) is a hint for the default, bounded by the symbol's dependencies; what y implies can be m.
- A number that nobody set (since 6.8) is 0, not empty.
- A transitional symbol (since 6.18), the old name of a renamed one, takes a value from an old .config and hands it on,
  but is not written again.
- A choice (since 6.11) passes over members that are set to n: a default that was refused is not chosen.

Symbols and choices that this does not concern keep kconfiglib's own classes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import kconfiglib  # type: ignore[import-untyped]

NUMBERS_ARE_ZERO = (6, 8)
CHOICES_REFUSE = (6, 11)
ZERO = {kconfiglib.INT: "0", kconfiglib.HEX: "0x0"}
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


class NumberSymbol(kconfiglib.Symbol):  # type: ignore[misc]  # kconfiglib carries no types
    """Takes the place of an int or hex symbol."""

    __slots__ = SAME_LAYOUT
    _cached_str_val: str | None

    @property
    def str_value(self) -> str:
        """The value, which is compared and written as zero where there is none."""
        value = str(super().str_value) or ZERO[self.orig_type]
        self._cached_str_val = value
        return value


class TransitionalSymbol(kconfiglib.Symbol):  # type: ignore[misc]  # kconfiglib carries no types
    """Takes the place of a symbol that is marked transitional: settable without a prompt, never written."""

    __slots__ = SAME_LAYOUT

    @property
    def visibility(self) -> int:
        return 2

    @property
    def config_string(self) -> str:
        return ""


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


def modernise(tree: kconfiglib.Kconfig, release: str, transitional: Iterable[str]) -> None:
    """Gives the symbols and choices of a parsed tree the meaning that they have in the kernel of that release."""
    for symbol in tree.unique_defined_syms:
        if symbol.weak_rev_dep is not tree.n:
            symbol.__class__ = ImpliedSymbol
    for name in transitional:
        tree.syms[name].__class__ = TransitionalSymbol
    numbers = tuple(map(int, re.findall(r"\d+", release)[:2]))
    if numbers >= NUMBERS_ARE_ZERO:
        for symbol in tree.unique_defined_syms:
            if symbol.orig_type in ZERO:
                symbol.__class__ = NumberSymbol
    if numbers >= CHOICES_REFUSE:
        for choice in tree.unique_choices:
            choice.__class__ = RefusingChoice
    tree.unset_values()
    tree._invalidate_all()
