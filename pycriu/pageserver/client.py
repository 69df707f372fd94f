# SPDX-License-Identifier: GPL-2.0-only
"""The pages of a dump, sent to a page server instead of being written.

A tree that is to go on running does not wait for the network: its pages are copied into a file without a name while it
stands still, and sent when it runs again. One that is to end is sent as it is read, which needs no room here; nobody
waits for it but who restores it. The checkpoint is committed when the server has said that it has everything.
"""

from __future__ import annotations

import os

from pycriu import incremental, pagecopy
from pycriu.errors import UserError
from pycriu.kernel.pagemap import PAGE_SIZE, Run
from pycriu.pagecompare import Buffer
from pycriu.pageimages import PRESENT
from pycriu.pageserver import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from pycriu.options import PageServer
    from pycriu.pagecopy import Batch
    from pycriu.snapshot import Snapshot

    Read = Callable[[memoryview, int, Batch], list[tuple[int, int]]]  # as in `pagecompare`


class Remote:
    """The page server of one dump. Made before anybody stops: who is not there is found out then."""

    def __init__(self, options: PageServer, root: int, spool_dir: str | None) -> None:
        """`spool_dir` has room for all pages, where they are not to be sent at once."""
        self._link = wire.Link(_connected(options), f"the page server {options.name}")
        self._close = wire.CLOSE if options.socket is None else wire.FORCE_CLOSE
        self._spool_dir = spool_dir
        self._spool = -1
        self._end = 0
        self._later: list[tuple[int, int, list[Run], int]] = []
        self._buffer = Buffer()
        try:
            self._link.agree(root)
            if spool_dir is not None:
                self._spool = _nameless(spool_dir)
        except BaseException:
            self._link.__exit__()
            raise

    def close(self) -> None:
        """Hang up. A server that has not been told that all is there keeps nothing."""
        self._link.__exit__()
        if self._spool >= 0:
            os.close(self._spool)
            self._spool = -1

    def take(self, snapshot: Snapshot, sharers: list[int]) -> None:
        """The pages of a process that stands still, for itself and for all that share its memory."""
        for pid in sharers:
            if self._spool < 0:
                self._send(wire.TASK, pid, snapshot.runs, lambda *to: incremental.read_task(snapshot.task, *to))
            else:
                self._later.append((wire.TASK, pid, snapshot.runs, self._end))
        if self._spool >= 0:
            self._end += _Spool(self._spool, self._end).copy(snapshot)

    def take_file(self, fd: int, shmid: int, runs: list[Run]) -> None:
        """The content of an object of shared memory."""
        if self._spool < 0:
            self._send(wire.OBJECT, shmid, runs, lambda *to: incremental.read_file(fd, *to))
            return
        self._later.append((wire.OBJECT, shmid, runs, self._end))
        self._end += _Spool(self._spool, self._end).copy_file(fd, runs)

    def take_running(self, pid: int, runs: list[Run]) -> int:
        """The pages of a task that runs, as far as they are still there; how many were sent."""
        with incremental.Running(pid) as task:
            return self._send(wire.TASK, pid, runs, task.read)

    def finish(self) -> None:
        """Send what is still here, and wait until the server has it all."""
        for kind, number, runs, offset in self._later:
            at = [offset]

            def read(view: memoryview, _address: int, batch: Batch, at: list[int] = at) -> list[tuple[int, int]]:
                if os.preadv(self._spool, [view], at[0]) != batch.size:
                    raise UserError(f"{self._spool_dir}: pages that were put aside are not there any more")
                at[0] += batch.size
                return list(batch.pieces)

            self._send(kind, number, runs, read)
        self._later = []
        self._link.send(self._link.header(self._close, 0, 0))
        if status := self._link.answer(wire.ANSWER_CLOSE):
            raise wire.LinkError(f"{self._link.name} could not keep the pages (status {status})", "its log says why")

    def _send(self, kind: int, number: int, runs: list[Run], read: Read) -> int:
        link, buffer, sent = self._link, self._buffer, 0
        link.send(link.header(wire.OPEN2, kind, number))
        link.answer(wire.ANSWER_OPEN)
        for batch in pagecopy.batches(runs):
            at = 0
            for address, size in read(buffer.view[: batch.size], buffer.address, batch):
                head = link.header(wire.ADD_F, kind, number, address, size // PAGE_SIZE, PRESENT)
                link.send(head, buffer.view[at : at + size])
                at += size
            sent += at // PAGE_SIZE
        return sent


class _Spool:
    """A place in the file of pages that are to be sent later."""

    def __init__(self, fd: int, offset: int) -> None:
        self._fd, self._offset = fd, offset

    def copy(self, snapshot: Snapshot) -> int:
        """The pages of a process; how many bytes they take."""
        return self._copy(snapshot.runs, lambda *to: incremental.read_task(snapshot.task, *to))

    def copy_file(self, fd: int, runs: list[Run]) -> int:
        """The same for an object."""
        return self._copy(runs, lambda *to: incremental.read_file(fd, *to))

    def _copy(self, runs: list[Run], read: Read) -> int:
        buffer, done = Buffer(), 0
        for batch in pagecopy.batches(runs):
            view = buffer.view[: batch.size]
            read(view, buffer.address, batch)
            while view:
                count = os.pwrite(self._fd, view, self._offset + done)
                view, done = view[count:], done + count
        return done


def _nameless(folder: str) -> int:
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:  # not every file system has that
        import tempfile

        fd, path = tempfile.mkstemp(prefix=".pycriu-pages-", dir=folder)
        os.unlink(path)
        return fd


def _connected(options: PageServer) -> socket.socket:
    if options.socket is not None:
        return wire.inherited(options.socket)
    connection = wire.connect(options.address, options.port)
    if options.tls is None:
        return connection
    from pycriu.pageserver import tls

    try:
        return tls.secure(connection, options.tls, options.address, server=False)
    except BaseException:
        connection.close()
        raise
