# SPDX-License-Identifier: GPL-2.0-only
"""Values as a .config writes them, and when one is as good as another."""

from __future__ import annotations

import re

FORM = re.compile(r'[ymn]|-?\d+|0[xX][0-9a-fA-F]+|"(?:[^"\\]|\\.)*"')
NUMBER = re.compile(r"-?\d+|0[xX][0-9a-fA-F]+")
TRISTATE = {"n": 0, "m": 1, "y": 2}


def well_formed(value: str) -> bool:
    """Whether the kernel would read `value` as something."""
    return FORM.fullmatch(value) is not None


def same(wanted: str, actual: str) -> bool:
    """Equal, where numbers count by value and an empty text equals none."""
    if NUMBER.fullmatch(wanted) and NUMBER.fullmatch(actual):
        return int(wanted, 0) == int(actual, 0)
    return wanted == actual


def assignment(symbol: str, value: str) -> str:
    """The line that sets it."""
    return f"# CONFIG_{symbol} is not set" if value == "n" else f"CONFIG_{symbol}={value}"


def satisfies(wanted: str, actual: str, accept: tuple[str, ...] = ()) -> bool:
    """Whether `actual` does what `wanted` asks: y is more than m, and `accept` lists what is as good."""
    if wanted == "m" and actual == "y":
        return True
    return same(wanted, actual) or any(same(other, actual) for other in accept)
