# SPDX-License-Identifier: GPL-2.0-only
"""System calls in somebody's name: who listens, connects or makes a pair is whom the other end sees (SO_PEERCRED).

A member of the tree makes the call itself. For somebody who has gone, a child of ours does that gets the PID once more.
A PID that somebody else has by now cannot be had: then only user and groups are right, which is logged.
"""

from __future__ import annotations

import ctypes
import os
import struct

from pycriu.errors import KernelError
from pycriu.kernel import libc, procfs
from pycriu.kernel.lending import Lender
from pycriu.record import record
from pycriu.tracing.tracee import Remote, Row, Tracee

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pycriu.fds.opening import Opening
    from pycriu.log import Log

    Action = Callable[[], tuple[int, ...]]

SIGCHLD = 17
AF_UNIX, SOCK_CLOEXEC = 1, 0o2000000
EIO = 5
_INT = struct.Struct("=i")
_AT_ONCE = 500  # pairs: the task has their descriptors for a moment
_LOW = 0xFFFFFFFF
_CAP_HEADER = struct.pack("=Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, ourselves
_SAME = -1  # to setresuid(2) and setresgid(2)


@record
class Person:
    """Whom SO_PEERCRED and SO_PEERGROUPS tell."""

    pid: int
    user: int
    group: int
    groups: tuple[int, ...]


class Persons:
    """Makes calls for persons. All tasks must exist and be stopped (`opening.tasks`)."""

    def __init__(self, opening: Opening, log: Log) -> None:
        self._opening, self._log = opening, log
        self._capabilities = _all_effective(procfs.parse_status(procfs.text("self", "status")))
        self._us = Person(os.getpid(), os.geteuid(), os.getegid(), tuple(os.getgroups()))

    def listen(self, who: Person | None, fd: int, backlog: int) -> None:
        """listen(2) on our descriptor `fd`."""
        task = self._task_of(who)
        if who and task:
            self._remote(who, task, fd, "listen", lambda _: (backlog,))
        else:
            self._ours(who, lambda: _nothing(libc.call("listen", fd, backlog)))

    def connect(self, who: Person | None, fd: int, address: bytes, what: str) -> None:
        """connect(2) of our descriptor `fd` to a struct sockaddr; `what` names the other end."""
        task = self._task_of(who)
        data = ctypes.create_string_buffer(address, len(address))
        if who and task:
            self._remote(who, task, fd, "connect", lambda remote: (remote.data(address), len(address)), what)
        else:
            here = ctypes.addressof(data)
            self._ours(who, lambda: _nothing(libc.call("connect", fd, here, len(address), what=what)))

    def pairs(self, who: Person | None, kind: int, count: int) -> list[tuple[int, int]]:
        """socketpair(2), `count` times: descriptors of our own."""
        task = self._task_of(who)
        made: list[int] = []
        if not who or not task:
            for _ in range(count):
                made += self._ours(who, lambda: _pair(kind))
        else:
            for start in range(0, count, _AT_ONCE):
                made += self._remote_pairs(who, task, kind, min(_AT_ONCE, count - start))
        return list(zip(made[::2], made[1::2], strict=True))

    def _remote_pairs(self, who: Person, task: Tracee, kind: int, count: int) -> tuple[int, ...]:
        size = 2 * _INT.size
        with Remote(task) as remote:
            at = remote.room(count * size)
            rows = [Row("socketpair", AF_UNIX, kind | SOCK_CLOEXEC, 0, at + place * size) for place in range(count)]
            remote.calls([*self._become(who, remote), *rows, *self._back(who, remote)])
            theirs = [number for (number,) in _INT.iter_unpack(task.read(at, count * size))]
            ours = libc.fetch(who.pid, theirs)
            remote.calls([Row("close", fd) for fd in theirs])
        return ours

    def _task_of(self, who: Person | None) -> Tracee | None:
        return self._opening.tasks.get(who.pid) if who else None

    def _remote(
        self,
        who: Person,
        task: Tracee,
        fd: int,
        name: str,
        arguments: Callable[[Remote], tuple[int, ...]],
        what: str = "",
    ) -> None:
        with Remote(task) as remote:
            theirs = self._opening.bring(remote, fd)
            row = Row(name, theirs, *arguments(remote), what=what)
            remote.calls([*self._become(who, remote), row, *self._back(who, remote), Row("close", theirs)])

    def _become(self, who: Person, remote: Remote) -> list[Row]:
        """The effective ids, with all capabilities: it must be able to follow what leads to our sockets."""
        rows = []
        if who.groups != self._us.groups:
            groups = remote.data(struct.pack(f"={len(who.groups)}I", *who.groups))
            rows.append(Row("setgroups", len(who.groups), groups))
        if (who.user, who.group) != (self._us.user, self._us.group):
            rows += [
                Row("setresgid", _SAME, who.group, _SAME),
                Row("setresuid", _SAME, who.user, _SAME),
                Row("capset", remote.data(_CAP_HEADER), remote.data(self._capabilities)),
            ]
        return rows

    def _back(self, who: Person, remote: Remote) -> list[Row]:
        # All as it was: later on the task changes only what must be different from ours.
        rows = []
        if (who.user, who.group) != (self._us.user, self._us.group):
            rows += [Row("setresuid", _SAME, self._us.user, _SAME), Row("setresgid", _SAME, self._us.group, _SAME)]
        if who.groups != self._us.groups:
            groups = remote.data(struct.pack(f"={len(self._us.groups)}I", *self._us.groups))
            rows.append(Row("setgroups", len(self._us.groups), groups))
        return rows

    def _ours(self, who: Person | None, action: Action) -> tuple[int, ...]:
        """By ourselves, or by a child of ours that is somebody else; descriptors that it made become ours."""
        if who is None:
            return action()
        with Lender(lambda: self._fork(who), lambda: self._as(who, action)) as child:
            answer = [number for (number,) in _INT.iter_unpack(child.answer)] or [EIO]
            if answer[0]:
                raise KernelError("a call for another process", answer[0], f"PID {who.pid}, user {who.user}")
            return child.fetch(answer[1:])

    def _fork(self, who: Person) -> int:
        if who.pid > 0:
            try:
                return libc.clone3_set_tid(who.pid, flags=0, exit_signal=SIGCHLD)
            except KernelError as error:
                self._log.debug("a process %d to stand in: %s", who.pid, error.message)
        self._log.warn("process %d is another one now: the peer of a UNIX socket sees that it was ours", who.pid)
        return os.fork()

    def _as(self, who: Person, action: Action) -> bytes:
        """In the child: an errno, or 0 and what the action has made. It makes system calls, nothing else."""
        try:
            if who.groups != self._us.groups:
                os.setgroups(who.groups)
            os.setresgid(_SAME, who.group, _SAME)
            os.setresuid(_SAME, who.user, _SAME)
            header, data = ctypes.create_string_buffer(_CAP_HEADER), ctypes.create_string_buffer(self._capabilities)
            libc.call("capset", ctypes.addressof(header), ctypes.addressof(data))
            return b"".join(map(_INT.pack, (0, *action())))
        except (KernelError, OSError) as error:
            return _INT.pack(error.errno or EIO)


class stand_in:  # noqa: N801 - reads as a word where it is used
    """A scope in which a process of this PID exists, if the PID was free."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def __enter__(self) -> None:
        hold, self._let_go = os.pipe2(os.O_CLOEXEC)
        self._child = 0
        try:
            self._child = libc.clone3_set_tid(self._pid, flags=0, exit_signal=SIGCHLD)
        except KernelError:
            os.close(hold)
            return
        if not self._child:
            try:
                os.close(self._let_go)
                os.read(hold, 1)
            finally:
                os._exit(0)
        os.close(hold)

    def __exit__(self, *_: object) -> None:
        os.close(self._let_go)
        if self._child:
            os.waitpid(self._child, 0)


def _all_effective(status: dict[str, str]) -> bytes:
    """Data for capset(2): what /proc/PID/status says is permitted, all of it effective."""
    permitted, inheritable = int(status["CapPrm"], 16), int(status["CapInh"], 16)
    halves = ((permitted & _LOW, inheritable & _LOW), (permitted >> 32, inheritable >> 32))
    return b"".join(struct.pack("=III", some, some, inherited) for some, inherited in halves)


def _nothing(_: int) -> tuple[int, ...]:
    return ()


def _pair(kind: int) -> tuple[int, int]:
    room = ctypes.create_string_buffer(2 * _INT.size)
    libc.call("socketpair", AF_UNIX, kind | SOCK_CLOEXEC, 0, ctypes.addressof(room))
    one, other = (number for (number,) in _INT.iter_unpack(room.raw))
    return one, other
