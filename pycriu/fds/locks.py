# SPDX-License-Identifier: GPL-2.0-only
"""File locks of all four kinds (--file-locks): flock(2), POSIX locks, open file description locks, and leases.

fdinfo shows each lock at the descriptors through which it is held. A lock that waits is none: its task makes the call
again. The locks go when the tree is killed, as with CRIU; a restore takes them again, each by the task that had it, and
fails where somebody else has been quicker. See proc(5) on fdinfo, fcntl(2), __show_fd_locks in fs/locks.c.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from pycriu.errors import About, ImageError, Unsupported, UserError
from pycriu.images import messages as m
from pycriu.record import record
from pycriu.tracing.tracee import Row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pycriu.fds.openfile import OpenFile
    from pycriu.images.store import ImagesDir, NewCheckpoint
    from pycriu.options import DumpOptions, RestoreOptions
    from pycriu.tracing.tracee import Remote

IMAGE = "filelocks.img"
POSIX, FLOCK, OFD, LEASE = 1, 2, 4, 8  # file_lock_entry.flag
_KINDS = {"POSIX": POSIX, "FLOCK": FLOCK, "OFDLCK": OFD, "LEASE": LEASE}
_TYPES = {"READ": fcntl.F_RDLCK, "WRITE": fcntl.F_WRLCK}
F_SETLK, F_SETLEASE, F_OFD_GETLK, F_OFD_SETLK = fcntl.F_SETLK, 1024, 36, 37
_FLOCK = struct.Struct("=hh4xqqi4x")  # struct flock of 64-bit machines: type, whence, start, length, PID
_MAX = (1 << 63) - 1


@record
class Lock:
    """One lock as fdinfo shows it; `length` 0 reaches to the end of the file, however long that grows."""

    kind: int
    type: int  # F_RDLCK or F_WRLCK
    pid: int  # whoever took it; -1 for locks that belong to an open file
    start: int
    length: int
    state: str


def parse(text: str) -> list[Lock]:
    """The locks in the text of a /proc/PID/fdinfo file; Unsupported for one of a kind that is not known."""
    return [_parse_one(line[5:]) for line in text.splitlines() if line.startswith("lock:")]


def _parse_one(line: str) -> Lock:
    try:
        _, kind, state, type_, pid, _, start, end = line.split()
        length = 0 if end == "EOF" else int(end) + 1 - int(start)
        return Lock(_KINDS[kind], _TYPES[type_], int(pid), int(start), length, state)
    except (KeyError, ValueError):
        raise Unsupported(f"a lock of a kind that is not known ({' '.join(line.split())})") from None


class Locks:
    """The locks of all files: one object serves one dump or one restore."""

    def __init__(self, options: DumpOptions | RestoreOptions) -> None:
        self._options = options
        self._found: dict[tuple[object, ...], Any] = {}
        self._wanted: dict[tuple[int, int], list[Any]] = {}

    def inspect(self, file: OpenFile) -> None:
        """Unsupported for a lock without --file-locks, and for one that cannot be kept."""
        if "lock" not in file.fdinfo:
            return
        if not self._options.file_locks:
            raise Unsupported(f"{file.name} holds a file lock ({file.fdinfo['lock']})", "--file-locks (-l) keeps locks")
        for lock in parse(file.text):
            if lock.kind == LEASE and lock.state != "ACTIVE":
                raise Unsupported(
                    f"{file.name} holds a lease that somebody is breaking", "try again when it is given up"
                )

    def gather(self, file: OpenFile, number: int) -> None:
        """The locks held through a descriptor, of which `number` is the id of the open file."""
        if "lock" not in file.fdinfo:
            return
        for lock in parse(file.text):
            # A POSIX lock belongs to a process, or to all who share its descriptors; the others to the open file.
            owner = (file.status.st_dev, file.status.st_ino, lock.pid) if lock.kind == POSIX else number
            entry = m.file_lock_entry(
                flag=lock.kind, type=lock.type, pid=file.pid, fd=file.fd, start=lock.start, len=lock.length
            )
            self._found.setdefault((owner, lock.kind, lock.type, lock.start, lock.length), entry)

    def write(self, new: NewCheckpoint) -> None:
        """filelocks.img."""
        if self._found:
            new.write(IMAGE, self._found.values())

    # --------------------------------------------------------------------------------------------------------- restore

    def read(self, images: ImagesDir) -> None:
        """filelocks.img, each lock held against what locks can be."""
        if not images.exists(IMAGE):
            return
        entry: Any
        for entry in images.read(IMAGE):
            if entry.flag not in _KINDS.values() or entry.type not in _TYPES.values():
                raise ImageError(f"{IMAGE}: a lock of kind {entry.flag}, type {entry.type} is not known")
            if entry.start < 0 or entry.len < 0 or entry.len > _MAX - entry.start:
                raise ImageError(f"{IMAGE}: a lock from {entry.start}, {entry.len} bytes long, is out of bounds")
            self._wanted.setdefault((entry.pid, entry.fd), []).append(entry)

    def check(self, tables: dict[int, dict[int, int]], fd_of: dict[int, int]) -> None:
        """UserError where somebody else has a lock by now; no task exists yet.

        `tables`: PID → number → id of the open file; `fd_of`: id → our descriptor for it.
        """
        for (pid, number), entries in self._wanted.items():
            if number not in tables.get(pid, {}):
                raise ImageError(f"{IMAGE}: process {pid} has no descriptor {number} to hold a lock")
            fd = fd_of.get(tables[pid][number])
            for entry in entries if fd is not None else ():
                _check(fd, entry)

    def rehearse(self, path_of: Callable[[int, int], str | None]) -> None:
        """Dry run: the same, told from the list of all locks; `path_of` a descriptor of a process."""
        with open("/proc/locks") as file:
            there = [line.split()[1:] for line in file if "->" not in line]
        for (pid, number), entries in self._wanted.items():
            path = path_of(pid, number)
            if path is None or not os.path.exists(path):
                continue
            status = os.stat(path)
            at = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
            for entry in entries:
                with About():
                    for words in there:
                        if words[4] == at and _clashes(entry, words):
                            raise _locked(path, int(words[3]), entry)

    def rows(self, pid: int, fd: int, remote: Remote) -> list[Row]:
        """The calls by which a task takes the locks that it held through descriptor `fd`."""
        rows = []
        for entry in self._wanted.get((pid, fd), ()):
            what = f"a lock of descriptor {fd} of process {pid}, which somebody else may hold"
            if entry.flag == FLOCK:
                rows.append(Row("flock", fd, _operation(entry), what=what))
            elif entry.flag == LEASE:
                rows.append(Row("fcntl", fd, F_SETLEASE, entry.type, what=what))
            else:
                command = F_SETLK if entry.flag == POSIX else F_OFD_SETLK
                rows.append(Row("fcntl", fd, command, remote.data(_struct(entry)), what=what))
        return rows


def _operation(entry: Any) -> int:
    return (fcntl.LOCK_SH if entry.type == fcntl.F_RDLCK else fcntl.LOCK_EX) | fcntl.LOCK_NB


def _struct(entry: Any) -> bytes:
    return _FLOCK.pack(entry.type, os.SEEK_SET, entry.start, entry.len, 0)


def _check(fd: int | None, entry: Any) -> None:
    """Ask for one lock on our own descriptor of the file."""
    holder = 0
    try:
        if entry.flag == FLOCK:
            fcntl.flock(fd or 0, _operation(entry))
            fcntl.flock(fd or 0, fcntl.LOCK_UN)  # the task that takes it is to be known for it
        elif entry.flag != LEASE:
            answer = _FLOCK.unpack(fcntl.fcntl(fd or 0, F_OFD_GETLK, _struct(entry)))
            holder = answer[4]
            if answer[0] == fcntl.F_UNLCK:
                return
            raise OSError(errno.EAGAIN, "")
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise ImageError(f"{IMAGE}: a lock of descriptor {entry.fd}: {error.strerror}") from None
        raise _locked(os.readlink(f"/proc/self/fd/{fd}"), holder, entry) from None


def _locked(path: str, holder: int, entry: Any) -> UserError:
    by = f"process {holder}" if holder > 0 else "somebody else"
    return UserError(
        f"{path} is locked by {by}; descriptor {entry.fd} of process {entry.pid} held a lock on it",
        "restore when that lock is given up",
    )


def _clashes(entry: Any, words: list[str]) -> bool:
    """Whether a line of /proc/locks (kind, -, type, PID, file, start, end) is in the way of a lock."""
    kind, _, type_, _, _, start, end = words[:7]
    both_flock = entry.flag == FLOCK and kind == "FLOCK"
    both_ranges = entry.flag in (POSIX, OFD) and kind in ("POSIX", "OFDLCK")
    last = _MAX if end == "EOF" else int(end)
    overlap = entry.start <= last and (not entry.len or entry.start + entry.len > int(start))
    writes = type_ == "WRITE" or entry.type == fcntl.F_WRLCK
    return (both_flock or (both_ranges and overlap)) and writes
