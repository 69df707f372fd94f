# SPDX-License-Identifier: GPL-2.0-only
"""pidfd_open(2): of processes and threads (PIDFD_THREAD) of the tree, and of those that have ended and been waited for.

Refused: processes outside the tree. Of those that have ended a restore makes one: a process that ends in the same way
while pidfds of it are opened. How it ended tells PIDFD_GET_INFO (Linux 6.15), and CRIU's message has no field for it.
"""

from __future__ import annotations

import fcntl
import os
import struct

from pycriu.errors import ImageError, TraceeGone, Unsupported
from pycriu.fds.kind import Kind
from pycriu.fds.openfile import OpenFile, no_owner
from pycriu.images import messages as m
from pycriu.kernel import procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pycriu.fds.opening import Opening
    from pycriu.fds.saving import Saving
    from pycriu.images.store import ImagesDir, NewCheckpoint
    from pycriu.log import Log
    from pycriu.tracing.pstree import Process

PIDFD_THREAD = os.O_EXCL  # of one thread, not of its process; Linux 6.9
_FLAGS = os.O_NONBLOCK | PIDFD_THREAD
PIDFD_GET_INFO, PIDFD_INFO_EXIT = 0xC040FF0B, 8
_INFO = struct.Struct("<Q52xi")  # struct pidfd_info, first version: mask, …, exit_code
DEAD = -1
PID_MAX = 1 << 22
_IMAGE = "pycriu-pidfd.img"
_CORE_DUMPED = 0x80
_SIGNALS = 64
_NO_END = (17, 18, 19, 20, 21, 22, 23, 28)  # signals that stop a process, or are ignored: signal(7)


class Pidfd(Kind):
    """A process by descriptor."""

    TYPE = 20  # fd_types.PIDFD
    LATE = True
    NAME = "pidfd"

    def __init__(self, options: Any, log: Log) -> None:
        super().__init__(options, log)
        self._statuses: dict[int, int] = {}  # inode → wait status
        self._dead: dict[int, list[Any]] = {}  # inode → entries
        self._made: dict[int, int] = {}  # id → our descriptor, for those of the dead
        self.threads: set[int] = set()  # restore: threads, not processes, that must exist when these are opened

    # ------------------------------------------------------------------------------------------------------------ dump

    def matches(self, file: OpenFile) -> bool:
        """By the name of its anonymous inode."""
        return file.link == "anon_inode:[pidfd]"

    def inspect(self, file: OpenFile) -> None:
        """Unsupported for a process outside the tree."""
        pid = target(file)
        if pid == DEAD:
            return
        if in_tree(pid, self.options.pid) if self.options.find is None else _is_among(pid, self.options.find()):
            return
        if not pid:
            raise Unsupported(f"{file.name} is of a process in another PID namespace", "let the task close it first")
        try:
            name = f"process {pid} ({procfs.stat(pid).comm})"
        except TraceeGone:
            return  # it ends just now: of the stopped tree it will be asked again
        raise Unsupported(
            f"{file.name} is of {name}, which is outside the tree",
            "dump the process that is the parent of both, or let the task close it first",
        )

    def gather(self, files: list[OpenFile], saving: Saving) -> None:
        """How the dead ended."""
        for file in files:
            status = _exit_status(file) if target(file) == DEAD else None
            if status is not None:
                self._statuses[_inode(file)] = status

    def dump(self, file: OpenFile, number: int, saving: Saving) -> Any:
        """Its message."""
        flags = int(file.fdinfo["flags"], 8) & _FLAGS
        entry = m.pidfd_entry(id=number, ino=_inode(file), flags=flags, nspid=target(file), fown=no_owner())
        return m.file_entry(type=self.TYPE, id=number, pidfd=entry)

    def write(self, new: NewCheckpoint) -> None:
        """How the dead ended."""
        new.write_any(
            _IMAGE, [m.pycriu_pidfd_entry(ino=ino, status=how) for ino, how in sorted(self._statuses.items())]
        )

    # --------------------------------------------------------------------------------------------------------- restore

    def read(self, images: ImagesDir, entries: list[Any]) -> None:
        """The same; ImageError for what no PID can be."""
        own: list[Any] = images.read_if_there(_IMAGE)
        self._statuses = {one.ino: one.status for one in own}
        for ino, status in self._statuses.items():
            if not _is_end(status):
                raise ImageError(f"{_IMAGE}: the process of inode {ino} ended with {status:#x}, as none does")
        for entry in entries:
            if entry.pidfd.nspid == DEAD:
                self._dead.setdefault(entry.pidfd.ino, []).append(entry)
            elif not 0 < entry.pidfd.nspid <= PID_MAX:
                raise ImageError(f"pidfd {entry.id} is of PID {entry.pidfd.nspid}, which is none")
            elif entry.pidfd.flags & PIDFD_THREAD:
                self.threads.add(entry.pidfd.nspid)

    def open(self, entry: Any, opening: Opening) -> int:
        """Of a task that exists by now, or of one made for this."""
        if entry.pidfd.nspid == DEAD:
            if entry.id not in self._made:
                self._bury(entry.pidfd.ino)
            return self._made.pop(entry.id)
        try:
            return os.pidfd_open(entry.pidfd.nspid, entry.pidfd.flags & _FLAGS)
        except OSError as error:
            what = f"pidfd {entry.id} is of task {entry.pidfd.nspid}: {error.strerror}"
            raise ImageError(what, "it is not in the checkpoint, or this kernel has no pidfds of threads") from None

    def _bury(self, inode: int) -> None:
        """Make all pidfds of one process that has ended."""
        waits, tell = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if not pid:
            try:
                os.close(tell)
                os.read(waits, 1)
                _end(self._statuses.get(inode, 0))
            finally:
                os._exit(0)
        try:
            for entry in self._dead[inode]:
                self._made[entry.id] = os.pidfd_open(pid, entry.pidfd.flags & _FLAGS)
        finally:
            os.close(waits)
            os.close(tell)
            os.waitpid(pid, 0)

    def close(self) -> None:
        """Those that nobody has asked for."""
        for fd in self._made.values():
            os.close(fd)
        self._made = {}


