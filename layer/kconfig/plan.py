# SPDX-License-Identifier: GPL-2.0-only
"""What to set so that a symbol becomes y, m or n: a search backwards through dependencies, selects and defaults.

A plan is a proposal: it follows one way at a time and does not see what its parts do to each other. `layer.kconfig.fix`
sets it and looks. No plan means that no way was found; it is the proof of nothing where a search was cut short.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import kconfiglib  # type: ignore[import-untyped]

from layer.kconfig.tree import TRISTATE, Tree

Plan = Mapping[str, str]  # symbol → value to set
Expression = object  # kconfiglib's: a symbol, a choice, or a tuple of operator and operands

NOTHING: Plan = {}
# Never proposed: they turn the machine into another, or switch on what its authors call broken.
UNTOUCHABLE = frozenset({"64BIT", "BROKEN", "COMPILE_TEST", "32BIT"})
MOST_WAYS = 40  # selectors of one symbol that are looked at
COMPARISONS = (kconfiglib.EQUAL, kconfiglib.UNEQUAL)


@dataclass(slots=True)
class Planner:
    """Plans in the state that `tree` is in; make another after the state has changed."""

    tree: Tree
    _known: dict[tuple[str, int], Plan | None] = field(default_factory=dict)
    _open: list[tuple[str, int]] = field(default_factory=list)  # being worked on: the way back to the question
    _cut: set[tuple[str, int]] = field(default_factory=set)  # met again while being worked on

    def reach(self, symbol: kconfiglib.Symbol, value: str) -> Plan | None:
        """What to set so that `symbol` gets `value`; None when no way is found."""
        if symbol.orig_type not in TRISTATE:
            return self._show(symbol, value)
        return self.lower(symbol) if value == "n" else self.lift(symbol, 2 if value == "y" else 1)

    def lift(self, expression: Expression, level: int) -> Plan | None:
        """What to set so that `expression` is at least `level` (1 is m, 2 is y)."""
        if kconfiglib.expr_value(expression) >= level:
            return NOTHING
        if isinstance(expression, kconfiglib.Symbol):
            return self._lift_symbol(expression, level)
        if isinstance(expression, kconfiglib.Choice):
            return self.lift(expression.direct_dep, level)
        if not isinstance(expression, tuple):
            return None
        operator, *operands = expression
        if operator is kconfiglib.AND:
            return _all(self.lift(operand, level) for operand in operands)
        if operator is kconfiglib.OR:
            return _cheapest(self.lift(operand, level) for operand in operands)
        if operator is kconfiglib.NOT:
            return self.lower(operands[0])
        return self._compare(operator, operands) if operator in COMPARISONS else None

    def lower(self, expression: Expression) -> Plan | None:
        """What to set so that `expression` is n."""
        if kconfiglib.expr_value(expression) == 0:
            return NOTHING
        if isinstance(expression, kconfiglib.Symbol):
            return self._lower_symbol(expression)
        if not isinstance(expression, tuple):
            return None
        operator, *operands = expression
        if operator is kconfiglib.AND:
            return _cheapest(self.lower(operand) for operand in operands)
        if operator is kconfiglib.OR:
            return _all(self.lower(operand) for operand in operands)
        return self.lift(operands[0], 2) if operator is kconfiglib.NOT else None

    def _lift_symbol(self, symbol: kconfiglib.Symbol, level: int) -> Plan | None:
        key = (symbol.name, level)
        if symbol.is_constant or not symbol.nodes or symbol.name in UNTOUCHABLE:
            return None
        if key in self._known:
            return self._known[key]
        if key in self._open:
            self._cut.add(key)
            return None
        self._open.append(key)
        plan = self._ways(symbol, level)
        self._open.pop()
        self._cut.discard(key)
        if plan is not None or not self._cut:  # an answer that was cut short by a circle holds only inside of it
            self._known[key] = plan
        return plan

    def _ways(self, symbol: kconfiglib.Symbol, level: int) -> Plan | None:
        by_hand = self._show(symbol, "y" if level == 2 or symbol.orig_type == kconfiglib.BOOL else "m", level)
        if by_hand is not None:
            return by_hand
        selectors = kconfiglib.split_expr(symbol.rev_dep, kconfiglib.OR)[:MOST_WAYS]
        selected = _cheapest(self.lift(selector, level) for selector in selectors)
        if any(node.prompt for node in symbol.nodes):
            return selected
        by_default = _cheapest(_all(self.lift(part, level) for part in default) for default in symbol.defaults)
        return _cheapest([selected, by_default])

    def _show(self, symbol: kconfiglib.Symbol, value: str, level: int = 1) -> Plan | None:
        """Make the symbol's prompt visible and answer it."""
        prompts = [node.prompt[1] for node in symbol.nodes if node.prompt]
        way = _cheapest(self.lift(condition, level) for condition in prompts)
        return None if way is None else {**way, symbol.name: value}

    def _lower_symbol(self, symbol: kconfiglib.Symbol) -> Plan | None:
        key = (symbol.name, 0)
        if symbol.is_constant or symbol.name in UNTOUCHABLE or symbol.choice is not None or key in self._open:
            return None
        self._open.append(key)
        released = self.lower(symbol.rev_dep)
        self._open.pop()
        if released is None or not any(node.prompt for node in symbol.nodes):
            return None
        return {**released, symbol.name: "n"}

    def _compare(self, operator: int, operands: list[Expression]) -> Plan | None:
        left, right = operands
        if not (isinstance(left, kconfiglib.Symbol) and isinstance(right, kconfiglib.Symbol) and right.is_constant):
            return None
        wanted = right.name if operator is kconfiglib.EQUAL else {"n": "m", "y": "n"}.get(right.name)
        return self.reach(left, wanted) if wanted in ("n", "m", "y") and left.orig_type in TRISTATE else None


def _all(plans: Iterable[Plan | None]) -> Plan | None:
    """All of them together; None when one is missing, or when two want different values."""
    together: dict[str, str] = {}
    for plan in plans:
        if plan is None:
            return None
        for symbol, value in plan.items():
            before = together.get(symbol, value)
            if before != value and "n" in (before, value):
                return None
            together[symbol] = "y" if "y" in (before, value) else value
    return together


def _cheapest(plans: Iterable[Plan | None]) -> Plan | None:
    """The one that sets least; what switches something off counts as three."""
    best: Plan | None = None
    for plan in plans:
        if plan is None or (best is not None and _cost(plan) >= _cost(best)):
            continue
        best = plan
        if _cost(best) <= 1:
            break
    return best


def _cost(plan: Plan) -> int:
    return sum(3 if value == "n" else 1 for value in plan.values())
