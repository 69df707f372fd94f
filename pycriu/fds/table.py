# SPDX-License-Identifier: GPL-2.0-only
"""Every kind of open file that pycriu knows, and what it says of those that it does not."""

from __future__ import annotations

from pycriu.errors import ImageError, Unsupported
from pycriu.fds import refused
from pycriu.fds.epoll import Epoll
from pycriu.fds.eventfd import Eventfd
from pycriu.fds.fanotify import Fanotify
from pycriu.fds.fifo import Fifo
from pycriu.fds.inotify import Inotify
from pycriu.fds.kind import Kind
from pycriu.fds.locks import Locks
from pycriu.fds.memfd import Memfd
from pycriu.fds.namespace import Namespace
from pycriu.fds.openfile import OpenFile
from pycriu.fds.pidfd import Pidfd
from pycriu.fds.pipe import Pipe
from pycriu.fds.regular import Regular
from pycriu.fds.signalfd import Signalfd
from pycriu.fds.timerfd import Timerfd
from pycriu.fds.tty import Tty
from pycriu.fds.unix import Unix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pycriu.images.store import ImagesDir
    from pycriu.log import Log
    from pycriu.options import DumpOptions, RestoreOptions

KINDS: tuple[type[Kind], ...] = (
    Memfd,
    Regular,
    Pipe,
    Fifo,
    Eventfd,
    Signalfd,
    Timerfd,
    Inotify,
    Fanotify,
    Pidfd,
    Namespace,
    Tty,
    Unix,
    Epoll,  # last: what it watches may be in flight in a socket, which must have been looked into
)


class Kinds:
    """One object of each kind, for one dump or one restore."""

    def __init__(self, options: DumpOptions | RestoreOptions, log: Log) -> None:
        self.all: list[Kind] = [kind(options, log) for kind in KINDS]
        self.locks = Locks(options)
        self.regular = next(kind for kind in self.all if isinstance(kind, Regular))
        self.tty = next(kind for kind in self.all if isinstance(kind, Tty))
        self._by_type = {kind.TYPE: kind for kind in self.all}

    def of(self, file: OpenFile) -> Kind:
        """The kind of this file, which has inspected it; Unsupported names what nobody handles."""
        for kind in self.all if not file.link.startswith(refused.NO_FILES) else ():
            if kind.matches(file):
                kind.inspect(file)
                self.locks.inspect(file)
                return kind
        what, hint = refused.describe(file)
        raise Unsupported(f"{file.name} is {what}, which cannot be saved", hint)

    def __enter__(self) -> Kinds:
        return self

    def __exit__(self, *_: object) -> None:
        self.thaw()
        for kind in self.all:
            kind.close()

    def thaw(self) -> None:
        """Let nothing hold the tree back any more."""
        for kind in self.all:
            kind.thaw()

    def by_type(self, entry: Any) -> Kind:
        """The kind of a file_entry; ImageError for one that is not known."""
        if entry.type not in self._by_type:
            raise ImageError(
                f"file {entry.id} is of kind {entry.type}, which cannot be restored", "restore it with criu"
            )
        return self._by_type[entry.type]

    def read(self, images: ImagesDir, entries: list[Any]) -> None:
        """Let every kind see its entries and read the images that it has beside them."""
        for entry in entries:
            self.by_type(entry)
        for kind in self.all:
            kind.read(images, [entry for entry in entries if entry.type == kind.TYPE])
        self.locks.read(images)