def target(file: OpenFile) -> int:
    """The task's id as we see it; -1 when it has ended and been waited for, 0 where it is not of our PID namespace."""
    return int(file.fdinfo["Pid"])


def _inode(file: OpenFile) -> int:
    """One for all pidfds of one process (Linux 6.9), in the 32 bits that the image has."""
    return file.status.st_ino & 0xFFFFFFFF


def in_tree(tid: int, root: int) -> bool:
    """Whether a task is of the tree of process `root`: a thread, and a zombie, too."""
    try:
        pid = int(procfs.parse_status(procfs.text(tid, "status"))["Tgid"]) if tid else 0
        while pid > 1 and pid != root:
            pid = procfs.stat(pid).ppid
    except TraceeGone:
        return False
    return pid == root


def _is_among(tid: int, root: Process) -> bool:
    """The same of one that was looked for by other rules."""
    return any(tid == one.pid or tid in one.threads for one in root.walk())


def _exit_status(file: OpenFile) -> int | None:
    fd = file.borrow()
    try:
        mask, status = _INFO.unpack(fcntl.ioctl(fd, PIDFD_GET_INFO, _INFO.pack(PIDFD_INFO_EXIT, 0)))
    except OSError:
        return None  # the kernel does not tell: so the task cannot find out, either
    finally:
        os.close(fd)
    return status if mask & PIDFD_INFO_EXIT else None


def _is_end(status: int) -> bool:
    """Whether wait(2) can give this of a process that has ended: by itself, or by a signal that ends processes."""
    number = status & ~_CORE_DUMPED
    return not status & ~0xFF00 if not status & 0xFF else 0 < number <= _SIGNALS and number not in _NO_END


def _end(status: int) -> None:
    """End this process so that whoever waits for it gets this status."""
    import resource
    import signal

    if os.WIFEXITED(status):
        os._exit(os.WEXITSTATUS(status))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    number = status & ~_CORE_DUMPED
    if number in signal.valid_signals():
        signal.signal(number, signal.SIG_DFL) if number != signal.SIGKILL else None
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
        os.kill(os.getpid(), number)
