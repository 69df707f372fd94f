# SPDX-License-Identifier: GPL-2.0-only
"""The directory of a job: its checkpoint, and what is to be known of it beside that.

checkpoint       the images; there is a checkpoint from the first saving to the end of the program
job.lock         locked by the start that is under way; the program that it has begun
job-stdio        which of standard input, output and error each start gives the checkpoint, by the names of its dump
job-stdio.next   the same for a checkpoint that may not be there yet: it is what counts if the checkpoint is another
                 than the one that its first line names

A start can be killed, and the machine can lose its power, at any moment: what is found then belongs together.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import suppress

from pycriu.errors import TraceeGone, UserError
from pycriu.images import commit, store
from pycriu.kernel import procfs

_CHECKPOINT, _LOCK, _STDIO, _NEXT = "checkpoint", "job.lock", "job-stdio", "job-stdio.next"
_ROOM = 96  # bytes of the lock's file, for the words of `_who`
_BEFORE = "-"  # in the place of a descriptor: which checkpoint was there


class JobFolder:
    """One start's view of it. The lock is ours as long as we live."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.images = os.path.join(path, _CHECKPOINT)
        self._stdio, self._next = os.path.join(path, _STDIO), os.path.join(path, _NEXT)

    def take(self) -> None:
        """UserError where another start of this job is under way, or its program is; or where nothing can be written:
        what is to be known of the program must find room when it runs.
        """
        try:
            self._lock = os.open(os.path.join(self._path, _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                self._refuse_another()
                os.pwrite(self._lock, b" " * _ROOM, 0)
                os.makedirs(self.images, mode=0o700, exist_ok=True)
            except BaseException:
                os.close(self._lock)
                raise
        except OSError as error:
            raise store.refusal(error, self._path) from None

    def _refuse_another(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{self._path}: another start of this job is under way", "-D names a directory for each job"
            ) from None
        words = os.pread(self._lock, 256, 0).decode(errors="replace").split()
        if len(words) == 3 and words[0].isdecimal() and words == _who(int(words[0])):
            raise UserError(
                f"{self._path}: the program of this job still runs, as process {words[0]}; who started it was killed",
                f"end it (kill {words[0]}): the next start goes on from the last checkpoint, if there is one",
            )

    def runs(self, pid: int) -> None:
        """The program has begun."""
        try:
            os.pwrite(self._lock, " ".join(_who(pid)).encode().ljust(_ROOM), 0)
        except OSError as error:
            raise store.refusal(error, os.path.join(self._path, _LOCK)) from None

    def has_checkpoint(self) -> bool:
        """Whether there is one; what was left undone when it was made has been done then."""
        with store.ImagesDir(self.images) as images:
            there = images.exists(commit.INVENTORY)
        try:
            with open(self._next, errors="replace") as file:
                before = file.readline()
        except FileNotFoundError:
            return there
        begun = before.startswith(f"{_BEFORE} ") and before.endswith("\n")  # else it was not yet on the disk
        if there and begun and before != self._before():
            os.replace(self._next, self._stdio)
        else:
            os.unlink(self._next)
        return there

    def _before(self) -> str:
        """The line that names the checkpoint that is there."""
        try:
            status = os.stat(os.path.join(self.images, commit.INVENTORY))
        except FileNotFoundError:
            return f"{_BEFORE} none\n"
        return f"{_BEFORE} {status.st_ino} {status.st_mtime_ns}\n"

    def streams(self) -> list[tuple[int, str]]:
        """Our descriptors for the checkpoint, each with the name that it has there."""
        try:
            with open(self._stdio) as file:
                words = [line.rstrip("\n").partition(" ") for line in file]
            return [(int(fd), name) for fd, _, name in words if fd != _BEFORE]
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self._stdio}: {error}", "it is written with the checkpoint, and cannot be missing"
            ) from None

    def begin_saving(self, streams: dict[str, int]) -> None:
        """A checkpoint is about to be made, of which these will be the names."""
        try:
            os.makedirs(self.images, mode=0o700, exist_ok=True)  # somebody may have removed it meanwhile
            with open(self._next, "w") as file:
                file.write(self._before() + "".join(f"{fd} {name}\n" for name, fd in streams.items()))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise store.refusal(error, self._next) from None

    def end_saving(self) -> None:
        """It is there, or it has come to nothing; a saving that is said to have failed can have made it."""
        self.has_checkpoint()

    def clear(self) -> None:
        """The program has ended by itself. With the first file that goes there is no checkpoint any more."""
        with suppress(FileNotFoundError):  # there was none
            os.unlink(os.path.join(self.images, commit.INVENTORY))
        with suppress(FileNotFoundError):  # somebody else removes it, too
            shutil.rmtree(self.images)


def _who(pid: int) -> list[str]:
    """A process, so that no other one can be taken for it; nothing of one that has ended."""
    try:
        stat = procfs.stat(pid)
    except TraceeGone:
        return []
    return [] if stat.state in "ZX" else [str(pid), str(stat.starttime), procfs.boot_id().hex() or "-"]
