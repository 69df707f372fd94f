# SPDX-License-Identifier: GPL-2.0-only
"""Who is at the other end of a connection, and what that user may ask for.

Root, and whoever has the user id that the service runs with, may ask for everything. Any other user may have dumped
what that user could also trace: processes with its user and group ids (real, effective and saved), without capabilities
that the user has not, and not marked undumpable (prctl(2)). A restore opens files, makes PIDs and sets credentials as
an image says, with the rights of the service: it is not for other users.
"""

from __future__ import annotations

import os
import socket
import struct

from pycriu.errors import KernelError, TraceeGone, UserError
from pycriu.kernel import libc, procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

SO_PEERGROUPS, SO_PEERPIDFD = 59, 77  # asm-generic/socket.h; since Linux 4.13 and 6.5
PR_SET_DUMPABLE = 4
_CREDENTIALS = struct.Struct("=iII")  # struct ucred
_MAX_GROUPS = 1 << 16


class Forbidden(UserError):
    """The peer is not allowed to have this done."""


class Peer:
    """The process that made the connection, by its credentials at that time. A context manager: it holds a pidfd."""

    def __init__(self, connection: socket.socket) -> None:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        self.pid, self.uid, self.gid = _CREDENTIALS.unpack(credentials)
        self.trusted = self.uid in (0, os.geteuid())  # it may ask for everything
        self.groups = _groups(connection)
        self._pidfd = self._open(connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)

    @property
    def name(self) -> str:
        """For messages."""
        return f"user {self.uid} (process {self.pid})"

    def descriptor(self, number: int, field: str) -> int:
        """Our own duplicate of a descriptor of the peer; UserError if it has none of that number."""
        if self._pidfd < 0:
            raise UserError(f"{field} {number}: the process that made the connection, {self.pid}, has ended")
        try:
            return libc.pidfd_getfd(self._pidfd, number)
        except KernelError as error:
            words = os.strerror(error.errno)
            raise UserError(f"{field} {number}: process {self.pid}, which made the connection: {words}") from None

    def demand_trust(self, what: str) -> None:
        """Forbidden unless the peer may ask for everything."""
        if not self.trusted:
            raise Forbidden(
                f"{self.name} may not ask for {what}", "only root may, and the user that the service runs as"
            )

    def may_dump(self, pid: int) -> None:
        """Forbidden if the process is not the peer's own."""
        if self.trusted:
            return
        status = procfs.parse_status(procfs.text(pid, "status"))
        whose = f"process {pid} ({status.get('Name', '?')})"
        for key, ours in (("Uid", self.uid), ("Gid", self.gid)):
            if any(int(word) != ours for word in status[key].split()[:3]):
                raise Forbidden(
                    f"{whose} has the {key.lower()}s {status[key]}; {self.name} may have own processes dumped"
                )
        if any(int(status[key], 16) for key in ("CapInh", "CapPrm", "CapEff")):
            raise Forbidden(f"{whose} has capabilities; {self.name} may not have it dumped")
        try:
            undumpable = os.stat(f"/proc/{pid}/environ").st_uid != self.uid
        except OSError:
            raise TraceeGone(f"{whose} has ended") from None
        if undumpable:
            raise Forbidden(
                f"{whose} does not let itself be traced (PR_SET_DUMPABLE); {self.name} may not have it dumped"
            )

    def open_directory(self, path: str) -> int:
        """A descriptor of a directory, opened with the rights of the peer; OSError."""
        with _as(self):
            return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def may_write(self, directory: int) -> bool:
        """Whether the peer may make files in a directory."""
        with _as(self):
            return os.access(".", os.W_OK | os.X_OK, dir_fd=directory, effective_ids=True)

    def _open(self, connection: socket.socket) -> int:
        """A pidfd; -1 if the process has ended."""
        try:
            return connection.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
        except OSError:  # before Linux 6.5, or it has ended
            pass
        try:
            return os.pidfd_open(self.pid)
        except (OSError, ValueError):  # ended, or in a PID namespace that we do not see
            return -1


def _groups(connection: socket.socket) -> list[int]:
    try:
        data = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 4 * _MAX_GROUPS)
    except OSError:
        return []  # before Linux 4.13: it has no more rights than its first group gives
    return list(struct.unpack(f"={len(data) // 4}I", data))


class _as:  # noqa: N801  # reads as a word
    """While it lasts, files are opened with the rights of the peer. A trusted one has ours."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def __enter__(self) -> None:
        if self._peer.trusted:
            return
        self._before = os.geteuid(), os.getegid(), os.getgroups()
        os.setgroups(self._peer.groups)
        os.setegid(self._peer.gid)
        os.seteuid(self._peer.uid)

    def __exit__(self, *_: object) -> None:
        if self._peer.trusted:
            return
        user, group, groups = self._before
        os.seteuid(user)
        os.setegid(group)
        os.setgroups(groups)
        libc.call("prctl", PR_SET_DUMPABLE, 1)  # which a change of the user takes away, and /proc/self with it


def processes(root: int) -> Iterator[int]:
    """A process and everybody below it."""
    from pycriu.tracing import pstree

    return (process.pid for process in pstree.scan(root).walk())
