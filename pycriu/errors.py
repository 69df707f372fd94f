# SPDX-License-Identifier: GPL-2.0-only
"""What can go wrong, in kinds that a caller can tell apart.

Every error says what is wrong (`message`, with the object's name) and, where anything can be done, what to do about it
(`hint`). Nothing here prints or exits: `cli` alone turns an error into words and an exit status.
"""

from __future__ import annotations

import os


class PycriuError(Exception):
    """Root of the family: `message` is one sentence, `hint` (or None) what the user can do."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n  {self.hint}"


class UserError(PycriuError):
    """The request itself is wrong: an option, a path, a PID that does not exist."""


class Unsupported(PycriuError):
    """The task holds something that cannot be saved or rebuilt; raised before anything has been touched."""


class ImageError(PycriuError):
    """An image is missing, damaged, or says something impossible."""


class TraceeGone(PycriuError):
    """A task ended while it was being worked on."""


class KernelError(PycriuError):
    """The kernel refused a call: `errno` is what it said, `call` the man-page name."""

    def __init__(self, call: str, errno: int, what: str = "", hint: str | None = None) -> None:
        super().__init__(f"{call}{f'({what})' if what else ''}: {os.strerror(errno)}", hint)
        self.call = call
        self.errno = errno
