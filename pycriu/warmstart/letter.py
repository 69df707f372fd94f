# SPDX-License-Identifier: GPL-2.0-only
"""What a runner tells the program that comes to life: a few numbers, then strings, with zero bytes between."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Letter:
    """How this start differs from the first."""

    __slots__ = ("argv", "blocked", "cwd", "environment", "ignored", "module", "orig_argv", "parent", "umask")

    def __init__(self, argv: Iterable[str], orig_argv: Iterable[str], environment: Mapping[str, str], cwd: str) -> None:
        self.argv, self.orig_argv = list(argv), list(orig_argv)
        self.environment, self.cwd = dict(environment), cwd
        self.parent = os.getpid()  # with whose end the program ends
        self.module = False  # started by -m: Python has put a path into argv[0]
        self.umask = 0
        self.ignored: tuple[int, ...] = ()  # signals
        self.blocked: tuple[int, ...] = ()

    def packed(self) -> bytes:
        """As bytes."""
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        lengths = (len(self.argv), len(self.orig_argv), len(self.ignored))
        numbers = (*lengths, self.parent, self.module, self.umask, *self.ignored, *self.blocked)
        head = " ".join(str(int(number)) for number in numbers)
        words = [head, self.cwd, *self.argv, *self.orig_argv, *variables]
        return b"\0".join(os.fsencode(word) for word in words)


def unpacked(data: bytes) -> Letter:
    """The other way round."""
    head, cwd, *words = (os.fsdecode(word) for word in data.split(b"\0"))
    argc, original, ignored, parent, module, umask, *signals = (int(number) for number in head.split())
    variables = (word.partition("=") for word in words[argc + original :])
    letter = Letter(words[:argc], words[argc : argc + original], {name: value for name, _, value in variables}, cwd)
    letter.parent, letter.module, letter.umask = parent, bool(module), umask
    letter.ignored, letter.blocked = tuple(signals[:ignored]), tuple(signals[ignored:])
    return letter
