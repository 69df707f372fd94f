# SPDX-License-Identifier: GPL-2.0-only
"""Where a context goes, and what becomes of the one that was there before. A scope each: what fails leaves no trace.

File        a new file that takes the name when it is whole, or, to be written over, one that is there
Descriptor  whatever the caller has opened: file, pipe or socket
Directory   the images as they are; the engine itself sees to it that one whole checkpoint is there at any moment
"""

from __future__ import annotations

import errno
import os
import shutil
import stat

from pycriu.blcr.codes import Failure
from pycriu.blcr.options import ATOMIC, BACKUP, CLOBBER, NOCLOBBER
from pycriu.blcr.workplace import Workplace, temporary

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO

    Pack = Callable[[IO[bytes]], None]

PREFIX = ".cr_checkpoint-"  # of workplaces beside a context
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
        self._path = _whole(path, os.path.realpath)  # no symbolic link is replaced, least of all /dev/stdout

    def __enter__(self) -> File:
        if self._replace == NOCLOBBER and os.path.lexists(self.name):
            raise _failed(self.name, errno.EEXIST)
        try:
            is_file = self._check()
            self._place = Workplace(os.path.dirname(self._path), PREFIX) if is_file else _elsewhere()
        except OSError as error:
            raise _failed(self.name, error.errno or 0) from None
        self.work, self.images = self._place.path, self._place.images
        return self

    def _check(self) -> bool:
        """Whether it is, or will be, a regular file; Failure for what it must not be."""
        if not os.path.basename(self.name):
            raise _failed(self.name, errno.EISDIR if self.name else errno.ENOENT)
        try:
            mode = os.stat(self.name).st_mode
        except FileNotFoundError:
            return True
        _refuse_others(self.name, mode)
        if not stat.S_ISREG(mode) and self._replace != CLOBBER:
            raise Failure(errno.EINVAL, f"{self.name}: not a file", ("--clobber writes into a pipe of that name",))
        return stat.S_ISREG(mode)

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._place.close()

    def store(self, pack: Pack) -> None:
        """Under a name of its own first, unless it is to be written in place."""
        try:
            if self._replace == CLOBBER:
                self._write_over(pack)
            else:
                context = self._place.sub("context")
                self._write(_opened(context, os.O_EXCL), pack)
                self._give_name(context)
            if self._sync:
                _sync_directory(os.path.dirname(self._path))
        except OSError as error:
            raise _failed(self.name, error.errno or 0) from None

    def _write_over(self, pack: Pack) -> None:
        """In place; half a context is none, and does not stay."""
        try:
            fd = _opened(self.name, os.O_TRUNC | os.O_NONBLOCK)
        except PermissionError:  # such as one of ours, which has the mode of all
            os.unlink(self._path)
            fd = _opened(self._path, os.O_EXCL)
        is_file = stat.S_ISREG(os.fstat(fd).st_mode)
        try:
            self._write(fd, pack)
        except BaseException:
            if is_file:
                os.unlink(self._path)
            raise

    def _write(self, fd: int, pack: Pack) -> None:
        with open(fd, "wb", buffering=0) as file:
            os.set_blocking(fd, True)
            pack(file)
            if self._sync and stat.S_ISREG(os.fstat(fd).st_mode):
                os.fsync(fd)

    def _give_name(self, context: str) -> None:
        if self._replace == NOCLOBBER:
            if not _linked(context, self._path):
                os.rename(context, self._path)
            return
        if self._replace == BACKUP and os.path.exists(self._path):
            self._keep(self._backup or next_backup(self._path))
        os.rename(context, self._path)

    def _keep(self, backup: str) -> None:
        """The old one under another name, too, so that its own is there at any moment."""
        link = self._place.sub("old")
        os.rename(link if _linked(self._path, link) else self._path, backup)


class Descriptor(Destination):
    """A descriptor of the caller's; nothing of --clobber and its like has a meaning for it."""

    def __init__(self, number: int, *, sync: bool) -> None:
        self.name, self._number, self._sync = f"descriptor {number}", number, sync

    def __enter__(self) -> Descriptor:
        try:
            _refuse_others(self.name, os.fstat(self._number).st_mode)
            self._place = _elsewhere()
        except OSError as error:
            raise _failed(self.name, error.errno or 0) from None
        self.work, self.images = self._place.path, self._place.images
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._place.close()

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
        self._path = _whole(path, os.path.abspath)

    def __enter__(self) -> Directory:
        there = os.path.lexists(os.path.join(self._path, "inventory.img"))
        if there and self._replace == NOCLOBBER:
            raise _failed(self.name, errno.EEXIST)
        keeps = there and self._replace == BACKUP
        try:
            if not os.path.isdir(self._path):
                os.mkdir(self._path, 0o700)
                self._made = True
            self._place = Workplace(os.path.dirname(self._path), PREFIX) if keeps else _elsewhere()
        except OSError as error:
            if self._made:
                os.rmdir(self._path)
            raise _failed(self.name, error.errno or 0) from None
        self.work, self.images = self._place.path, self._place.images if keeps else self._path
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._place.close()
        if error is not None and self._made:
            shutil.rmtree(self._path, ignore_errors=True)

    def store(self, pack: Pack) -> None:
        """It is there; but for --backup, where the old one gets another name first."""
        if self.images == self._path:
            return
        backup = self._backup or next_backup(self._path)
        try:
            os.rename(self._path, backup)
            try:
                os.rename(self.images, self._path)
            except BaseException:
                os.rename(backup, self._path)
                raise
            _sync_directory(os.path.dirname(self._path))
        except OSError as error:
            raise _failed(self.name, error.errno or 0) from None


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


def _whole(path: str, become: Callable[[str], str]) -> str:
    """What a path becomes; Failure where the working directory, from which it would lead, has been removed."""
    try:
        return become(path)
    except OSError as error:
        raise _failed(path, error.errno or 0) from None


def _refuse_others(name: str, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise _failed(name, errno.EISDIR)
    if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        raise Failure(errno.EINVAL, f"{name}: not a file, pipe or socket")


def _elsewhere() -> Workplace:
    """A place for images on the disk for temporary files."""
    return Workplace(temporary(), PREFIX.removeprefix("."))


def _opened(path: str, flags: int) -> int:
    """A descriptor to write the file, which is made if need be."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOCTTY | os.O_CLOEXEC | flags, MODE)


def _linked(old: str, new: str) -> bool:
    """Give a file a second name; whether its file system has such."""
    try:
        os.link(old, new, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS):
            raise
        return False
    return True


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EROFS):  # some file systems cannot
            raise
    finally:
        os.close(fd)


def _failed(name: str, code: int) -> Failure:
    return Failure(code, f"{name}: {os.strerror(code)}")
