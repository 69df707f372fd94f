# SPDX-License-Identifier: GPL-2.0-only
"""The socket of `pycriu service`: a worker process for each connection that somebody makes."""

from __future__ import annotations

import errno
import gc
import os
import signal
import socket
import stat
import struct
import time

from pycriu.errors import UserError
from pycriu.kernel import waking
from pycriu.service.worker import SILENT, Worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from pycriu.log import Log

DEFAULT_ADDRESS = "criu_service.socket"
BACKLOG = 16
_REST = 0.1  # seconds, when there are no descriptors left
MOST = 16  # connections at a time of one user who is not root


class Listener:
    """A listening socket with a name in the file system, which goes with it. A context manager."""

    def __init__(self, path: str, log: Log) -> None:
        self.path, self._log = path, log
        self._users: dict[int, int] = {}  # worker -> user id
        self._inode = 0  # of the name, once it is ours
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)

    def __enter__(self) -> Self:
        try:
            self._bind()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._inode and os.lstat(self.path).st_ino == self._inode:  # ours as long as the socket is open
                os.unlink(self.path)
        except FileNotFoundError:
            self._log.info("%s has been removed", self.path)
        finally:
            self._socket.close()

    def serve(self) -> None:
        """Until a signal ends it, by an exception."""
        before = signal.signal(signal.SIGCHLD, lambda *_: self._reap())
        try:
            while True:
                self._log.info("Waiting for a connection on %s", self.path)
                self._log.flush()
                self._accept()
        finally:
            signal.signal(signal.SIGCHLD, before)

    def _bind(self) -> None:
        try:
            _clear(self.path)
            self._socket.bind(self.path)
            self._inode = os.lstat(self.path).st_ino
            os.chmod(self.path, 0o666)  # anybody may connect; what who may is decided then
            self._socket.listen(BACKLOG)
        except OSError as error:
            raise UserError(
                f"--address {self.path}: {error.strerror or error}",
                "a path of 107 bytes at most, in a directory that exists",
            ) from None

    def _accept(self) -> None:
        try:
            connection, _ = waking.accept(self._socket)
        except OSError as error:
            if error.errno not in (errno.ECONNABORTED, errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                raise
            self._log.warn("a connection could not be accepted: %s", error.strerror)
            time.sleep(_REST)
            return
        with connection:
            pid, user, _ = struct.unpack("=iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if user and list(self._users.values()).count(user) >= MOST:
                self._log.warn(
                    "user %d has %d connections already: one more, of process %d, was closed", user, MOST, pid
                )
                return
            self._log.info("Connected: process %d of user %d", pid, user)
            self._log.flush()
            self._start(connection, user)

    def _start(self, connection: socket.socket, user: int) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})  # until we know the child's number
        try:
            child = os.fork()
            if not child:
                self._work(connection)
            self._users[child] = user
        except OSError as error:
            self._log.warn("no worker for a connection: %s", error.strerror)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})

    def _work(self, connection: socket.socket) -> None:
        """The child: never returns."""
        status = SILENT
        try:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
            self._socket.close()
            gc.disable()  # lives for one request: no pause of ours while a tree stands still
            status = Worker(connection, {}, swrk=False).serve()
        except BaseException as error:
            self._log.error("the worker has ended by %s: %s", type(error).__name__, error)
            self._log.flush()
        finally:
            os._exit(status)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            self._users.pop(pid, None)
            self._log.info("Worker %d has ended with status %d", pid, os.waitstatus_to_exitcode(status))


def _clear(path: str) -> None:
    """Make room for the socket: one that nobody listens on any more goes; nothing else does."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise UserError(f"--address {path} is there already, and is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
        try:
            other.connect(path)
        except OSError as error:
            if error.errno not in (errno.ECONNREFUSED, errno.EPROTOTYPE):
                raise
            if error.errno == errno.EPROTOTYPE:
                raise UserError(f"--address {path} is the socket of another program") from None
        else:
            raise UserError(f"--address {path}: a service listens there already")
    os.unlink(path)
