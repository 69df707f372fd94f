# SPDX-License-Identifier: GPL-2.0-only
"""From `not as wanted` to the verdict that says why, in the state that the tree is in."""

from __future__ import annotations

import difflib
from dataclasses import replace

import kconfiglib  # type: ignore[import-untyped]

from layer.kconfig.explain import Explainer, architectures_with
from layer.kconfig.plan import Plan, Planner
from layer.kconfig.tree import TRISTATE
from layer.kconfig.verdicts import Block, Finding, Link, Verdict

LEVEL = {"m": 1, "y": 2}
ELSEWHERE = (Block.NOWHERE, Block.UNDEFINED)


class Judge:
    """Explains findings one by one."""

    def __init__(self, planner: Planner) -> None:
        self.planner = planner
        self.tree = planner.tree
        self.explainer = Explainer(planner)

    def plan(self, finding: Finding) -> Plan | None:
        """What to set so that it is as wanted."""
        symbol = self.tree.symbol(finding.symbol)
        if symbol is None or symbol.name in self.tree.transitional:
            return None
        way = self.planner.reach(symbol, finding.wanted)
        return None if way is None else way or {finding.symbol: finding.wanted}

    def explain(self, finding: Finding) -> Finding:
        """The finding with the verdict that fits, and what belongs to it."""
        symbol = self.tree.symbol(finding.symbol)
        if symbol is None:
            return self._missing(finding)
        if symbol.name in self.tree.transitional:
            return replace(finding, verdict=Verdict.UNKNOWN, did_you_mean=self._heirs(symbol), note="it was renamed")
        if finding.verdict is Verdict.OVERRIDDEN:
            return finding
        if finding.wanted == "n" or finding.verdict is Verdict.DIFFERS:
            return self._other_value(finding, symbol)
        level = LEVEL.get(finding.wanted, 1)
        chain = self.explainer.chain(symbol, level) if symbol.visibility < level else ()
        if finding.verdict is Verdict.MODULE:
            return replace(finding, chain=chain, note=self._module_note(symbol))
        if symbol.visibility >= level or (symbol.orig_type not in TRISTATE and symbol.visibility):
            return replace(finding, verdict=Verdict.OFF, note=self._choice_note(symbol))
        return self._lost(finding, symbol, chain)

    def _missing(self, finding: Finding) -> Finding:
        elsewhere = architectures_with(self.tree.directory, [finding.symbol])
        if elsewhere:
            return replace(
                finding, verdict=Verdict.IMPOSSIBLE, had_by=elsewhere, note="this architecture does not know it"
            )
        names = [symbol.name for symbol in self.tree.unique_defined_syms]
        return replace(finding, verdict=Verdict.UNKNOWN, did_you_mean=alike(finding.symbol, names))

    def _heirs(self, symbol: kconfiglib.Symbol) -> tuple[str, ...]:
        """The symbols that take over the value of a transitional one."""
        defaults = ((other.name, value) for other in self.tree.unique_defined_syms for value, _ in other.defaults)
        return tuple(dict.fromkeys(name for name, value in defaults if value is symbol))

    def _other_value(self, finding: Finding, symbol: kconfiglib.Symbol) -> Finding:
        if finding.wanted != "n":
            return finding
        terms = kconfiglib.split_expr(symbol.rev_dep, kconfiglib.OR)
        active = [kconfiglib.split_expr(term, kconfiglib.AND)[0] for term in terms if kconfiglib.expr_value(term)]
        return replace(finding, verdict=Verdict.FORCED, forced_by=tuple(kconfiglib.expr_str(term) for term in active))

    def _lost(self, finding: Finding, symbol: kconfiglib.Symbol, chain: tuple[Link, ...]) -> Finding:
        if self.planner.reach(symbol, finding.wanted) is not None:
            return replace(finding, verdict=Verdict.LOST, chain=chain)
        lacking = [link.needs for link in chain if link.block in ELSEWHERE]
        if not chain and not any(node.prompt for node in symbol.nodes):
            lacking = [symbol.name]
        had_by = architectures_with(self.tree.directory, lacking)
        verdict = Verdict.IMPOSSIBLE if lacking else Verdict.LOST
        return replace(finding, verdict=verdict, chain=chain, had_by=had_by)

    def _module_note(self, symbol: kconfiglib.Symbol) -> str:
        return "it could be built in" if symbol.visibility == 2 else "a dependency is a module, too"

    def _choice_note(self, symbol: kconfiglib.Symbol) -> str:
        if symbol.choice is None or symbol.choice.selection in (None, symbol):
            return ""
        chosen = symbol.choice.selection
        return f"of the choice {symbol.choice.nodes[0].prompt[0]!r}, {chosen.name} is chosen"


def alike(name: str, names: list[str]) -> tuple[str, ...]:
    """Up to three of `names` that a person could have meant by `name`."""
    parts = set(name.split("_"))
    near = [
        other for other in names if other[:3] == name[:3] or other[-4:] == name[-4:] or parts & set(other.split("_"))
    ]
    return tuple(difflib.get_close_matches(name, near, n=3, cutoff=0.75))
