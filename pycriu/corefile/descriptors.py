# SPDX-License-Identifier: GPL-2.0-only
"""The text file that tells which descriptors were open: a line for each, `fd : filename : offset`, or with the flags of
open(2) behind it. It can be edited; numbers are decimal, 0x… or 0…; `#` begins a remark. libsavefds.so writes it.
In a name a new line, a backslash, and a blank at its end are written as `\\012`, `\\134`, `\\040`.
"""

from __future__ import annotations

import fcntl
import os
import stat
from typing import TYPE_CHECKING

from pycriu.errors import UserError
from pycriu.record import record

if TYPE_CHECKING:
    from collections.abc import Iterable

DEFAULT = "filedescriptors"
_MAX_NUMBER = 1 << 20
_MAX_SIZE = 1 << 24
_SHOWN = 80  # characters of a line in a message
_NEVER = os.O_CREAT | os.O_EXCL | os.O_TRUNC
_HINT = "a line is `fd : filename : offset`, or `fd : filename : offset : flags`"


@record
class Line:
    """One descriptor. `flags` is None where the file does not tell."""

    fd: int
    path: str
    offset: int
    flags: int | None

    def opened(self) -> int:
        """A descriptor of ours for it, at the offset, close-on-exec; UserError where it cannot be opened.

        Nobody waits for the other end of a FIFO.
        """
        flags = self.open_flags()
        try:
            fd = os.open(self.path, flags | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
        except OSError as error:
            raise self._refused(error, "edit its line if the file has moved") from None
        try:
            if not flags & (os.O_NONBLOCK | os.O_PATH):
                fcntl.fcntl(fd, fcntl.F_SETFL, flags)
            if self.offset and stat.S_ISREG(os.fstat(fd).st_mode):
                os.lseek(fd, self.offset, os.SEEK_SET)
        except OSError as error:
            os.close(fd)
            raise self._refused(error, "edit its line") from None
        return fd

    def _refused(self, error: OSError, hint: str) -> UserError:
        return UserError(f"descriptor {self.fd}: {self.path}: {error.strerror}", hint)

    def open_flags(self) -> int:
        """How to open it; where nothing is told: for reading and writing, as far as that is allowed."""
        if self.flags is not None:
            return self.flags & ~_NEVER
        may = [how for how, right in ((os.O_RDONLY, os.R_OK), (os.O_WRONLY, os.W_OK)) if os.access(self.path, right)]
        return os.O_RDWR if len(may) == 2 else may[0] if may else os.O_RDONLY


def read(path: str) -> list[Line]:
    """The lines of such a file; UserError names the first that is none."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read(_MAX_SIZE + 1)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    if len(text) > _MAX_SIZE:
        raise UserError(f"{path}: too long for a list of descriptors")
    return parse(text.split("\n"), path)


def parse(lines: Iterable[str], name: str) -> list[Line]:
    """See `read`."""
    found: dict[int, Line] = {}
    for number, text in enumerate(lines, 1):
        if not text.strip() or text.lstrip().startswith("#"):
            continue
        try:
            line = _line(text)
        except ValueError:
            raise UserError(f"{name}, line {number}: {text.strip()[:_SHOWN]!r} is no descriptor", _HINT) from None
        if line.fd in found:
            raise UserError(f"{name}, line {number}: descriptor {line.fd} is there twice")
        found[line.fd] = line
    return list(found.values())


def _line(text: str) -> Line:
    """The last columns are numbers: a name may hold a colon."""
    fd, colon, rest = text.partition(":")
    head, _, last = rest.rpartition(":")
    if not colon or not head:
        raise ValueError(text)
    path, _, before = head.rpartition(":")
    offset, flags = number(last), None
    try:
        if path.strip():
            offset, flags, head = number(before), offset, path
    except ValueError:
        flags = None  # the name has a colon in it
    line = Line(number(fd), _unescaped(head.strip(" \t")), offset, flags)
    bounds = ((line.fd, _MAX_NUMBER), (offset, 1 << 63), (flags or 0, 1 << 31))
    if not all(0 <= value < limit for value, limit in bounds) or not line.path or "\0" in line.path:
        raise ValueError(text)
    return line


def number(word: str) -> int:
    """As strtol(3) with base 0 reads it; ValueError for what is no number."""
    word = word.strip()
    digits = word.removeprefix("-")
    octal = digits.startswith("0") and digits.isdigit() and digits.isascii()
    value = int(digits, 8 if octal else 0)
    return -value if word.startswith("-") else value


def text(lines: Iterable[Line]) -> str:
    """Such a file."""
    return "".join(
        f"{one.fd} : {_escaped(one.path)} : {one.offset}"
        + (f" : {one.flags:#o}\n".replace("0o", "0") if one.flags is not None else "\n")
        for one in lines
    )


def _escaped(path: str) -> str:
    text = path.replace("\\", "\\134").replace("\n", "\\012")
    return f"{text[:-1]}\\{ord(text[-1]):03o}" if text.endswith((" ", "\t")) else text


def _unescaped(text: str) -> str:
    first, *rest = text.split("\\")
    return first + "".join(_one(part[:3], part) for part in rest)


def _one(digits: str, part: str) -> str:
    """What follows a backslash; it is one itself where no octal number of a byte does."""
    octal = len(digits) == 3 and digits <= "377" and not digits.strip("01234567")
    return chr(int(digits, 8)) + part[3:] if octal else f"\\{part}"
