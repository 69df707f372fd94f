# SPDX-License-Identifier: GPL-2.0-only
"""The grammar of a kernel-config fragment: assignments, each with its reason and its terms, as text in and values out.

A fragment is what the kernel's own merge understands (`CONFIG_X=y`, `# CONFIG_X is not set`), so it can be used without
this layer. Comment lines directly above a symbol are its reason; lines `#: key: value` there carry its terms:

    #: optional: <what is lost>              the requirement may stay unmet, everywhere
    #: optional-on: <machine> – <why>        may stay unmet on that architecture; may be repeated
    #: accept: m – <why>                     another value that is as good

What the kernel's parser would misread in silence (`CONFIG_X = y`, a missing last newline, `# CONFIG_X=y is not set`, a
symbol twice) is an error here. Whether a symbol exists is not known here: that takes a tree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from layer.errors import InputError
from layer.kconfig.values import assignment, well_formed
from layer.yamlfile import suggestion

TOP = Path(__file__).resolve().parent.parent.parent
ASSIGNMENT = re.compile(r"CONFIG_(\w+)=(.*)")
UNSET = re.compile(r"# CONFIG_(\w+) is not set")
NEARLY_UNSET = re.compile(r"#+\s*CONFIG_\S+\s+(is\s+)?not\b.*", re.IGNORECASE)
TERM = re.compile(r"#:\s*([\w-]+):\s*(.*)")
NAMED = re.compile(r"(\S+)\s+[–-]\s+(\S.*)")  # `aarch64 – why`, with either dash
TERMS = ("optional", "optional-on", "accept")


@dataclass(frozen=True, slots=True)
class Entry:
    """One assignment of a fragment."""

    symbol: str  # without CONFIG_
    value: str  # as Kconfig writes it: y, m, n, 17, 0x10, "text"
    reason: str  # why it is wanted, one line; empty when the author gave none
    file: Path
    line: int
    optional: str | None = None  # what is lost without it; None: required
    optional_on: tuple[tuple[str, str], ...] = ()  # (machine, why it cannot be there)
    accept: tuple[str, ...] = ()  # other values that are as good

    @property
    def where(self) -> str:
        """`file:line`, for messages; short for files of this repository."""
        file = self.file.relative_to(TOP) if self.file.is_relative_to(TOP) else self.file
        return f"{file}:{self.line}"

    @property
    def assignment(self) -> str:
        """The line that sets it."""
        return assignment(self.symbol, self.value)

    def excuse(self, arch: str | None) -> str | None:
        """Why it may stay unmet on `arch`, or None when it may not."""
        return dict(self.optional_on).get(arch or "", self.optional)


@dataclass(frozen=True, slots=True)
class Fragment:
    """All assignments of one file, in its order."""

    file: Path
    entries: tuple[Entry, ...]


@dataclass(slots=True)
class _Above:
    """The comment lines collected above the next symbol."""

    reason: list[str] = field(default_factory=list)
    terms: list[tuple[str, str, int]] = field(default_factory=list)


def parse(text: str, file: Path) -> Fragment:
    """The fragment in `text`; InputError with file and line at the first line that is not what it seems."""
    if text and not text.endswith("\n"):
        last = text.count("\n") + 1
        raise InputError(
            "the last line does not end", hint="the next file's first line would be glued to it", file=file, line=last
        )
    seen: dict[str, int] = {}
    entries = tuple(_entries(text, file))
    for entry in entries:
        if entry.symbol in seen:
            hint = f"the first is in line {seen[entry.symbol]}; of two, only the last would count"
            raise InputError(f"CONFIG_{entry.symbol} is given twice", hint=hint, file=file, line=entry.line)
        seen[entry.symbol] = entry.line
    return Fragment(file, entries)


def load(file: Path) -> Fragment:
    """`parse` of what stands in `file`."""
    try:
        return parse(file.read_bytes().decode(), file)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the fragment: {error}", file=file) from error


def _entries(text: str, file: Path) -> Iterator[Entry]:
    above = _Above()
    for number, line in enumerate(text.split("\n"), start=1):
        if line.endswith("\r"):
            raise InputError(
                "the line ends like on Windows", hint="save the file with plain newlines", file=file, line=number
            )
        if found := _assignment(line, file, number):
            yield _entry(*found, above, file, number)
            above = _Above()
        elif line.startswith("#:"):
            above.terms.append((*_term(line, file, number), number))
        elif line.startswith("#"):
            above.reason.append(line.lstrip("#").strip())
        else:
            _refuse_stray(line, above, file, number)
            above = _Above()
    _refuse_stray("", above, file, None)


def _assignment(line: str, file: Path, number: int) -> tuple[str, str] | None:
    if match := UNSET.fullmatch(line):
        return match[1], "n"
    if NEARLY_UNSET.fullmatch(line):
        raise InputError(
            f"{line!r} sets nothing",
            hint="the kernel knows `# CONFIG_X is not set`, exactly so",
            file=file,
            line=number,
        )
    match = ASSIGNMENT.fullmatch(line)
    if match and not well_formed(match[2]):
        hint = 'a value is y, m, n, a number, or a text in "quotes"; nothing may follow it'
        raise InputError(f"CONFIG_{match[1]} has the value {match[2]!r}", hint=hint, file=file, line=number)
    return (match[1], match[2]) if match else None


def _term(line: str, file: Path, number: int) -> tuple[str, str]:
    match = TERM.fullmatch(line)
    if not match or not match[2].strip():
        raise InputError(f"{line!r} is no term", hint="write `#: key: value`", file=file, line=number)
    if match[1] not in TERMS:
        raise InputError(f"unknown term {match[1]!r}", hint=suggestion(match[1], TERMS), file=file, line=number)
    return match[1], match[2].strip()


def _refuse_stray(line: str, above: _Above, file: Path, number: int | None) -> None:
    if above.terms:
        key, _, at = above.terms[0]
        raise InputError(
            f"the term {key!r} belongs to no symbol", hint="it stands directly above one", file=file, line=at
        )
    if line.strip():
        hint = "a line is CONFIG_X=value without blanks, `# CONFIG_X is not set`, or a comment"
        raise InputError(f"{line!r} is neither an assignment nor a comment", hint=hint, file=file, line=number)


def _entry(symbol: str, value: str, above: _Above, file: Path, line: int) -> Entry:
    optional: str | None = None
    optional_on: list[tuple[str, str]] = []
    accept: list[str] = []
    for key, text, at in above.terms:
        if key == "optional":
            optional = text
            continue
        match = NAMED.fullmatch(text)
        if not match:
            example = "accept: m – why" if key == "accept" else f"{key}: aarch64 – why"
            raise InputError(f"{key!r} gives no reason", hint=f"write `#: {example}`", file=file, line=at)
        if key == "accept":
            accept.append(match[1])
        else:
            optional_on.append((match[1], match[2]))
    return Entry(
        symbol=symbol,
        value=value,
        reason=" ".join(above.reason),
        file=file,
        line=line,
        optional=optional,
        optional_on=tuple(optional_on),
        accept=tuple(accept),
    )
