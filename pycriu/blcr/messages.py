# SPDX-License-Identifier: GPL-2.0-only
"""What a command says on standard error: its own words at once, the engine's as lines that begin with a dash."""

from __future__ import annotations

import os

from pycriu import log
from pycriu.blcr.options import ERROR, NONE, WARNING
from pycriu.errors import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pycriu.blcr.codes import Failure


class Messages(log.Log):
    """The log of the engine, of which only what was asked for is written."""

    def __init__(self, name: str, *, quiet: bool, details: str = ERROR, verbose: int = 0) -> None:
        super().__init__(log.DEBUG if verbose > 1 else log.INFO if verbose else log.WARN)
        self._name, self._quiet, self._details = name, quiet, NONE if quiet else details

    def failed(self, failure: Failure) -> None:
        """The end, and why."""
        if self._details != NONE:
            self.flush()
        self.say(failure.message)
        for line in failure.details if self._details != NONE else ():
            self._put(f"- {printable(line)}\n")
        self._lines.clear()

    def done(self) -> None:
        """What is worth a warning, for who wants it; what was done, for who wants that."""
        if self._details == WARNING or self.level > log.WARN:
            self.flush()
        self._lines.clear()

    def say(self, text: str) -> None:
        """A line of our own."""
        if not self._quiet:
            self._put(f"{self._name}: {printable(text)}\n")

    def flush(self) -> None:
        """Write what the engine has said so far."""
        lines, self._lines = self._lines, []
        for _, _, _, text, args in lines:
            for line in (text % args if args else text).split("\n"):
                if not self._quiet:
                    self._put(f"- {printable(line)}\n")

    @staticmethod
    def _put(text: str) -> None:
        try:
            os.write(log.STDERR, text.encode(errors="backslashreplace"))
        except OSError:
            return  # nobody listens, and nothing depends on it
