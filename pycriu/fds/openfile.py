# SPDX-License-Identifier: GPL-2.0-only
"""One open descriptor of a stopped task, as /proc shows it, before anybody has said what kind it is."""

from __future__ import annotations

import os
import stat

from pycriu.errors import KernelError, TraceeGone
from pycriu.images import messages as m
from pycriu.kernel import libc, procfs
from pycriu.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Flags that act on open(2) and not on the open file, and the one that belongs to the descriptor.
_OPEN_ONLY = os.O_CREAT | os.O_EXCL | os.O_NOCTTY | os.O_TRUNC
FD_CLOEXEC = 1
ESRCH, EBADF = 3, 9


class OpenFile:
    """Descriptor `fd` of process `pid`: where its link leads, its fdinfo, and the status of what is open there."""

    __slots__ = ("fd", "fdinfo", "flags", "link", "pid", "socket", "status", "text")

    def __init__(self, pid: int, fd: int) -> None:
        self.pid, self.fd = pid, fd
        self.socket: Any = None  # sockets.About, once somebody has asked
        self.link = procfs.link(pid, f"fd/{fd}")
        self.text = procfs.text(pid, f"fdinfo/{fd}")  # some of its lines repeat
        self.fdinfo = procfs.parse_fdinfo(self.text)
        # Flags of the open file, without FD_CLOEXEC's stand-in.
        self.flags = int(self.fdinfo["flags"], 8) & ~os.O_CLOEXEC & ~_OPEN_ONLY
        self.status = procfs.target(pid, f"fd/{fd}")

    @property
    def name(self) -> str:
        """For messages: number, owner and what it is."""
        return f"descriptor {self.fd} of process {self.pid} ({self.link})"

    @property
    def position(self) -> int:
        """The file position in bytes."""
        return int(self.fdinfo["pos"])

    @property
    def close_on_exec(self) -> bool:
        """FD_CLOEXEC of this very descriptor."""
        return bool(int(self.fdinfo["flags"], 8) & os.O_CLOEXEC)

    @property
    def identity(self) -> tuple[int, int, int]:
        """Two descriptors that share one open file agree in this; kcmp(2) has the last word."""
        return self.status.st_dev, self.status.st_ino, self.flags

    def is_character_device(self) -> bool:
        """S_ISCHR."""
        return stat.S_ISCHR(self.status.st_mode)

    def is_socket(self) -> bool:
        """S_ISSOCK."""
        return stat.S_ISSOCK(self.status.st_mode)

    def borrow(self) -> int:
        """A descriptor of our own for the same open file, by pidfd_getfd(2). The caller closes it."""
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            raise TraceeGone(f"process {self.pid} is gone") from None
        try:
            return libc.pidfd_getfd(pidfd, self.fd)
        except KernelError as error:
            if error.errno not in (EBADF, ESRCH):
                raise
            raise TraceeGone(f"{self.name} is gone") from None
        finally:
            os.close(pidfd)


@record
class Place:
    """A file that a task refers to by other things than a descriptor: a mapping, its program, its directories."""

    path: str
    status: os.stat_result
    link: str  # the magic link in /proc that leads to the file itself, whatever has become of its path
    name: str  # for messages


def look(pid: int) -> list[OpenFile]:
    """Every descriptor of a process."""
    return [OpenFile(pid, fd) for fd in procfs.descriptors(pid)]


def no_owner() -> Any:
    """fown_entry of a file without F_SETOWN."""
    return m.fown_entry(uid=0, euid=0, signum=0, pid_type=0, pid=0)


def contents(entry: Any) -> Any:
    """The message in a file_entry that says what the file is; itself where there is none."""
    return next((value for field, value in reversed(entry.ListFields()) if field.message_type is not None), entry)
