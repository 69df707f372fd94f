# SPDX-License-Identifier: GPL-2.0-only
"""The log of the simple loop, one `date` a second: read, and judged.

Pure. The loop writes after a sleep of one second, so two of its lines never carry the same second, and more than a few
seconds between two of them mean that it did not run. A line lost while it ran would be such a gap too.
"""

from __future__ import annotations

import calendar
import time
from collections.abc import Sequence
from dataclasses import dataclass

FORM = "%a %b %d %H:%M:%S UTC %Y"  # what busybox's and coreutils' date print in the C locale, in UTC


class Misread(ValueError):
    """The log is not what the loop writes."""


@dataclass(frozen=True, slots=True)
class Gap:
    """The loop did not run between its line `after` and the next; `seconds` lie between them."""

    after: int
    seconds: int


def stamps(text: str) -> tuple[int, ...]:
    """The times in a log, as seconds since the epoch; Misread when a line is no time or the last one is cut."""
    if text and not text.endswith("\n"):
        raise Misread(f"the last line is cut: {text.splitlines()[-1]!r}")
    return tuple(_stamp(number, line) for number, line in enumerate(text.splitlines(), 1))


def gaps(times: Sequence[int], longest_step: int) -> tuple[Gap, ...]:
    """Every place where more than `longest_step` seconds lie between two lines; Misread when time does not go on."""
    found = []
    for number in range(1, len(times)):
        step = times[number] - times[number - 1]
        if step <= 0:
            raise Misread(f"line {number + 1} is {'doubled' if step == 0 else f'{-step} s older than the one before'}")
        if step > longest_step:
            found.append(Gap(number, step))
    return tuple(found)


def _stamp(number: int, line: str) -> int:
    try:
        return calendar.timegm(time.strptime(line, FORM))
    except ValueError as error:
        raise Misread(f"line {number} is no date: {line!r}") from error
