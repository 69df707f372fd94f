# SPDX-License-Identifier: GPL-2.0-only
"""Where checkpoints for warm starts are kept: `~/.cache/pycriu/snapshots/KEY`, or below PYCRIU_SNAPSHOTS.

Each is made in `KEY.new`, by whoever has made that directory, and gets its name when it is whole. A start for which
none could be made leaves `KEY.failed` with the reason, so that the next hour does not try again.
"""

from __future__ import annotations

import os
import stat
import time

from pycriu.warmstart import identity

_MANIFEST = "manifest"
_TRY_AGAIN, _FORGOTTEN = 3600, 600  # seconds


def folder() -> str:
    """The directory of all of them, made if need be, which nobody else may enter."""
    base = os.environ.get("PYCRIU_SNAPSHOTS")
    if not base:
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        base = os.path.join(cache, "pycriu", "snapshots")
    os.makedirs(base, mode=0o700, exist_ok=True)
    return base


class Place:
    """Where the checkpoint for a key is, or would be."""

    def __init__(self, base: str, key: str) -> None:
        self.path = os.path.join(base, key)
        self.new, self._failed, self._stale = f"{self.path}.new", f"{self.path}.failed", f"{self.path}.stale"

    def usable(self) -> bool:
        """Whether there is a checkpoint, by us and for nobody else, for which everything is as it was."""
        try:
            status = os.stat(self.path)
            if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
                return False
            with open(os.path.join(self.path, _MANIFEST), errors="surrogateescape") as file:
                return identity.holds(file.read())
        except OSError:
            return False

    def begin(self) -> bool:
        """Whether we are to make it: nobody else does, and nobody has failed to just before.

        No lock is held for that: we are to be dumped.
        """
        if _age(self._failed) < _TRY_AGAIN:
            return False
        if _age(self.new) > _FORGOTTEN:  # or there is none
            remove(self.new)
        try:
            os.mkdir(self.new, 0o700)
        except FileExistsError:
            return False
        return True

    def keep(self, manifest: str) -> None:
        """It is whole."""
        with open(os.path.join(self.new, _MANIFEST), "w", errors="surrogateescape") as file:
            file.write(manifest)
        remove(self.path)
        os.rename(self.new, self.path)
        remove(self._failed)

    def give_up(self, why: str) -> None:
        """It cannot be made."""
        remove(self.new)
        with open(self._failed, "w", errors="replace") as file:
            file.write(why + "\n")

    def discard(self, why: str) -> None:
        """It is of no use any more; if that is so again within the hour, none is made for an hour."""
        remove(self.path)
        if _age(self._stale) < _TRY_AGAIN:
            self.give_up(why)
        else:
            with open(self._stale, "w", errors="replace") as file:
                file.write(why + "\n")


def _age(path: str) -> float:
    """Seconds since it was changed; infinite where it is not there."""
    try:
        return time.time() - os.stat(path).st_mtime
    except FileNotFoundError:
        return float("inf")


def remove(path: str) -> None:
    """A file, or a directory with the files in it; nothing where it is not there."""
    try:
        if os.path.isdir(path):
            for name in os.listdir(path):
                os.unlink(os.path.join(path, name))
            os.rmdir(path)
        else:
            os.unlink(path)
    except FileNotFoundError:
        return


def clear() -> int:
    """Remove all of them; how many there were."""
    base = folder()
    names = os.listdir(base)
    for name in names:
        remove(os.path.join(base, name))
    return sum("." not in name for name in names)
