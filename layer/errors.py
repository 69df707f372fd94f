# SPDX-License-Identifier: GPL-2.0-only
"""What can go wrong in a build. An error carries what is wrong, where it was written, and what to do.

Only `layer.cli` prints and exits; everything else raises one of these.
"""

from __future__ import annotations

from pathlib import Path


class LayerError(Exception):
    """`message` says what is wrong; `hint` what to do; `exit_code` is what the command ends with."""

    exit_code = 1

    def __init__(
        self, message: str, *, hint: str | None = None, file: Path | str | None = None, line: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.file = file
        self.line = line

    def __str__(self) -> str:
        where = "" if self.file is None else f"{self.file}{'' if self.line is None else f':{self.line}'}: "
        return f"{where}{self.message}" + (f"\n  {self.hint}" if self.hint else "")


class InputError(LayerError):
    """A template, recipe, machine file, option or configuration says something that cannot be."""

    exit_code = 2


class EvaluationError(LayerError):
    """Something could not be judged (a Kconfig tree that does not parse, a missing decompressor)."""

    exit_code = 3


class BuildError(LayerError):
    """A step of a build failed; the hint names the log and the command that repeats it."""
