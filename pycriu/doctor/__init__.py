# SPDX-License-Identifier: GPL-2.0-only
"""`pycriu doctor`: what stands in the way on this machine, for this user, and what to do about each thing.

Looks at who we are (`person`) and at the kernel and container (`machine`); and then a process that is thrown away is
dumped and restored (`trial`), which decides where the others only guess. The JSON is a promise, see docs/guide.md.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

GOOD, NOTE, BAD = "good", "note", "bad"
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    state: str  # good; note: some trees, or not here; bad: nothing can be dumped and restored
    found: str
    advice: tuple[str, ...] = ()  # what to do, a line each

    def lines(self) -> list[str]:
        """For people."""
        return [f"{self.state:<5}{self.name}: {self.found}", *(f"       {line}" for line in self.advice)]


def as_json(findings: list[Finding]) -> str:
    """For programs."""
    told: dict[str, Any] = {"schema": SCHEMA, "good": passes(findings), "findings": [asdict(one) for one in findings]}
    return json.dumps(told, indent=2)


def passes(findings: list[Finding]) -> bool:
    """Whether processes can be dumped and restored here."""
    return not any(one.state == BAD for one in findings)


def verdict(findings: list[Finding]) -> str:
    """The last line."""
    if not passes(findings):
        return "Not yet: " + ", ".join(one.name for one in findings if one.state == BAD)
    notes = sum(one.state == NOTE for one in findings)
    said = {0: "", 1: ", but for a thing that concerns some processes only"}
    return f"All is well{said.get(notes, f', but for {notes} things that concern some processes only')}."
