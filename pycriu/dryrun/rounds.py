# SPDX-License-Identifier: GPL-2.0-only
"""Looks at the same thing with more and more options.

What an option would allow may be refused for another reason, which shows only with the option. So there are rounds:
each adds the options that the obstacles of the one before name, until nothing new is named. By then it has been tried
that the options which are told are enough.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Generic, TypeVar

from pycriu.command import arguments
from pycriu.dryrun.report import Descriptor, Obstacle, Report, count
from pycriu.errors import PycriuError, UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pycriu.command.arguments import Values

    Found = dict[str, tuple[PycriuError, object]]
    Named = tuple[str, str | bool]
    Describe = Callable[[PycriuError, object, str | None], Obstacle]

_MOST = 6
_OPTION = re.compile(r"--([a-z][a-z-]+)(?:[ =](\d+[KMG]?|skip|filesize)\b)?")
_NO_DIGITS = dict.fromkeys(map(ord, "0123456789"))


class Round:
    """What one look has found: what stands in the way (see `errors.Gathering`), and how much there is."""

    found: Found
    tasks = threads = 0
    size = 0  # bytes


One = TypeVar("One", bound=Round)


class Rounds(Generic[One]):
    """`look` looks with the options that it is told; `values` were given."""

    def __init__(self, action: str, values: Values, look: Callable[[Values], One]) -> None:
        self._action = action
        self.first = look(values)
        self.looks = [self.first]
        found = self.first.found
        self.seen, known, tried = dict(found), _keys(found), dict(values)
        for _ in range(_MOST):
            more = self._new(found, tried)
            if not more:
                break
            tried |= more
            self.looks.append(look(tried))
            found = self.looks[-1].found
            self.seen |= {message: one for message, one in found.items() if _key(*one) not in known}
            known |= _keys(found)
        self._left = _keys(found)

    def report(self, describe: Describe) -> Report:
        """The outcome, with the facts that every action has."""
        one = self.first
        facts = {"processes": one.tasks, "threads": one.threads, "kibibytes": one.size >> 10}
        size = f"{count(one.tasks, 'process', 'processes')}, {count(one.threads, 'thread')}, {one.size >> 10} KiB"
        return Report(self._action, self.obstacles(describe), self.options(), facts, size if one.tasks else "")

    def obstacles(self, describe: Describe) -> list[Obstacle]:
        """All of them, each with the option that rids of it."""
        return [
            describe(error, subject, spelled(*named) if (named := self._helps(error, subject)) else None)
            for error, subject in self.seen.values()
        ]

    def options(self) -> list[str]:
        """Those that help, as they are written on the command line."""
        wanted: Values = {}
        for error, subject in self.seen.values():
            named = self._helps(error, subject)
            if named and larger(wanted, *named):
                wanted[named[0]] = named[1]
        return [spelled(name, str(value) if not isinstance(value, bool) else value) for name, value in wanted.items()]

    def _helps(self, error: PycriuError, subject: object) -> Named | None:
        return None if _key(error, subject) in self._left else named_in(error, self._action)

    def _new(self, found: Found, tried: Values) -> Values:
        """Options that obstacles name and that have not been tried."""
        more: Values = {}
        for error, _ in found.values():
            named = named_in(error, self._action)
            if named and larger(tried | more, *named):
                more[named[0]] = named[1]
        return more


def named_in(error: PycriuError, action: str) -> Named | None:
    """The first option of the action that the hint of an error names, with its value."""
    for found in _OPTION.finditer(error.hint or ""):
        option = arguments.LONG.get(found[1])
        if option is None or action not in option.actions:
            continue
        if option.kind == arguments.FLAG:
            return option.long, True
        if found[2] or option.kind == arguments.OPTIONAL:
            return option.long, found[2] or ""
    return None


def spelled(name: str, value: str | bool) -> str:
    """An option as it is written on the command line."""
    return f"--{name}" if value is True or value == "" else f"--{name}={value}"


def larger(values: Mapping[str, object], name: str, value: str | bool) -> bool:
    """Whether a value asks for more than what `values` have."""
    if name not in values:
        return True
    try:
        return arguments.size({name: value}, name, 0) > arguments.size(values, name, 0)
    except UserError:
        return False


def _keys(found: Found) -> set[object]:
    return {_key(*one) for one in found.values()}


def _key(error: PycriuError, subject: object) -> object:
    """The same for what is the same obstacle in another round, though numbers in its sentence have changed."""
    if isinstance(subject, Descriptor):
        return subject.process, subject.number, error.message.translate(_NO_DIGITS)
    return error.message
