# SPDX-License-Identifier: GPL-2.0-only
"""Where a context goes, and what becomes of the one that was there before. A scope each: what fails leaves no trace.

File        a new file that takes the name when it is whole, or one that is written in place
Descriptor  whatever the caller has opened: file, pipe or socket
Directory   the images as they are; the engine itself sees to it that one whole checkpoint is there at any moment
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile

from pycriu.blcr.codes import Failure
from pycriu.blcr.options import ATOMIC, BACKUP, CLOBBER, NOCLOBBER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO

    Pack = Callable[[IO[bytes]], None]

MODE = 0o400  # who may read a context may read the memory of what is in it


class Destination:
    """Somewhere for a context. `images` is the directory for the engine; `store` is called when they are whole."""

    images = ""
    work = ""  # for what belongs to the run, not to the context
    name = ""  # for people

    def __enter__(self) -> Destination:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        """Remove what was only needed meanwhile."""

    def store(self, pack: Pack) -> None:
        """Let `pack` write the context, and give it its name."""


class File(Destination):
    """A file."""

    def __init__(self, path: str, replace: str, backup: str, *, sync: bool) -> None:
        self.name, self._replace, self._backup, self._sync = path, replace, backup, sync
        self._folder, self._base = os.path.split(os.path.abspath(path))
        self._temporary = os.path.join(self._folder, f".{self._base}.{os.getpid()}.tmp")

    def __enter__(self) -> File:
        if os.path.isdir(self.name):
            raise _failed(self.name, errno.EISDIR)
        if self._replace == NOCLOBBER and os.path.lexists(self.name):
            raise _failed(self.name, errno.EEXIST)
        if self._replace == CLOBBER and os.path.exists(self.name):
            _refuse_others(self.name, os.stat(self.name).st_mode)
        try:
            self.images = tempfile.mkdtemp(prefix=f".{self._base}.", suffix=".images", dir=self._folder)
        except OSError as error:
            raise _failed(self.name, error.errno or 0) from None
        self.work = self.images
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        shutil.rmtree(self.images, ignore_errors=True)

    def store(self, pack: Pack) -> None:
        """Under a name of its own first, unless it is to be written in place."""
        try:
            if self._replace == CLOBBER:
                self._write(self.name, os.O_TRUNC | os.O_NONBLOCK, pack)
            elif self._replace == NOCLOBBER:
                self._write_new(self.name, pack)
            else:
                self._write_new(self._temporary, pack)
                self._rename()
            if self._sync:
                _sync_directory(self._folder)
        except OSError as error:
            raise _failed(self.name, error.errno or 0) from None

    def _write_new(self, path: str, pack: Pack) -> None:
        """A file that is gone again if it cannot be written whole."""
        try:
            self._write(path, os.O_EXCL, pack)
        except FileExistsError:
            raise
        except BaseException:
            if os.path.lexists(path):
                os.unlink(path)
            raise

    def _write(self, path: str, flags: int, pack: Pack) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOCTTY | os.O_CLOEXEC | flags, MODE)
        with open(fd, "wb", buffering=0) as file:
            os.set_blocking(fd, True)
            pack(file)
            if self._sync and stat.S_ISREG(os.fstat(fd).st_mode):
                os.fsync(fd)

    def _rename(self) -> None:
        try:
            if self._replace == BACKUP and os.path.lexists(self.name):
                self._keep(self._backup or next_backup(self.name))
            os.rename(self._temporary, self.name)
        except BaseException:
            os.unlink(self._temporary)
            raise

    def _keep(self, backup: str) -> None:
        """The old one under another name, too, so that its own is there at any moment."""
        link = f"{self._temporary}.old"
        try:
            os.link(self.name, link, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS):
                raise
            os.rename(self.name, backup)  # a file system without hard links
            return
        os.rename(link, backup)


class Descriptor(Destination):
    """A descriptor of the caller's; nothing of --clobber and its like has a meaning for it."""

    def __init__(self, number: int, *, sync: bool) -> None:
        self.name, self._number, self._sync = f"descriptor {number}", number, sync

    def __enter__(self) -> Descriptor:
        try:
            mode = os.fstat(self._number).st_mode
        except OSError as error:
            raise _failed(self.name, error.errno or 0) from None
        _refuse_others(self.name, mode)
        self.images = self.work = tempfile.mkdtemp(prefix="cr_checkpoint-")
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        shutil.rmtree(self.images, ignore_errors=True)

    def store(self, pack: Pack) -> None:
        """Written to it, from where it stands."""
        try:
            with open(self._number, "wb", buffering=0, closefd=False) as file:
                pack(file)
                if self._sync and stat.S_ISREG(os.fstat(self._number).st_mode):
                    os.fsync(self._number)
        except OSError as error:
            raise _failed(self.name, error.errno or 0) from None


