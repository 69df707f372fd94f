# SPDX-License-Identifier: GPL-2.0-only
"""Every kind of open file that pycriu knows, and what it says of those that it does not."""

from __future__ import annotations

import os
import stat

from pycriu.errors import ImageError, Unsupported
from pycriu.fds import pipe, regular
from pycriu.fds.openfile import OpenFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

KINDS: tuple[ModuleType, ...] = (regular, pipe)

_TTY_MAJORS = (4, 5, *range(136, 144), 204, 229)


def kind_of(file: OpenFile) -> ModuleType:
    """The module that handles this file, after its own inspection; Unsupported names what nobody handles."""
    for kind in KINDS:
        if kind.matches(file):
            kind.inspect(file)
            return kind
    raise Unsupported(
        f"{file.name} is {_describe(file)}, which cannot be saved", "let the task close it before the dump"
    )


def _describe(file: OpenFile) -> str:
    mode = file.status.st_mode
    if stat.S_ISCHR(mode):
        major = os.major(file.status.st_rdev)
        return "a terminal" if major in _TTY_MAJORS else f"a character device ({major}:{os.minor(file.status.st_rdev)})"
    if stat.S_ISSOCK(mode):
        return "a socket"
    if stat.S_ISFIFO(mode):
        return "a named pipe"
    if stat.S_ISBLK(mode):
        return "a block device"
    return "an open file of an unknown kind"


def inspect_all(files: list[OpenFile]) -> None:
    """What only the whole tree's descriptors together can tell."""
    pipe.inspect_all([file for file in files if pipe.matches(file)])


class Restorer:
    """The open files of an image, opened again by us: `open` gives our descriptor for one file_entry."""

    def __init__(self, pipes_data: list[tuple[Any, bytes]]) -> None:
        self._pipes = pipe.Restored(pipes_data)

    def open(self, entry: Any) -> int:
        """Our descriptor, close-on-exec; ImageError for a kind that is not known."""
        if entry.type == regular.TYPE:
            return regular.restore(entry.reg)
        if entry.type == pipe.TYPE:
            return self._pipes.restore(entry.pipe)
        raise ImageError(f"file {entry.id} is of kind {entry.type}, which cannot be restored", "restore it with criu")

    def close(self) -> None:
        """When everything has been opened."""
        self._pipes.close()
