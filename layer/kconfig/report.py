# SPDX-License-Identifier: GPL-2.0-only
"""An audit as text for people, as JSON for programs, and its fix as a fragment. Makes strings; writes nothing."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import PurePath

from layer.kconfig.values import assignment
from layer.kconfig.verdicts import Block, Finding, Fix, Link, Report, Verdict

JSON_VERSION = 1  # raised when a field changes its meaning or goes; new fields do not raise it
WIDTH = 108
RED, GREEN, YELLOW, BOLD = "31", "32", "33", "1"


def as_json(report: Report, exit_code: int) -> str:
    """The whole report; the fields are those of `layer.kconfig.verdicts`."""
    data = {"version": JSON_VERSION, "exit_code": exit_code, **asdict(report)}
    for finding, plain in zip(report.findings, data["findings"], strict=True):
        plain["required"] = finding.required
    data["counts"] = dict(sorted(Counter(finding.verdict.value for finding in report.findings).items()))
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def as_text(report: Report, exit_code: int, *, colour: bool, everything: bool) -> str:
    """What a person needs to see; with `everything` the met symbols too."""
    lines = list(_lines(report, exit_code, everything=everything))
    return "".join(f"{_painted(text, style) if colour else text}\n" for text, style in lines)


def as_fragment(report: Report, fix: Fix) -> str:
    """The fix as a fragment that this layer, merge_config and KCONFIG_ALLCONFIG read.

    It names no folder: the same fix is the same text, and so the same key in the build's cache, wherever it was made.
    """
    lines = [
        "# Made by the kernel configuration audit: what is missing for",
        *(f"#   {PurePath(name).name if name.startswith('/') else name}" for name in report.requirements),
        f"# Put on top of {PurePath(report.subject).name} and re-evaluated",
        f"# for Linux {report.release}: {len(fix.meets)} symbols become as wanted.",
        "",
    ]
    reasons = {finding.symbol: finding.reason for finding in report.findings}
    for symbol, value, sake in fix.lines:
        lines.append(f"# needed by {', '.join(sake)}" if sake else f"# {reasons.get(symbol) or 'asked for'}")
        lines.append(assignment(symbol, value))
    return "".join(f"{line}\n" for line in lines)


def _lines(report: Report, exit_code: int, *, everything: bool) -> Iterator[tuple[str, str]]:
    yield f"{report.subject}: {_of(report)}", BOLD
    yield f"  asked for: {', '.join(report.requirements)}", ""
    yield f"  judged with: {report.tree or 'no Kconfig tree (plain comparison)'}", ""
    for note in report.notes:
        yield from _wrapped(f"note: {note}", 2)
    if report.failure:
        yield from _wrapped(f"could not evaluate: {report.failure}", 2, RED)
    sections = [
        ("required, not met", report.unmet(required=True), RED),
        ("optional, not met", report.unmet(required=False), YELLOW),
    ]
    if everything:
        sections.append(("met", tuple(finding for finding in report.findings if finding.met), GREEN))
    for title, findings, style in sections:
        if findings:
            yield "", ""
            yield f"{title}: {len(findings)}", style
        for finding in findings:
            yield from _finding(finding, style)
    yield from _fix(report)
    yield "", ""
    yield _sum(report, exit_code), GREEN if exit_code == 0 else RED


def _of(report: Report) -> str:
    return ", ".join(part for part in (f"Linux {report.release}" if report.release else "", report.arch or "") if part)


def _finding(finding: Finding, style: str) -> Iterator[tuple[str, str]]:
    head = f"  CONFIG_{finding.symbol}={finding.wanted}"
    if finding.met:
        yield head + ("" if finding.actual == finding.wanted else f" (is {finding.actual})"), ""
        return
    yield f"{head:<44} {finding.verdict}: {_verdict(finding)}", style
    if finding.reason:
        yield from _wrapped(finding.reason, 6)
    if finding.excuse:
        yield from _wrapped(f"optional: {finding.excuse}", 6)
    yield from ((f"      {_link(link)}", "") for link in finding.chain)
    yield f"      asked by {', '.join(finding.requested_by)}", ""


def _verdict(finding: Finding) -> str:
    is_now = f"is {finding.actual}"
    words = {
        Verdict.MODULE: f"a module, needed built in ({finding.note})" if finding.note else "a module, needed built in",
        Verdict.OFF: "can be set; nothing stands in its way" + (f", but {finding.note}" if finding.note else ""),
        Verdict.LOST: "its dependencies are not met",
        Verdict.IMPOSSIBLE: f"not on this architecture; {_had_by(finding)}",
        Verdict.OVERRIDDEN: f"{is_now}, by the later line {finding.overridden_by}",
        Verdict.FORCED: f"{is_now}" + (f", selected by {', '.join(finding.forced_by)}" if finding.forced_by else ""),
        Verdict.DIFFERS: is_now,
        Verdict.UNKNOWN: f"{finding.note or 'no such symbol'}{_meant(finding)}",
        Verdict.UNMET: is_now,
        Verdict.MET: is_now,
    }
    return words[finding.verdict]


def _had_by(finding: Finding) -> str:
    return f"{', '.join(finding.had_by)} can have it" if finding.had_by else "no architecture of this tree has it"


def _meant(finding: Finding) -> str:
    return f"; did you mean {' or '.join(finding.did_you_mean)}?" if finding.did_you_mean else ""


def _link(link: Link) -> str:
    where = f" ({link.where})" if link.where else ""
    by = f"; {', '.join(link.by)} would bring it" if link.by else ""
    what = link.block.value if link.block is not Block.CONDITION else "does not hold"
    return f"{link.symbol} needs {link.needs}, which is {link.value}: {what}{by}{where}"


def _fix(report: Report) -> Iterator[tuple[str, str]]:
    if report.fix is None:
        return
    if report.fix.fails:
        yield "", ""
        yield from _wrapped(f"no fix was found for: {', '.join(report.fix.fails)}", 0, BOLD)
    if not report.fix.lines:
        return
    yield "", ""
    yield f"fix, re-evaluated and shown to work for {len(report.fix.meets)} symbols (--emit FILE writes it):", BOLD
    for symbol, value, sake in report.fix.lines:
        yield f"  {assignment(symbol, value)}" + (f"    # for {', '.join(sake)}" if sake else ""), ""


def _sum(report: Report, exit_code: int) -> str:
    required, optional = len(report.unmet(required=True)), len(report.unmet(required=False))
    met = sum(finding.met for finding in report.findings)
    verdict = {0: "met", 1: "not met", 3: "could not be fully evaluated"}[exit_code]
    return f"{verdict}: {met} symbols as wanted, {required} required and {optional} optional not"


def _wrapped(text: str, indent: int, style: str = "") -> Iterable[tuple[str, str]]:
    lines = textwrap.wrap(text, WIDTH - indent, break_long_words=False, break_on_hyphens=False)
    return ((" " * indent + line, style) for line in lines)


def _painted(text: str, style: str) -> str:
    return f"\x1b[{style}m{text}\x1b[0m" if style and text else text
