# SPDX-License-Identifier: GPL-2.0-only
"""Why a symbol is not what was asked: the chain of unmet dependencies, and who has what this architecture lacks.

The chain names each symbol once and ends at what can be set, or at what cannot exist here. Of alternatives (A || B) it
follows the one that the planner would take, or all of them when there is no way.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import kconfiglib  # type: ignore[import-untyped]

from layer.kconfig.plan import UNTOUCHABLE, Expression, Planner
from layer.kconfig.tree import TOOL_ANSWER, TRISTATE, Tree
from layer.kconfig.verdicts import Block, Link

LONGEST = 24  # links of one chain
SELECTORS_SHOWN = 4


class Explainer:
    """Explains in the state that the planner's tree is in."""

    def __init__(self, planner: Planner) -> None:
        self.planner = planner
        self.tree: Tree = planner.tree

    def chain(self, symbol: kconfiglib.Symbol, level: int) -> tuple[Link, ...]:
        """Why `symbol` cannot be `level`, from the nearest dependency down to what can be set."""
        links: list[Link] = []
        self._follow(symbol, level, links, {symbol.name})
        return tuple(links[:LONGEST])

    def _follow(self, symbol: kconfiglib.Symbol, level: int, links: list[Link], seen: set[str]) -> None:
        if len(links) >= LONGEST:
            return
        for term in self._unmet(self._condition(symbol), level):
            name = term.name if isinstance(term, kconfiglib.Symbol) else kconfiglib.expr_str(term)
            if name in seen:
                continue
            seen.add(name)
            links.append(self._link(symbol, term, name, level))
            if isinstance(term, kconfiglib.Symbol) and links[-1].block in (Block.LOST, Block.DERIVED):
                self._follow(term, level, links, seen)

    def _condition(self, symbol: kconfiglib.Symbol) -> Expression:
        """What has to hold: for the nearest prompt, or else for what brings a symbol that has none."""
        prompts = [node.prompt[1] for node in symbol.nodes if node.prompt]
        if prompts:
            return min(prompts, key=self._cost)
        ways = [term for term in kconfiglib.split_expr(symbol.rev_dep, kconfiglib.OR) if term is not self.tree.n]
        ways += [
            condition if value is self.tree.y else (kconfiglib.AND, value, condition)
            for value, condition in symbol.defaults
            if symbol.orig_type in TRISTATE and value is not self.tree.n
        ]
        reachable = [way for way in ways if self.planner.lift(way, 1) is not None]
        return min(reachable, key=self._cost) if reachable else symbol.direct_dep

    def _cost(self, expression: Expression) -> int:
        plan = self.planner.lift(expression, 1)
        return 1000 if plan is None else len(plan)

    def _unmet(self, expression: Expression, level: int) -> Iterator[Expression]:
        """The parts of a condition that keep it down."""
        for term in kconfiglib.split_expr(expression, kconfiglib.AND):
            if kconfiglib.expr_value(term) >= level:
                continue
            if isinstance(term, kconfiglib.Choice):
                yield from self._unmet(term.direct_dep, 1)
                continue
            ways = kconfiglib.split_expr(term, kconfiglib.OR)
            if len(ways) == 1:
                yield term
                continue
            reachable = [way for way in ways if self.planner.lift(way, level) is not None]
            for way in [min(reachable, key=self._cost)] if reachable else ways:
                yield from self._unmet(way, level)

    def _link(self, symbol: kconfiglib.Symbol, term: Expression, name: str, level: int) -> Link:
        if not isinstance(term, kconfiglib.Symbol):
            return Link(symbol.name, name, _level(term), Block.CONDITION, "")
        block, by = self._block(term, level)
        where = f"{term.nodes[0].filename}:{term.nodes[0].linenr}" if term.nodes else ""
        return Link(symbol.name, name, term.str_value, block, where, by)

    def _block(self, symbol: kconfiglib.Symbol, level: int) -> tuple[Block, tuple[str, ...]]:
        if symbol.is_constant:
            return Block.TOOLCHAIN, ()  # a macro that was expanded to n
        if not symbol.nodes:
            return Block.UNDEFINED, ()
        if any(node.prompt for node in symbol.nodes):
            if symbol.name in UNTOUCHABLE:
                return Block.BARRED, ()
            return (Block.SETTABLE if symbol.visibility >= level else Block.LOST), ()
        if self.planner.lift(symbol, level) is not None:
            return Block.DERIVED, self._selectors(symbol)
        if symbol.rev_dep is self.tree.n and _asks_compiler(symbol):
            return Block.TOOLCHAIN, ()
        return Block.NOWHERE, ()

    def _selectors(self, symbol: kconfiglib.Symbol) -> tuple[str, ...]:
        terms = kconfiglib.split_expr(symbol.rev_dep, kconfiglib.OR)
        reachable = [term for term in terms if self.planner.lift(term, 1) is not None]
        first = [kconfiglib.split_expr(term, kconfiglib.AND)[0] for term in reachable[:SELECTORS_SHOWN]]
        return tuple(selector.name for selector in first if isinstance(selector, kconfiglib.Symbol))


def _asks_compiler(symbol: kconfiglib.Symbol) -> bool:
    """A promptless symbol whose only default is a constant: what is left of a `$(cc-option …)`."""
    constant = [value for value, _ in symbol.defaults if isinstance(value, kconfiglib.Symbol) and value.is_constant]
    return bool(TOOL_ANSWER.match(symbol.name)) and bool(constant)


def _level(expression: Expression) -> str:
    level: str = kconfiglib.TRI_TO_STR[kconfiglib.expr_value(expression)]
    return level


def architectures_with(directory: Path, symbols: Sequence[str]) -> tuple[str, ...]:
    """The folders of arch/ whose Kconfig selects or defines one of `symbols`, with the condition where there is one."""
    if not symbols:
        return ()
    either = "|".join(map(re.escape, symbols))
    pattern = re.compile(
        rf"^\s*(?:select\s+(?:{either})(?:\s+if\s+([^#\n]+?))?|(?:menu)?config\s+(?:{either}))\s*(?:#.*)?$"
    )
    found: dict[str, str] = {}
    for file in sorted(directory.glob("arch/*/**/Kconfig*")):
        arch = file.relative_to(directory).parts[1]
        for line in file.read_text(errors="replace").splitlines():
            match = pattern.match(line)
            if match and found.get(arch) != "":
                found[arch] = match[1] or ""
    return tuple(f"{arch} (if {condition})" if condition else arch for arch, condition in found.items())
