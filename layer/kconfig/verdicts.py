# SPDX-License-Identifier: GPL-2.0-only
"""The words of an audit: what can be said of one requested symbol, and of all of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """One word on one symbol."""

    MET = "met"
    MODULE = "module"  # m where y is needed
    OFF = "off"  # not set, though nothing stands in the way
    LOST = "lost"  # its dependencies are not met
    IMPOSSIBLE = "impossible"  # nothing on this architecture can bring it
    OVERRIDDEN = "overridden"  # a later line says otherwise
    FORCED = "forced"  # wanted off, but on
    DIFFERS = "differs"  # a number or text other than wanted
    UNKNOWN = "unknown"  # no such symbol in this tree
    UNMET = "unmet"  # not as wanted; why cannot be said without a tree


class Block(StrEnum):
    """Why one link of a chain does not hold."""

    SETTABLE = "can be set"
    BARRED = "could be set, but would make it a kernel for something else"  # never proposed
    LOST = "is lost itself"
    DERIVED = "has no prompt"  # others bring it
    NOWHERE = "has no prompt, and nothing here brings it"
    TOOLCHAIN = "is the compiler's answer"
    UNDEFINED = "does not exist on this architecture"
    CONDITION = "does not hold"  # a comparison, or something that would have to be off


@dataclass(frozen=True, slots=True)
class Link:
    """One unmet dependency: `symbol` needs `needs`, which is `value`."""

    symbol: str
    needs: str  # a symbol, or a condition as Kconfig writes it
    value: str
    block: Block
    where: str  # file:line in the tree, empty for a condition
    by: tuple[str, ...] = ()  # for DERIVED: what could bring it


@dataclass(frozen=True, slots=True)
class Finding:
    """All that is said of one requested symbol."""

    symbol: str
    wanted: str
    actual: str
    verdict: Verdict
    requested_by: tuple[str, ...]  # file:line of each fragment that asks
    reason: str
    excuse: str | None = None  # why it may stay unmet here; None: it is required
    chain: tuple[Link, ...] = ()
    had_by: tuple[str, ...] = ()  # architectures that have what is impossible here
    did_you_mean: tuple[str, ...] = ()
    overridden_by: str = ""  # file:line of the later line
    forced_by: tuple[str, ...] = ()  # what selects a symbol that is wanted off
    note: str = ""

    @property
    def met(self) -> bool:
        return self.verdict is Verdict.MET

    @property
    def required(self) -> bool:
        return self.excuse is None


@dataclass(frozen=True, slots=True)
class Fix:
    """A fragment that was set and looked at: afterwards `meets` are as wanted, and nothing that was met is lost."""

    lines: tuple[tuple[str, str, tuple[str, ...]], ...] = ()  # (symbol, value, for the sake of which others)
    meets: tuple[str, ...] = ()
    fails: tuple[str, ...] = ()  # symbols whose plan did not work, or that have none


@dataclass(frozen=True, slots=True)
class Report:
    """An audit: of what, against what, and what came out."""

    subject: str
    release: str | None
    arch: str | None
    tree: str | None  # the Kconfig tree it was judged with; None: plain comparison
    requirements: tuple[str, ...]
    findings: tuple[Finding, ...]
    fix: Fix | None  # None without a tree
    notes: tuple[str, ...] = ()
    failure: str | None = None  # why the tree could not be used, when one was given

    def unmet(self, *, required: bool) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if not finding.met and finding.required is required)
