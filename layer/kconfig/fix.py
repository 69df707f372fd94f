# SPDX-License-Identifier: GPL-2.0-only
"""The fragment that makes an audit pass: plans, set in the tree and looked at.

It is tried twice: as olddefconfig applies it to a .config, and as allnoconfig applies it as one more fragment, where
nothing helps by being on by default. What does not hold in both, or undoes what was met, is left out and named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from layer.kconfig.plan import Plan
from layer.kconfig.start import Start
from layer.kconfig.tree import Tree
from layer.kconfig.values import satisfies
from layer.kconfig.verdicts import Fix


@dataclass(frozen=True, slots=True)
class Goal:
    """What one symbol shall be, and the way there; no plan where none was found."""

    symbol: str
    wanted: str
    accept: tuple[str, ...]
    plan: Plan | None


def prove(tree: Tree, starts: Sequence[Start], goals: Sequence[Goal], held: Sequence[Goal]) -> Fix:
    """The plans of `goals` that work together and leave `held` (what is met already) as it is."""
    planned = [goal for goal in goals if goal.plan is not None]
    good = planned
    if not _holds(tree, starts, planned, held):
        good = _one_by_one(tree, starts, planned, held)
    met = {goal.symbol for goal in good}
    return Fix(
        lines=tuple((name, value, _sake(name, good)) for name, value in _union(good).items()),
        meets=tuple(goal.symbol for goal in good),
        fails=tuple(goal.symbol for goal in goals if goal.symbol not in met),
    )


def _one_by_one(tree: Tree, starts: Sequence[Start], planned: Sequence[Goal], held: Sequence[Goal]) -> list[Goal]:
    good: list[Goal] = []
    for goal in planned:
        if _compatible(good, goal) and _holds(tree, starts, [*good, goal], held):
            good.append(goal)
    return good


def _holds(tree: Tree, starts: Sequence[Start], goals: Sequence[Goal], held: Sequence[Goal]) -> bool:
    change = _union(goals)
    for start in starts:
        start.apply(tree, change)
        if not all(satisfies(goal.wanted, tree.value(goal.symbol), goal.accept) for goal in (*goals, *held)):
            return False
    return True


def _compatible(good: Sequence[Goal], goal: Goal) -> bool:
    already = _union(good)
    return all(
        already.get(name, value) == value or "n" not in (already[name], value) for name, value in _of(goal).items()
    )


def _union(goals: Sequence[Goal]) -> dict[str, str]:
    """All assignments; y wins over m, and a symbol that is itself a goal gets what that goal wants."""
    together: dict[str, str] = {}
    for goal in goals:
        for name, value in _of(goal).items():
            together[name] = "y" if together.get(name) == "y" and value == "m" else value
    return together


def _of(goal: Goal) -> Mapping[str, str]:
    return goal.plan or {}


def _sake(name: str, goals: Sequence[Goal]) -> tuple[str, ...]:
    """The goals that an assignment serves; empty when it is itself one."""
    if any(goal.symbol == name for goal in goals):
        return ()
    return tuple(goal.symbol for goal in goals if name in _of(goal))
