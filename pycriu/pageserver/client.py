# SPDX-License-Identifier: GPL-2.0-only
"""The pages of a dump, sent to a page server instead of being written.

A tree that is to go on running does not wait for the network: its pages are copied into a file without a name while it
stands still, and sent when it runs again. One that is to end is sent as it is read, which needs no room here; nobody
waits for it but who restores it. The checkpoint is committed when the server has said that it has everything.
"""

from __future__ import annotations

import os

from pycriu.dumping import incremental
from pycriu.errors import UserError
from pycriu.images.catalogue import PRESENT
from pycriu.kernel.pagemap import PAGE_SIZE, Run
from pycriu.pages import copying
from pycriu.pages.copying import Buffer
from pycriu.pageserver import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from pycriu.dumping.snapshot import Snapshot
    from pycriu.options import PageServer
    from pycriu.pages.copying import Batch

    Read = Callable[[memoryview, int, Batch], list[tuple[int, int]]]  # as in `pages.comparing`


class Remote:
    """The page server of one dump. Made before anybody stops: who is not there is found out then."""

    def __init__(self, options: PageServer, root: int, spool_dir: str | None) -> None:
        """`spool_dir` has room for all pages, where they are not to be sent at once."""
        self._link = wire.Link(_connected(options), f"the page server {options.name}")
        self._close = wire.CLOSE if options.socket is None else wire.FORCE_CLOSE
        self._spool_dir = spool_dir
        self._spools: list[int] = []  # files of pages that are to be sent later
        self._later: list[tuple[int, int, list[Run], int]] = []
        self._buffer = Buffer()
        try:
            self._link.agree(root)
        except BaseException:
            self._link.__exit__()
            raise

    def close(self) -> None:
        """Hang up. A server that has not been told that all is there keeps nothing."""
        self._link.__exit__()
        for fd in self._spools:
            os.close(fd)
        self._spools = []

    def take(self, snapshot: Snapshot, sharers: list[int]) -> None:
        """The pages of a process that stands still, for itself and for all that share its memory."""
        if self._spool_dir is None:
            for pid in sharers:
                self._send(wire.TASK, pid, snapshot.runs, lambda *to: incremental.read_task(snapshot.task, *to))
            return
        spool = self._spool(self._spool_dir)
        copying.copy(snapshot.task, snapshot.runs, spool, write_back=False)
        self._later += [(wire.TASK, pid, snapshot.runs, spool) for pid in sharers]

    def take_file(self, fd: int, shmid: int, runs: list[Run]) -> None:
        """The content of an object of shared memory."""
        if self._spool_dir is None:
            self._send(wire.OBJECT, shmid, runs, lambda *to: incremental.read_file(fd, *to))
            return
        spool = self._spool(self._spool_dir)
        copying.copy_file(fd, runs, spool)
        self._later.append((wire.OBJECT, shmid, runs, spool))

    def _spool(self, folder: str) -> int:
        self._spools.append(_nameless(folder))
        return self._spools[-1]

    def take_running(self, pid: int, runs: list[Run]) -> int:
        """The pages of a task that runs, as far as they are still there; how many were sent."""
        with incremental.Running(pid) as task:
            return self._send(wire.TASK, pid, runs, task.read)

    def finish(self) -> None:
        """Send what is still here, and wait until the server has it all."""
        for kind, number, runs, spool in self._later:

            def read(view: memoryview, _address: int, batch: Batch, spool: int = spool) -> list[tuple[int, int]]:
                if os.preadv(spool, [view], batch.offset) != batch.size:
                    raise UserError(f"{self._spool_dir}: pages that were put aside are not there any more")
                return list(batch.pieces)

            self._send(kind, number, runs, read)
        self._later = []
        self._link.send(self._link.header(self._close, 0, 0))
        if status := self._link.answer(wire.ANSWER_CLOSE, patient=True):
            raise wire.LinkError(f"{self._link.name} could not keep the pages (status {status})", "its log says why")

    def _send(self, kind: int, number: int, runs: list[Run], read: Read) -> int:
        link, buffer, sent = self._link, self._buffer, 0
        link.send(link.header(wire.OPEN2, kind, number))
        link.answer(wire.ANSWER_OPEN)
        for batch in copying.batches(runs):
            at = 0
            for address, size in read(buffer.view[: batch.size], buffer.address, batch):
                head = link.header(wire.ADD_F, kind, number, address, size // PAGE_SIZE, PRESENT)
                link.send(head, buffer.view[at : at + size])
                at += size
            sent += at // PAGE_SIZE
        return sent


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
