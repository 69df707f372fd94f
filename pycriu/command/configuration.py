# SPDX-License-Identifier: GPL-2.0-only
"""Configuration files: options, one per line, in front of those of the command line.

As for CRIU: the name of an option without dashes, then its value if it takes one, in double quotes where it has blanks
(\\" for one of its own); `#` begins a comment. Later files overrule earlier ones, the command line overrules them all.
"""

from __future__ import annotations

from pycriu.command import arguments
from pycriu.errors import UserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pycriu.command.arguments import Values

_NOT_HERE = ("config", "no-default-config", "help", "version")  # which the command line alone can ask for

_QUOTE = "\0"  # stands for one that is part of a value; no file that may be one of options has such a byte


def parse(files: Iterable[str], words: Sequence[str]) -> tuple[Values, list[str]]:
    """As `arguments.parse`, with the options of the files first; UserError names the file and the line."""
    configured = [word for name in files for word in _words(name)]
    return arguments.parse([*configured, *words])


def _words(name: str) -> list[str]:
    try:
        with open(name) as file:
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else f"not UTF-8: {error}"
        raise UserError(f"configuration file {name}: {said}") from None
    words = []
    for number, line in enumerate(lines, 1):
        try:
            words += _checked(line)
        except UserError as error:
            raise UserError(f"configuration file {name}, line {number}: {error.message}", error.hint) from None
    return words


def _checked(line: str) -> list[str]:
    """The words of one line, which `arguments.parse` has found to be an option with all that belongs to it."""
    words = words_of(line)
    if not words:
        return []
    values, plain = arguments.parse(words)
    if plain:
        raise UserError(f"{plain[0]} is no option", "one option per line, its value behind it")
    misplaced = [name for name in values if name in _NOT_HERE]
    if misplaced:
        raise UserError(f"{misplaced[0]} means nothing in a configuration file", "give it on the command line")
    return words


def words_of(line: str) -> list[str]:
    """One line as a word of a command line; none for a comment and for an empty one."""
    name, *rest = line.split(maxsplit=1)[:2] or ("#",)
    if name.startswith("#"):
        return []
    if name.startswith("-"):
        raise UserError(f"{name} has dashes", f"say {name.lstrip('-')}")
    value = rest[0] if rest else ""
    if value.startswith('"'):
        value, closed, behind = value[1:].replace('\\"', _QUOTE).partition('"')
        value = value.replace(_QUOTE, '"')
        if not closed:
            raise UserError("a double quote is missing at the end")
        if behind.strip() and not behind.strip().startswith("#"):
            raise UserError(f"{behind.strip()} stands behind the value")
        return [f"--{name}={value}"]
    value = value.partition("#")[0].rstrip()
    return [f"--{name}={value}" if value else f"--{name}"]