class Directory(Destination):
    """A directory of images."""

    def __init__(self, path: str, replace: str, backup: str) -> None:
        self.name, self._replace, self._backup = path, replace, backup
        self._made = False
        self._path = os.path.abspath(path)

    def __enter__(self) -> Directory:
        try:
            self._choose()
        except OSError as error:
            raise _failed(self.name, error.errno or 0) from None
        self.work = tempfile.mkdtemp(prefix="cr_checkpoint-")
        return self

    def _choose(self) -> None:
        there = os.path.lexists(os.path.join(self._path, "inventory.img"))
        if there and self._replace == NOCLOBBER:
            raise _failed(self.name, errno.EEXIST)
        if there and self._replace == BACKUP:
            folder, base = os.path.split(self._path)
            self.images = tempfile.mkdtemp(prefix=f".{base}.", suffix=".tmp", dir=folder)
            return
        if not os.path.isdir(self._path):
            os.mkdir(self._path, 0o700)
            self._made = True
        self.images = self._path

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        if self.images != self._path:
            shutil.rmtree(self.images, ignore_errors=True)
        elif error is not None and self._made:
            shutil.rmtree(self._path, ignore_errors=True)

    def store(self, pack: Pack) -> None:
        """It is there; but for --backup, which lets the two change names."""
        if self.images == self._path:
            return
        try:
            os.rename(self._path, self._backup or next_backup(self._path))
            os.rename(self.images, self._path)
            _sync_directory(os.path.dirname(self._path))
        except OSError as error:
            raise _failed(self.name, error.errno or 0) from None
        self.images = self._path


def next_backup(path: str) -> str:
    """FILE.~N~, where N is above every number that is there."""
    folder, base = os.path.split(path)
    numbers = [0]
    for name in os.listdir(folder or "."):
        if name.startswith(f"{base}.~") and name.endswith("~"):
            digits = name[len(base) + 2 : -1]
            if digits.isascii() and digits.isdigit():
                numbers.append(int(digits))
    return f"{path}.~{max(numbers) + 1}~"


def choose(kinds: tuple[object, ...], place: object, number: int, values: dict[str, object]) -> Destination:
    """The destination that is asked for; Failure where there is more than one."""
    if len(kinds) > 1:
        raise Failure(errno.EINVAL, "conflicting destinations")
    replace, backup = str(values.get("replace", ATOMIC)), str(values.get("backup", ""))
    sync = bool(values.get("sync", True))
    kind = kinds[0] if kinds else "cwd"
    if kind == "fd":
        assert isinstance(place, int)
        return Descriptor(place, sync=sync)
    if kind == "dir":
        return Directory(str(place), replace, backup)
    return File(str(place) if kind == "file" else f"context.{number}", replace, backup, sync=sync)


def _refuse_others(name: str, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise _failed(name, errno.EISDIR)
    if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        raise Failure(errno.EINVAL, f"{name}: not a file, pipe or socket")


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _failed(name: str, code: int) -> Failure:
    return Failure(code, f"{name}: {os.strerror(code)}")
