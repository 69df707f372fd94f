# SPDX-License-Identifier: GPL-2.0-only
"""The audit: what is asked of a kernel configuration, symbol by symbol, against what the configuration is.

With a Kconfig tree it says why a symbol is not as wanted, and finds a fragment that makes it so. Without, it compares
what is written, and says that this is all it did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from layer.kconfig import renamed
from layer.kconfig.dotconfig import DotConfig
from layer.kconfig.fix import Goal, prove
from layer.kconfig.judge import Judge
from layer.kconfig.plan import Planner
from layer.kconfig.start import Start
from layer.kconfig.tree import TOOL_ANSWER, Tree
from layer.kconfig.values import satisfies
from layer.kconfig.verdicts import Finding, Fix, Report, Verdict
from layer.kconfig.wishes import Wish


@dataclass(frozen=True, slots=True)
class Subject:
    """What is audited: a configuration that was written, or none yet (`written` None: the fragments decide)."""

    name: str
    written: DotConfig | None
    arch: str | None


def compare(subject: Subject, asked: Sequence[Wish], requirements: tuple[str, ...]) -> Report:
    """The plain comparison, without a tree."""
    written = subject.written
    assert written is not None
    asked = renamed.current(asked, lambda symbol: symbol in written.values, written.release)
    findings = tuple(_plain(wish, written) for wish in asked)
    notes = (
        "no Kconfig tree was given: which dependency is missing, and whether a symbol exists at all, is not known",
    )
    return Report(subject.name, written.release, subject.arch, None, requirements, findings, None, notes)


def judge(subject: Subject, tree: Tree, asked: Sequence[Wish], requirements: tuple[str, ...]) -> Report:
    """The audit with a tree: reasons, and a fix."""
    values, starts = _starting_points(subject, asked)
    asked = renamed.current(asked, lambda symbol: tree.symbol(symbol) is not None, tree.version)
    starts[0].apply(tree)
    judging = Judge(Planner(tree))
    stale = _stale(tree, subject.written)
    findings, goals, held = [], [], []
    for wish in asked:
        actual = _written(subject.written, wish.symbol) if values is None else tree.value(wish.symbol)
        finding = _finding(wish, actual, subject.written)
        if not finding.met:
            finding = judging.explain(finding)
            goals.append(Goal(wish.symbol, wish.wanted, wish.accept, judging.plan(finding)))
        else:
            held.append(Goal(wish.symbol, wish.wanted, wish.accept, None))
        findings.append(finding)
    targets = {goal.symbol for goal in goals}
    fix = prove(tree, starts, goals, [goal for goal in held if goal.symbol not in targets]) if goals else Fix()
    notes = (*stale, *_notes(subject, tree))
    return Report(
        subject.name, tree.version, subject.arch, str(tree.directory), requirements, tuple(findings), fix, notes
    )


def _plain(wish: Wish, written: DotConfig) -> Finding:
    finding = _finding(wish, _written(written, wish.symbol), written)
    if (
        finding.verdict is Verdict.UNMET
        and wish.symbol in written.values
        and written.complete
        and finding.actual == "n"
    ):
        return replace(finding, verdict=Verdict.OFF)  # make writes `is not set` only for what could be set
    return finding


def _finding(wish: Wish, actual: str, written: DotConfig | None) -> Finding:
    verdict, overridden_by = Verdict.UNMET, ""
    if satisfies(wish.wanted, actual, wish.accept):
        verdict = Verdict.MET
    elif wish.later is not None:
        verdict, overridden_by = Verdict.OVERRIDDEN, wish.later.where
    elif (
        written
        and wish.symbol in written.earlier
        and satisfies(wish.wanted, written.earlier[wish.symbol].value, wish.accept)
    ):
        verdict, overridden_by = Verdict.OVERRIDDEN, f"{written.name}:{written.values[wish.symbol].number}"
    elif wish.wanted == "y" and actual == "m":
        verdict = Verdict.MODULE
    elif actual != "n" and wish.wanted not in ("y", "m"):
        verdict = Verdict.DIFFERS
    return Finding(
        symbol=wish.symbol,
        wanted=wish.wanted,
        actual=actual,
        verdict=verdict,
        requested_by=wish.requested_by,
        reason=wish.reason,
        excuse=wish.excuse,
        overridden_by=overridden_by,
    )


def _written(written: DotConfig | None, symbol: str) -> str:
    return written.value(symbol) if written else "n"


def _starting_points(subject: Subject, asked: Sequence[Wish]) -> tuple[Mapping[str, str] | None, tuple[Start, ...]]:
    """(the values to evaluate, or None where the file itself says them; the states in which a fix must work)."""
    if subject.written is None:
        values = {wish.symbol: wish.wanted for wish in asked if wish.later is None}
        return values, (Start(values, closed=True),)
    values = {name: line.value for name, line in subject.written.values.items()}
    if subject.written.complete:
        return None, (Start(values, closed=True), Start(values, closed=False))
    return values, (Start(values, closed=False),)


def _stale(tree: Tree, written: DotConfig | None) -> tuple[str, ...]:
    """How far the file is from what make would make of it; the tree is in the state of the file."""
    if written is None or not written.complete:
        return ()
    computed = tree.configuration()
    differing = [name for name in {*computed, *written.values} if computed.get(name, "n") != written.value(name)]
    names = [name for name in differing if not TOOL_ANSWER.match(name)]  # another compiler is no news
    if not names:
        return ()
    shown = ", ".join(sorted(names)[:5]) + (", …" if len(names) > 5 else "")
    return (f"make olddefconfig in this tree would change {len(names)} symbols of it: {shown}",)


def _notes(subject: Subject, tree: Tree) -> tuple[str, ...]:
    notes = []
    if subject.written and subject.written.release and subject.written.release != tree.version:
        notes.append(
            f"made for Linux {subject.written.release}, judged in a tree of {tree.version}: the reasons are its"
        )
    if subject.written and not subject.written.complete:
        notes.append("it is not a complete .config: what it does not name was given its default, as olddefconfig does")
    return tuple(notes)
