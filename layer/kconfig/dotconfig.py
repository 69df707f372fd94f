# SPDX-License-Identifier: GPL-2.0-only
"""A .config: text in, values out. Says what is written there, not what a tree would make of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from layer.errors import InputError

ASSIGNED = re.compile(r"CONFIG_(\w+)=(.*)|# CONFIG_(\w+) is not set")
HEADER = re.compile(r"^# Linux/(\S+) (\S+) Kernel Configuration", re.MULTILINE)
GENERATED = "# Automatically generated file; DO NOT EDIT."
# The symbol that tells the architecture; the order matters where one implies another.
MARKS = (("x86_64", "X86_64"), ("aarch64", "ARM64"), ("riscv64", "ARCH_RV64I"), ("arm", "ARM"))


@dataclass(frozen=True, slots=True)
class Line:
    """One assignment, and where it stands."""

    value: str
    number: int


@dataclass(frozen=True, slots=True)
class DotConfig:
    """The assignments of one file; of two for one symbol, the last counts, as it does for make."""

    name: str  # what it was read from, for messages
    values: Mapping[str, Line]
    earlier: Mapping[str, Line]  # first assignments that a later line of another value overrides
    release: str | None  # of the kernel it was made for, when its header says so
    complete: bool  # written by the kernel's make, so that what is absent does not exist or is off

    def value(self, symbol: str) -> str:
        """Its value as written; n when absent."""
        line = self.values.get(symbol)
        return line.value if line else "n"

    @property
    def arch(self) -> str | None:
        """The architecture that it configures, by our spelling, when it can be told."""
        return next((arch for arch, mark in MARKS if self.value(mark) == "y"), None)


def parse(text: str, name: str) -> DotConfig:
    """The configuration in `text`; InputError when nothing in it is one."""
    values: dict[str, Line] = {}
    earlier: dict[str, Line] = {}
    for number, written in enumerate(text.splitlines(), start=1):
        match = ASSIGNED.fullmatch(written)
        if not match:
            continue
        symbol, line = match[1] or match[3], Line(match[2] if match[1] else "n", number)
        if symbol in values and values[symbol].value != line.value:
            earlier.setdefault(symbol, values[symbol])
        values[symbol] = line
    if not values:
        raise InputError(f"{name} is no kernel configuration: no line assigns a CONFIG_ symbol")
    header = HEADER.search(text)
    return DotConfig(name, values, earlier, header[2] if header else None, complete=GENERATED in text)
