# SPDX-License-Identifier: GPL-2.0-only
"""What can go wrong, in kinds that a caller can tell apart.

Every error says what is wrong (`message`, with the object's name) and, where anything can be done, what to do about it
(`hint`). Nothing here prints or exits: `cli` alone turns an error into words and an exit status.

Whoever looks at many objects looks at each in an `About`. Outside of a `Gathering` that does nothing: the first refusal
ends the action. While obstacles are gathered, a refusal ends its `About`, is kept, and the next object has its turn.
"""

from __future__ import annotations

import os
from _thread import get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")


def printable(text: str) -> str:
    """One line without what a terminal would obey or a reader of logs take for another line: names are of anybody."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


class PycriuError(Exception):
    """Root of the family: `message` is one sentence, `hint` (or None) what the user can do."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        self.message = printable(message)
        super().__init__(self.message)
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n  {self.hint}"


class HookFailed(PycriuError):
    """Somebody who was told of a stage of the work objects; `status` is that of the script, for the exit status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class UserError(PycriuError):
    """The request itself is wrong: an option, a path, a PID that does not exist."""


class NoProcess(UserError):
    """There is no process with the PID that was asked for."""


class NotHere(UserError):
    """This process may not, or has not the room; others could."""


class OtherFile(UserError):
    """A file is not what it was at the dump."""


class PidTaken(UserError):
    """Somebody else has a PID that a restore needs."""


class Unsupported(PycriuError):
    """The task holds something that cannot be saved or rebuilt; raised before anything has been touched."""


class ImageError(PycriuError):
    """An image is missing, damaged, or says something impossible."""


class OtherVersion(ImageError):
    """The images are of a version of the format that is not known."""


class OtherCpu(ImageError):
    """The images are of another CPU architecture."""


class TraceeGone(PycriuError):
    """A task ended while it was being worked on."""

    wait_status = 9  # as wait(2) has told it: its parent, which may be us, is not told again; 9: killed as it stood


class KernelError(PycriuError):
    """The kernel refused a call: `errno` is what it said, `call` the man-page name."""

    def __init__(self, call: str, errno: int, what: str = "", hint: str | None = None) -> None:
        super().__init__(f"{call}{f'({what})' if what else ''}: {os.strerror(errno)}", hint)
        self.call = call
        self.errno = errno


# -------------------------------------------------------------------------------------------------- all at once

_SHOWN = 20  # obstacles in the message of an error

_open: dict[int, list[Gathering]] = {}  # of each thread that gathers, the innermost last


class Gathering:
    """A scope. `found` has each obstacle once: message → the error, and what it is about (see `About`)."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[PycriuError, object]] = {}

    def __enter__(self) -> Gathering:
        _open.setdefault(get_ident(), []).append(self)
        return self

    def __exit__(self, *_: object) -> None:
        mine = _open[get_ident()]
        mine.remove(self)
        if not mine:
            del _open[get_ident()]

    def note(self, error: PycriuError, subject: object) -> None:
        """Keep one."""
        self.found.setdefault(error.message, (error, subject))

    def also_in(self, other: Gathering) -> Gathering:
        """What both have found."""
        both = Gathering()
        both.found = {message: self.found[message] for message in self.found if message in other.found}
        return both

    def pass_on(self) -> None:
        """Let the scope around this one have what was found; without one the first is raised."""
        for error, subject in self.found.values():
            with About(subject):
                raise error

    def refuse(self) -> None:
        """Raise what was found: the one error, or `Several`; nothing if there is none."""
        errors = [error for error, _ in self.found.values()]
        if errors:
            raise errors[0] if len(errors) == 1 else Several(errors)


class About:
    """A block that looks at one thing: an OpenFile, a PID, or None for what is the whole tree's or machine's."""

    __slots__ = ("_subject",)

    def __init__(self, subject: object = None) -> None:
        self._subject = subject

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, _trace: object) -> bool:
        gathering = _open.get(get_ident())
        if error is None or not gathering or not isinstance(error, PycriuError) or isinstance(error, TraceeGone):
            return False
        gathering[-1].note(error, self._subject)
        return True


class Several(Unsupported):
    """More than one obstacle: `errors`."""

    def __init__(self, errors: list[PycriuError]) -> None:
        super().__init__(f"{len(errors)} things stand in the way")
        self.errors = errors

    def __str__(self) -> str:
        lines = [f"{self.message}:"]
        for error in self.errors[:_SHOWN]:
            lines += [f"  {error.message}", *([f"    {error.hint}"] if error.hint else [])]
        if len(self.errors) > _SHOWN:
            lines.append(f"  and {len(self.errors) - _SHOWN} more, which --dry-run shows")
        return "\n".join(lines)


def at_once(work: Callable[[], T]) -> T:
    """What `work` returns; if anything was refused meanwhile, all of that is raised as one error."""
    with Gathering() as gathering:
        done = []
        with About():
            done.append(work())
    gathering.refuse()
    return done[0]
