# SPDX-License-Identifier: GPL-2.0-only
"""The grammar of rules:  [?]KIND:PART:FROM=TO

`%` in FROM stands for any text, and in TO for the same text again, as in a Makefile; once in each at most. A backslash
takes the meaning from a following %, = or backslash. With ? in front the rule need not match anything.
"""

from __future__ import annotations

from pycriu.errors import UserError
from pycriu.record import record

_IN_PARTS = "sockets"  # each of their sides has two parts, of which % may be either: see `targets`
FORM = "[?]KIND:PART:FROM=TO, such as files:reg:/old/%=/new/%"


@record
class Pattern:
    """Text with a hole in it, or without (`tail` is None)."""

    head: str
    tail: str | None

    @property
    def is_any(self) -> bool:
        """Whether it is the bare %."""
        return self.head == "" and self.tail == ""

    def match(self, text: str) -> str | None:
        """What stands in the hole (nothing where there is none); None where the text is another."""
        if self.tail is None:
            return "" if text == self.head else None
        fits = text.startswith(self.head) and text.endswith(self.tail)
        if not fits or len(text) < len(self.head) + len(self.tail):
            return None
        return text[len(self.head) : len(text) - len(self.tail)]

    def filled(self, stem: str) -> str:
        """The text with the hole filled."""
        return self.head if self.tail is None else self.head + stem + self.tail


@record
class Rule:
    """One rule; `target` is KIND:PART."""

    text: str
    target: str
    old: Pattern
    new: Pattern
    needed: bool

    def replacement(self, value: str) -> str | None:
        """What becomes of a value; None where it does not match."""
        stem = self.old.match(value)
        return None if stem is None else self.new.filled(stem)


def parse(text: str) -> Rule:
    """A rule; UserError for what is none."""
    needed = not text.startswith("?")
    kind, _, rest = text.removeprefix("?").partition(":")
    part, colon, rest = rest.partition(":")
    sides = _sides(text, rest)
    if not kind or not part or not colon:
        raise UserError(f"--edit {text}: not a rule", FORM)
    if kind == _IN_PARTS:
        old, new = (Pattern("".join(side), None) for side in sides)
        return Rule(text, f"{kind}:{part}", old, new, needed)
    old, new = (_pattern(text, side) for side in sides)
    if new.tail is not None and old.tail is None:
        raise UserError(f"--edit {text}: there is a % behind the = and none before it", FORM)
    return Rule(text, f"{kind}:{part}", old, new, needed)


def _sides(text: str, rest: str) -> list[list[str]]:
    """Both sides of the =, as letters, of which those with a backslash keep it."""
    sides: list[list[str]] = [[]]
    letters = iter(rest)
    for letter in letters:
        if letter == "\\":
            following = next(letters, "")
            sides[-1].append(f"\\{following}" if following in ("%", "=", "\\") and following else letter + following)
        elif letter == "=" and len(sides) == 1:
            sides.append([])
        else:
            sides[-1].append(letter)
    if len(sides) != 2 or not sides[0] or not sides[1]:
        raise UserError(f"--edit {text}: not a rule", FORM)
    return sides


def _pattern(text: str, letters: list[str]) -> Pattern:
    holes = letters.count("%")
    if holes > 1:
        raise UserError(f"--edit {text}: more than one % on a side", "write \\% for the letter")
    plain = [one[1:] if one in ("\\%", "\\=", "\\\\") else one for one in letters]
    if not holes:
        return Pattern("".join(plain), None)
    at = letters.index("%")
    return Pattern("".join(plain[:at]), "".join(plain[at + 1 :]))
