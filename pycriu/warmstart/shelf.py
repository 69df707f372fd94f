# SPDX-License-Identifier: GPL-2.0-only
"""Where checkpoints for warm starts are kept: `~/.cache/pycriu/snapshots/KEY`, or below PYCRIU_SNAPSHOTS.

Each is made in `KEY.new`, by whoever has made that directory, and gets its name when it is whole. A start for which
none could be made leaves `KEY.failed` with the reason, so that the next hour does not try again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time

from pycriu.warmstart import identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_MANIFEST = "manifest"
_TRY_AGAIN, _FORGOTTEN = 3600, 600  # seconds
_ENOUGH = 3
_UNUSED, _LEFT_OVER = 30 * 86400, 86400
_DIGITS = frozenset("0123456789abcdef")


def folder() -> str:
    """The directory of all of them, made if need be. PermissionError for one in which others could put something."""
    base = os.environ.get("PYCRIU_SNAPSHOTS")
    if not base:
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        base = os.path.join(cache, "pycriu", "snapshots")
    os.makedirs(base, mode=0o700, exist_ok=True)
    status = os.stat(base)
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o022:
        raise PermissionError(errno.EPERM, "others than its user may write there", base)
    return base


class Place:
    """Where the checkpoint for a key is, or would be."""

    def __init__(self, base: str, key: str) -> None:
        self._base, self._key = base, key
        self.path = os.path.join(base, key)
        self.new, self._failed, self._stale = f"{self.path}.new", f"{self.path}.failed", f"{self.path}.stale"
        self._seen: tuple[int, int] | None = None  # what was found usable
        self.given: list[int] = []  # descriptors of the start that made it, beside the standard ones; see `usable`

    def usable(self) -> bool:
        """Whether there is a checkpoint, by us and for nobody else, for which everything is as it was."""
        try:
            status = os.lstat(self.path)
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
                return False
            head, _, manifest = _read(self.path).partition("\0")
            key, _, _, *given = head.split(" ")
            self.given = [int(number) for number in given]
        except (OSError, ValueError):
            return False
        if key != self._key or not identity.holds(manifest):
            return False
        self._seen = status.st_dev, status.st_ino
        self._mark_used()
        return True

    def _mark_used(self) -> None:
        try:
            os.utime(self.path)
        except OSError:
            return  # on a disk that cannot be written: nothing is removed there either

    def begin(self) -> bool:
        """Whether we are to make it: nobody else does, and nobody has failed to just before.

        No lock is held for that longer than for this look: we are to be dumped.
        """
        if _age(self._failed) < _TRY_AGAIN:
            return False
        base = os.open(self._base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(base, fcntl.LOCK_EX)  # else what was left over would be removed once more, when it is ours
            if _age(self.new) > _FORGOTTEN:  # or there is none
                remove(self.new)
            os.mkdir(self.new, 0o700)
        except FileExistsError:
            return False
        finally:
            os.close(base)
        return True

    def keep(self, manifest: str, given: Iterable[int] = ()) -> None:
        """It is whole; `given` are descriptors that are not in it. What can be of no use any more goes."""
        with open(os.path.join(self.new, _MANIFEST), "w", errors="surrogateescape") as file:
            file.write(" ".join([self._key, *identity.machine(), *map(str, given)]) + "\0" + manifest)
        remove(self.path)
        os.rename(self.new, self.path)
        remove(self._failed)
        tidy_up(self._base)

    def forget(self) -> None:
        """It is of no use, for a reason that may be gone the next time."""
        remove(self.new)

    def give_up(self, why: str) -> None:
        """It cannot be made."""
        remove(self.new)
        with open(self._failed, "w", errors="replace") as file:
            file.write(why + "\n")

    def discard(self, why: str, *, certain: bool) -> None:
        """It could not be restored. Where that is certainly its own fault, or has been so three times within the hour,
        it goes; and none is made for an hour if that is the second one. What has been removed or replaced meanwhile is
        at no fault.
        """
        if not self._is_there():
            return
        earlier = _lines(self._stale) if _age(self._stale) < _TRY_AGAIN else []
        points = [*earlier, *[" ".join(why.split())] * (_ENOUGH if certain else 1)]
        if len(points) // _ENOUGH > len(earlier) // _ENOUGH:
            remove(self.path)
        if len(points) >= 2 * _ENOUGH:
            self.give_up(why)
            return
        with open(self._stale, "w", errors="replace") as file:
            file.writelines(f"{line}\n" for line in points)

    def _is_there(self) -> bool:
        """Whether what was found usable still is what is there."""
        try:
            status = os.lstat(self.path)
        except FileNotFoundError:
            return False
        return (status.st_dev, status.st_ino) == self._seen


def _read(path: str) -> str:
    with open(os.path.join(path, _MANIFEST), errors="surrogateescape") as file:
        return file.read()


def _lines(path: str) -> list[str]:
    with open(path, errors="replace") as file:
        return file.read().splitlines()


def _age(path: str) -> float:
    """Seconds since it was changed; infinite where it is not there."""
    try:
        return time.time() - os.stat(path).st_mtime
    except FileNotFoundError:
        return float("inf")


def remove(path: str) -> None:
    """A file, or a directory with all that is in it; nothing where it is not there."""
    try:
        if stat.S_ISDIR(os.lstat(path).st_mode):
            for name in os.listdir(path):
                remove(os.path.join(path, name))
            os.rmdir(path)
        else:
            os.unlink(path)
    except FileNotFoundError:
        return


def ours(base: str) -> list[str]:
    """The names there that we have given."""
    return [name for name in os.listdir(base) if len(key := name.partition(".")[0]) == 32 and _DIGITS.issuperset(key)]


def tidy_up(base: str) -> None:
    """Remove what has been made before this machine was started, what nobody has used for a month, and remains."""
    for name in ours(base):
        path = os.path.join(base, name)
        try:
            if _age(path) > (_LEFT_OVER if "." in name else _UNUSED) or ("." not in name and _is_of_the_past(path)):
                remove(path)
        except (OSError, ValueError):
            continue  # somebody else does the same, or it is none of ours


def _is_of_the_past(path: str) -> bool:
    """Made on this machine, at an earlier boot."""
    name, boot = identity.machine()
    _, its_name, its_boot = _read(path).partition("\0")[0].split(" ")[:3]
    return its_name == name and its_boot != boot


def clear() -> int:
    """Remove all of them; how many there were."""
    base = folder()
    names = ours(base)
    for name in names:
        remove(os.path.join(base, name))
    return sum("." not in name for name in names)
