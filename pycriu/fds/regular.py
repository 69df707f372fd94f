# SPDX-License-Identifier: GPL-2.0-only
"""Files with a path: regular files, directories, and the memory devices (null, zero, full, random, urandom).

Kept: path, flags, position. The content is not copied: at restore the file must be there with the size it had.
Refused: deleted and renamed files, files with locks, and asynchronous owners.
"""

from __future__ import annotations

import os
import stat

from pycriu.errors import ImageError, Unsupported, UserError
from pycriu.fds.kind import Kind
from pycriu.fds.openfile import OpenFile, Place, no_owner
from pycriu.images import messages as m
from pycriu.kernel import procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pycriu.fds.opening import Opening
    from pycriu.fds.saving import Saving

_MEMORY_MAJOR = 1
_MEMORY_MINORS = (3, 5, 7, 8, 9)  # null zero full random urandom, Documentation/admin-guide/devices.txt
FASYNC = 0o20000
O_PATH = os.O_PATH


class Regular(Kind):
    """Everything that is opened again by its path."""

    TYPE = 1  # fd_types.REG

    def matches(self, file: OpenFile) -> bool:
        """A regular file, a directory, or a memory device."""
        mode = file.status.st_mode
        if stat.S_ISCHR(mode):
            rdev = file.status.st_rdev
            return os.major(rdev) == _MEMORY_MAJOR and os.minor(rdev) in _MEMORY_MINORS
        return (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) and file.link.startswith("/")

    def inspect(self, file: OpenFile) -> None:
        """Unsupported where the file cannot be opened again as it is."""
        if file.flags & FASYNC:
            raise Unsupported(f"{file.name} has an asynchronous owner (O_ASYNC)")
        if "lock" in file.fdinfo:
            raise Unsupported(f"{file.name} holds a file lock", "file locks (--file-locks) are not supported")
        check_path(file.link, file.status, file.name)

    def dump(self, file: OpenFile, number: int, saving: Saving) -> Any:
        """The image of one open file."""
        return entry(number, file.link, file.flags, file.position, file.status)

    def place_entry(self, number: int, place: Place, flags: int) -> Any:
        """The image of a file that is referred to by path, to be opened with `flags`."""
        return entry(number, place.path, flags, 0, place.status)

    def open(self, entry: Any, opening: Opening) -> int:
        """Open it again."""
        return restore(entry.reg)


def check_path(path: str, status: os.stat_result, name: str) -> None:
    """Unsupported unless `path` leads to the file of `status`."""
    try:
        there = os.stat(path)
    except OSError:
        there = None
    if path.startswith("/proc/") and path[6:7].isdigit():
        raise Unsupported(f"{name} is part of a process, not of a file system", "let the task leave or close it first")
    if not procfs.is_utf8(path):
        raise Unsupported(f"{name!a}: its path is not UTF-8, which no image can hold", "rename the file")
    if there is None or (there.st_dev, there.st_ino) != (status.st_dev, status.st_ino):
        raise Unsupported(
            f"{name} has been deleted or replaced: its path leads elsewhere",
            "only its name goes into the image, so a restore could not open it; let the task close it first",
        )


def entry(file_id: int, path: str, flags: int, position: int, status: os.stat_result) -> Any:
    """file_entry for any file with a path."""
    reg = m.reg_file_entry(id=file_id, flags=flags, pos=position, fown=no_owner(), name=path, mode=status.st_mode)
    if stat.S_ISREG(status.st_mode):
        reg.size = status.st_size
    return m.file_entry(type=Regular.TYPE, id=file_id, reg=reg)


def restore(reg: Any) -> int:
    """Open it again; our descriptor. UserError when the file is not as it was, with the difference."""
    if not reg.name.startswith("/") or "\0" in reg.name:
        raise ImageError(f"the path {reg.name!r} of file {reg.id} is not absolute")
    try:
        fd = os.open(reg.name, reg.flags & ~(os.O_CREAT | os.O_EXCL | os.O_TRUNC) | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        raise UserError(f"{reg.name} cannot be opened as it was: {error.strerror}", "put it back as it was") from None
    try:
        _verify(fd, reg)
        if not reg.flags & O_PATH and reg.pos:
            os.lseek(fd, reg.pos, os.SEEK_SET)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _verify(fd: int, reg: Any) -> None:
    status = os.fstat(fd)
    if reg.HasField("mode") and stat.S_IFMT(reg.mode) != stat.S_IFMT(status.st_mode):
        raise UserError(f"{reg.name} is no longer a file of the same type", "put it back as it was")
    if reg.HasField("size") and reg.size != status.st_size:
        raise UserError(
            f"{reg.name} is {status.st_size} bytes, at the dump it was {reg.size}",
            "the task would continue with another file than it had; put back the file of the dump",
        )
