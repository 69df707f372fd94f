# SPDX-License-Identifier: GPL-2.0-only
"""A directory for what is needed only meanwhile.

It is locked as long as somebody works in it: so what those have left who were killed can be told, and is removed by
whoever comes next.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import tempfile

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Workplace:
    """A new directory in `folder` whose name begins with `prefix`, with an empty one for `images` in it.

    It is gone when it is closed, or nobody has it any more. No signal comes between its making and this object's.
    """

    def __init__(self, folder: str, prefix: str) -> None:
        self._lock, self._maker = -1, os.getpid()
        _remove_forsaken(folder, prefix)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            while self._lock < 0:
                self.path = tempfile.mkdtemp(prefix=prefix, dir=folder)
                self._lock = _locked(self.path)
            self.images = self.sub("images")  # which the engine locks for itself
            os.mkdir(self.images, 0o700)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def __del__(self) -> None:
        if os.getpid() == self._maker:  # not a fork that ends
            self.close()

    def sub(self, name: str) -> str:
        """The path of something in it."""
        return os.path.join(self.path, name)

    def close(self) -> None:
        """Remove it with all that is in it; nothing where it is closed already."""
        if self._lock >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1


def temporary() -> str:
    """The directory for temporary files. (tempfile tries it by a file, which may stay after a signal.)"""
    named = (os.environ.get("TMPDIR", ""), "/tmp", "/var/tmp")
    return next((one for one in named if os.path.isdir(one) and os.access(one, os.W_OK | os.X_OK)), "/tmp")


def _remove_forsaken(folder: str, prefix: str) -> None:
    """Those of ours that nobody has locked."""
    with os.scandir(folder) as entries:
        found = [one.path for one in entries if one.name.startswith(prefix) and _is_ours(one)]
    for path in found:
        lock = _locked(path)
        if lock >= 0:
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)


def _is_ours(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_uid == os.geteuid()
    except FileNotFoundError:
        return False  # its owner has just removed it


def _locked(path: str) -> int:
    """A descriptor that holds the lock of a directory; -1 where somebody else has it, or has removed the directory."""
    try:
        fd = os.open(path, _DIRECTORY)
    except FileNotFoundError:
        return -1
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(fd), os.lstat(path)):
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return -1
