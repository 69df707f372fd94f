# SPDX-License-Identifier: GPL-2.0-only
"""Searching what comes in pieces: a pattern is found wherever it begins, also across pieces, in bounded memory.

A match is as long as `longest` at most, and what a pattern asks to stand before it (a look-behind) is looked for in
`longest` bytes, too.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from pycriu.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LONGEST = 1 << 12


class Match(NamedTuple):
    """Where it is, what it is, and what stands around it."""

    at: int
    text: bytes
    before: bytes
    behind: bytes


class Pattern:
    """What is looked for."""

    def __init__(self, compiled: re.Pattern[bytes], longest: int) -> None:
        self._compiled, self.longest = compiled, longest

    def matches(self, start: int, pieces: Iterable[bytes], context: int = 0) -> Iterator[Match]:
        """Every match in bytes that begin at `start` and follow each other; `context` bytes of what is around each."""
        margin = max(self.longest, context)
        window, base, done = b"", start, start  # base: of the window; done: where the search goes on
        for piece in pieces:
            window += piece
            limit = base + len(window) - self.longest - context  # what begins behind it may not be whole yet
            if limit > done:
                for found in self._in_window(window, base, done, limit, context):
                    done = max(found.at + len(found.text), found.at + 1)
                    yield found
                done = max(done, limit)
                drop = max(done - margin - base, 0)
                window, base = window[drop:], base + drop
        yield from self._in_window(window, base, done, base + len(window), context)

    def _in_window(self, window: bytes, base: int, done: int, limit: int, context: int) -> Iterator[Match]:
        for found in self._compiled.finditer(window, done - base):
            if base + found.start() >= limit:
                return
            if found.end() > found.start():
                text = found[0][: self.longest]
                before = window[max(found.start() - context, 0) : found.start()]
                behind = window[found.start() + len(text) : found.start() + len(text) + context]
                yield Match(base + found.start(), text, before, behind)


def text(words: str, *, ignore_case: bool = False, encoding: str = "utf-8") -> Pattern:
    """Bytes that a text is written with."""
    return exact(words.encode(encoding, errors="surrogateescape"), ignore_case=ignore_case)


def hexadecimal(words: str) -> Pattern:
    """Bytes by their hexadecimal digits, with blanks or without; UserError for what is none."""
    try:
        return exact(bytes.fromhex(words.removeprefix("0x")))
    except ValueError as error:
        raise UserError(f"{words!r}: no bytes in hexadecimal: {error}", "such as: de ad be ef") from None


def exact(data: bytes, *, ignore_case: bool = False) -> Pattern:
    """These very bytes."""
    if not data:
        raise UserError("nothing to look for: the pattern is empty")
    return Pattern(re.compile(re.escape(data), re.DOTALL | (re.IGNORECASE if ignore_case else 0)), len(data))


def expression(words: str, *, longest: int = LONGEST, ignore_case: bool = False) -> Pattern:
    """A regular expression over bytes; UserError for what is none."""
    try:
        flags = re.DOTALL | (re.IGNORECASE if ignore_case else 0)
        compiled = re.compile(words.encode(errors="surrogateescape"), flags)
    except (re.error, OverflowError, RecursionError) as error:
        raise UserError(f"{words!r}: no regular expression: {error}") from None
    return Pattern(compiled, longest)
