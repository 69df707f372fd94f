# SPDX-License-Identifier: GPL-2.0-only
"""What a dry run has found: obstacles, the options that the user could add, and whether these are enough.

The JSON is a promise: fields are added, none is taken away or changes its meaning; `schema` says so by staying 1.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

SCHEMA = 1


@dataclass(frozen=True)
class Descriptor:
    """What an obstacle is about: a descriptor that leads to it, if one does, and what kind of file it is."""

    process: int | None
    number: int | None
    kind: str


@dataclass(frozen=True)
class Obstacle:
    """One thing that stands in the way."""

    problem: str  # one sentence, with the name of the object
    remedy: str | None  # what can be done about it
    process: int | None = None  # whose it is
    command: str | None = None  # that process's name
    descriptor: int | None = None
    kind: str | None = None  # of the open file: the name of the module that handles it, or what it is
    option: str | None = None  # with which it is none any more, as it is written on the command line


@dataclass
class Report:
    """The outcome. `facts` are the numbers of the action, for the JSON; `summary` the same for people."""

    action: str
    obstacles: list[Obstacle]
    options: list[str] = field(default_factory=list)  # to be added
    facts: dict[str, int] = field(default_factory=dict)
    summary: str = ""
    remarks: list[str] = field(default_factory=list)  # what will be different, without being in the way

    @property
    def passes(self) -> bool:
        """Whether the action would succeed as it was asked for."""
        return not self.obstacles

    @property
    def passes_with_options(self) -> bool:
        """Whether it would with `options` added."""
        return all(obstacle.option for obstacle in self.obstacles)

    def as_json(self) -> str:
        """One object, as README.md beside this module describes it."""
        told = {
            "schema": SCHEMA, "action": self.action, "passes": self.passes,
            "passes_with_options": self.passes_with_options, "options": self.options, **self.facts,
            "obstacles": [asdict(obstacle) for obstacle in self.obstacles], "remarks": self.remarks,
        }  # fmt: skip
        return json.dumps(told, indent=2)

    def lines(self) -> list[str]:
        """The same for people."""
        told = []
        for obstacle in self.obstacles:
            told.append(obstacle.problem)
            if obstacle.remedy:
                told.append(f"  {obstacle.remedy}")
        told += [f"note: {remark}" for remark in self.remarks]
        return [*told, *self._last()]

    def _last(self) -> list[str]:
        summary = f" ({self.summary})" if self.summary else ""
        if self.passes:
            return [f"The {self.action} would succeed{summary}."]
        left = sum(obstacle.option is None for obstacle in self.obstacles)
        last = [f"The {self.action} would be refused for {count(len(self.obstacles), 'thing')}{summary}."]
        if self.options:
            rest = "it would succeed" if not left else f"{count(left, 'thing')} would be left"
            last.append(f"With {' '.join(self.options)} {rest}.")
        return last


def count(number: int, one: str, many: str = "") -> str:
    """A number with its noun."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def command(pid: int) -> str | None:
    """The name of a process that lives."""
    try:
        with open(f"/proc/{pid}/comm", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return None
