# SPDX-License-Identifier: GPL-2.0-only
"""The files of an image, open in this process on inheritable descriptors above the numbers that tasks use.

New tasks are forks of this process and of each other, so they are born with all of them, at the same numbers. What can
be opened only when the tasks exist (`Kind.LATE`) each task fetches with pidfd_getfd(2) from us.
"""

from __future__ import annotations

import fcntl
import os

from pycriu.errors import ImageError, NotHere
from pycriu.fds import owner
from pycriu.fds.table import Kinds
from pycriu.tracing.tracee import Remote, Row, Tracee

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


_ROOM = 64  # descriptors that we need beside those of the files


def _check_room(needed: int) -> None:
    """UserError where a task and we cannot have all files open at once, each at a number of his own."""
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if needed + _ROOM > limit:
        raise NotHere(
            f"this restore needs {needed + _ROOM} descriptors, of which pycriu may have {limit}",
            "raise the hard limit: ulimit -Hn, or LimitNOFILE= of the service",
        )


class Opening:
    """A scope: at its end our copies are closed.

    `tables`: PID → its fdinfo_entry; `base`: the lowest number that no task uses.
    """

    def __init__(self, kinds: Kinds, entries: list[Any], tables: dict[int, list[Any]], base: int) -> None:
        self.kinds = kinds
        self.tables = {pid: {entry.fd: entry.id for entry in table} for pid, table in tables.items()}
        self.entries = {entry.id: entry for entry in entries}
        self.fd_of: dict[int, int] = {}
        self.tasks: dict[int, Tracee] = {}
        self.failed = False  # nothing of the tree will be left: so must be what the kinds have made for it
        self._base = base
        self._kept: list[int] = []
        self._pending: list[int] = []
        self._late = False
        self._foreign: set[int] = set()  # ids of files that the user has given: we change nothing of them
        self._late_fds: set[int] = set()
        self._announced: set[int] = set()  # files for which O_ASYNC has been seen to
        _check_room(base + len(entries))
        try:
            self._ourselves = self.adopt(os.pidfd_open(os.getpid()))
            self._open(late=False)
            kinds.locks.check(self.tables, self.fd_of)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Opening:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self.failed = error is not None
        self.close()

    def open_late(self, tasks: dict[int, Tracee]) -> None:
        """All tasks exist, by PID: open the rest."""
        self.tasks = tasks
        self._open(late=True)

    def _open(self, *, late: bool) -> None:
        self._late = late
        lent = {number for kind in self.kinds.all for number in kind.lent}
        for number, entry in self.entries.items():
            if number not in lent and self.kinds.by_type(entry).late(entry) is late:
                self.fd(number)

    def fd(self, number: int) -> int:
        """Our descriptor for the file of this id, opened now if it was not; ImageError where there is none."""
        if number not in self.fd_of:
            if number not in self.entries:
                raise ImageError(f"file {number} is referred to, but is not in the files image")
            if number in self._pending:
                raise ImageError(f"the files {self._pending} of the image refer to each other in a circle")
            self._pending.append(number)
            entry = self.entries[number]
            fd = self._inherited(entry)
            if fd < 0:
                fd = self.kinds.by_type(entry).open(entry, self)
            self.fd_of[number] = self.adopt(fd)
            if self._late:
                self._late_fds.add(number)
            self._pending.pop()
        return self.fd_of[number]

    def _inherited(self, entry: Any) -> int:
        """A copy of what the user has given for this file; -1 where that is nothing."""
        fd = -1 if self.kinds.inherited is None else self.kinds.inherited.take(entry, self.kinds)
        if fd >= 0:
            self._foreign.add(entry.id)
        return fd

    def adopt(self, fd: int) -> int:
        """Move `fd` out of the way of the numbers that tasks use, and let it be inherited."""
        try:
            kept = fcntl.fcntl(fd, fcntl.F_DUPFD, self._base)
        finally:
            os.close(fd)
        self._kept.append(kept)
        return kept

    def fetch(self, remote: Remote, numbers: list[int]) -> dict[int, int]:
        """Let a task get those of the files `numbers` with which it was not born: id → descriptor of the task."""
        late = sorted({number for number in numbers if number in self._late_fds})
        if not late:
            return {}
        got = remote.calls([Row("pidfd_getfd", self._ourselves, self.fd_of[number], 0) for number in late])
        up = remote.calls([Row("fcntl", fd, fcntl.F_DUPFD, self._base) for fd in got])
        remote.calls([Row("close", fd) for fd in got])
        return dict(zip(late, up, strict=True))

    def bring(self, remote: Remote, fd: int) -> int:
        """Give a task a descriptor for what is open in us as `fd`."""
        return remote.call("pidfd_getfd", self._ourselves, fd, 0)

    def task_rows(self, descriptors: list[Any], pid: int, remote: Remote) -> list[Row]:
        """What a task does for its descriptors once all have their numbers."""
        rows = []
        for descriptor in descriptors:
            entry = self.entries[descriptor.id]
            if descriptor.id in self._foreign:
                continue
            if descriptor.id not in self._announced:
                self._announced.add(descriptor.id)
                about = self.kinds.by_type(entry).signals(entry, self)
                rows += owner.rows(getattr(about, "flags", 0), descriptor.fd)
            rows += self.kinds.locks.rows(pid, descriptor.fd, remote)
            rows += self.kinds.by_type(entry).task_rows(entry, descriptor, pid, remote, self)
        return rows

    def finish(self) -> None:
        """All tasks are complete and none runs yet."""
        for number, entry in self.entries.items():
            if number in self._foreign:
                continue
            told = getattr(self.kinds.by_type(entry).signals(entry, self), "fown", None)
            if told is not None and (told.pid or told.signum):
                owner.restore(self.fd(number), told, number)
        for kind in self.kinds.all:
            kind.finish(self)

    def close(self) -> None:
        """Close our copies."""
        for fd in self._kept:
            os.close(fd)
        self._kept = []
        for kind in self.kinds.all:
            kind.close()
