# SPDX-License-Identifier: GPL-2.0-only
"""The page server: receives pages and makes pagemap and pages images of them.

They come into being in a hidden directory and get their names when the client has said that all is there, and they are
on disk; then the client is told. Whatever goes wrong before, nothing is left. What a client says is hostile.
"""

from __future__ import annotations

import os

from pycriu.errors import PycriuError, UserError
from pycriu.images import children, commit, framing, store
from pycriu.images import messages as m
from pycriu.images.catalogue import LAZY, PARENT, PRESENT, PUNCHED
from pycriu.images.durable import sync_together
from pycriu.kernel import waking
from pycriu.kernel.pagemap import PAGE_SIZE
from pycriu.pageserver import wire
from pycriu.resources import limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any, Self

    from pycriu.log import Log
    from pycriu.pageserver.tls import Files

PLACE = ".pycriu-received"
FIRST_PAGES_ID = 1 << 16  # those of dumps count from 1; what a client writes itself may lie beside ours
_AT_ONCE = 1 << 20
_ADDS = {wire.ADD: PRESENT, wire.HOLE: PARENT, wire.ADD_F: None}


class _Incoming:
    """One pair of images in the making."""

    def __init__(self, place: int, name: str, pages_id: int) -> None:
        self.name, self.pages_name = name, f"pages-{pages_id}.img"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self.pages = os.open(self.pages_name, flags, 0o600, dir_fd=place)
        self.entries: list[Any] = [m.pagemap_head(pages_id=pages_id)]
        self.end = 0

    def add(self, command: wire.Command, flags: int, label: str) -> None:
        """One run of pages."""
        if command.address % PAGE_SIZE or command.address < self.end or not command.pages:
            raise wire.LinkError(f"{label} sends pages at {command.address:#x}, not aligned or not in order")
        self.end = command.address + command.pages * PAGE_SIZE
        if self.end > 1 << 64:
            raise wire.LinkError(f"{label} sends pages at {command.address:#x}, which is out of bounds")
        self.entries.append(
            m.pagemap_entry(
                vaddr=command.address, compat_nr_pages=command.pages & 0xFFFFFFFF, flags=flags, nr_pages=command.pages
            )
        )


class Server:
    """What one client sends, on its way into a directory. A scope: without `publish`, nothing is changed there."""

    def __init__(self, images_dir: str, parent: str | None, log: Log) -> None:
        """`parent` is the set before, relative to the directory."""
        self.path, self._given, self._log = images_dir, parent, log
        self._directory = commit.open_directory(images_dir)
        self._place = -1
        self._incoming: dict[tuple[int, int], _Incoming] = {}
        self._parent: store.ImagesDir | None = None  # open, so that nobody removes it meanwhile
        self._parents: set[str] = set()  # its pagemaps
        self._buffer = memoryview(bytearray(_AT_ONCE))
        self.pages = 0
        self._left = False

    def __enter__(self) -> Self:
        try:
            self._begin()
        except OSError as error:
            self.__exit__()
            raise store.refusal(error, self.path) from None
        except BaseException:
            self.__exit__()
            raise
        return self

    def _begin(self) -> None:
        limits.raise_own_descriptor_limit()  # one for each process and object
        commit.lock(self._directory, self.path, exclusive=True)
        if commit.INVENTORY in os.listdir(self._directory) or commit.unfinished(self._directory):
            raise UserError(
                f"{self.path}: a whole checkpoint is here, whose pages would be replaced", "take another -D"
            )
        self._parent = _parent(self.path, self._given)
        if self._parent is not None:
            self._parents = {name for name in self._parent.names() if name.startswith("pagemap-")}
        self._clear()
        os.mkdir(PLACE, 0o700, dir_fd=self._directory)
        self._place = os.open(PLACE, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=self._directory)

    def __exit__(self, *_: object) -> None:
        if self._left:
            return
        if self._parent is not None:
            self._parent.close()
        for one in self._incoming.values():
            os.close(one.pages)
        try:
            if self._place >= 0:
                os.close(self._place)
                self._clear()
        except OSError as error:  # which is no reason to hide what went wrong before; the next one removes it
            self._log.warn("%s/%s cannot be removed: %s", self.path, PLACE, error.strerror)
        finally:
            os.close(self._directory)

    def leave(self) -> None:
        """A child goes on with this."""
        self._left = True

    def _clear(self) -> None:
        place = commit.subdirectory(self._directory, PLACE)
        if place is None:
            return
        for name in os.listdir(place):
            os.unlink(name, dir_fd=place)
        os.close(place)
        os.rmdir(PLACE, dir_fd=self._directory)

    def serve(self, link: wire.Link) -> None:
        """Everything that a client sends, until it says that this was all; LinkError if it never says so."""
        while (command := link.command()) is not None:
            if command.what in (wire.CLOSE, wire.FORCE_CLOSE):
                self.publish()
                link.send(wire.ANSWER_CLOSE.pack(0))
                return
            self._obey(link, command)
        raise wire.LinkError(f"{link.name} has closed the connection before all was there", "nothing of it was kept")

    def _obey(self, link: wire.Link, command: wire.Command) -> None:
        what = command.what
        if what == wire.PARENT:
            link.send(wire.ANSWER_PARENT.pack(int(_name(command) in self._parents)))
        elif what in (wire.OPEN, wire.OPEN2):
            self._open(command)
            if what == wire.OPEN2:
                link.send(wire.ANSWER_OPEN.pack(_name(command) in self._parents))
        elif what in _ADDS:
            self._add(link, command)
        elif what == wire.GET:
            raise wire.LinkError(f"{link.name} asks for pages", "pycriu serves no lazy restore")
        else:
            raise wire.LinkError(f"{link.name} says what is not known: command {what:#x}")

    def _open(self, command: wire.Command) -> _Incoming:
        key = (command.kind, command.number)
        if key in self._incoming:
            raise wire.LinkError(f"the client sends {_name(command)} twice")
        try:
            found = _Incoming(self._place, _name(command), FIRST_PAGES_ID + len(self._incoming) + 1)
        except OSError as error:
            raise store.refusal(error, self.path) from None
        self._incoming[key] = found
        self._log.debug("Receiving %s", found.name)
        return found

    def _add(self, link: wire.Link, command: wire.Command) -> None:
        into = self._incoming.get((command.kind, command.number)) or self._open(command)
        flags = _ADDS[command.what]
        if flags is None:
            flags = command.flags & (PRESENT | PARENT | LAZY)
        if flags & (PRESENT | PARENT) not in (PRESENT, PARENT):
            raise wire.LinkError(f"{link.name} keeps pages back ({flags})", "pycriu serves no lazy restore")
        if flags & PARENT and into.name not in self._parents:
            raise wire.LinkError(
                f"{link.name} leaves out pages of {into.name}, which is in no parent here",
                "name the parent with --prev-images-dir",
            )
        into.add(command, flags, link.name)
        left = command.pages * PAGE_SIZE if flags & PRESENT else 0
        self.pages += left // PAGE_SIZE
        while left:
            view = self._buffer[: min(left, _AT_ONCE)]
            if not link.receive(view):
                raise wire.LinkError(f"{link.name} has closed the connection in the middle of pages")
            left -= len(view)
            while view:
                try:
                    view = view[os.write(into.pages, view) :]
                except OSError as error:
                    raise store.refusal(error, self.path) from None

    def publish(self) -> None:
        """On disk, and under their names: pages before those that tell of them.

        Pages that somebody else has sent before go, in the other order: nothing tells of pages that are others by now.
        """
        try:
            files = {one.pages_name: one.pages for one in self._incoming.values()}
            pagemaps = [self._write(one) for one in self._incoming.values()]
            try:
                sync_together(files | dict(pagemaps), self._place)
            finally:
                for _, fd in pagemaps:
                    os.close(fd)
            for name in sorted(filter(_is_received, os.listdir(self._directory))):  # pagemaps are the first
                os.unlink(name, dir_fd=self._directory)
            self._link_parent()
            for name in [*files, *(name for name, _ in pagemaps)]:
                os.rename(name, name, src_dir_fd=self._place, dst_dir_fd=self._directory)
            os.fsync(self._directory)
        except OSError as error:
            raise store.refusal(error, self.path) from None

    def _link_parent(self) -> None:
        """--prev-images-dir: the link to the set before, as a dump makes it."""
        if self._given is None or self._parent is None:
            return
        children.note(self._parent.path, self.path, self._log)
        link = os.path.relpath(self._parent.path, os.path.realpath(self.path))
        os.symlink(link, commit.PARENT, dir_fd=self._place)
        os.rename(commit.PARENT, commit.PARENT, src_dir_fd=self._place, dst_dir_fd=self._directory)

    def _write(self, one: _Incoming) -> tuple[str, int]:
        fd = os.open(one.name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self._place)
        view = memoryview(b"".join(framing.build(store.kind_of(one.name), one.entries, one.name)))
        while view:
            view = view[os.write(fd, view) :]
        return one.name, fd


def _name(command: wire.Command) -> str:
    return f"pagemap-{'shmem-' if command.kind == wire.OBJECT else ''}{command.number}.img"


def _is_received(name: str) -> bool:
    return name == PUNCHED or (name.startswith(("pagemap-", "pages-")) and commit.is_image(name))


def _parent(images_dir: str, given: str | None) -> store.ImagesDir | None:
    """The set before: the one that is given, or that the directory has a link to, if there is one."""
    from pycriu.pages import lineage

    if given is None:
        path = label = f"{images_dir}/{commit.PARENT}"
        if not os.path.lexists(path):
            return None
    else:
        path, label = os.path.join(images_dir, given), "--prev-images-dir"
        if not os.path.isdir(path):
            raise UserError(f"--prev-images-dir {given}: no such directory", "it is relative to -D")
    return lineage.open_set(path, label, os.stat(images_dir).st_uid)


def accept(waiting: socket.socket, place: Server, files: Files | None, address: str | None) -> None:
    """Wait for a client, and serve it."""
    connection, (host, *_) = waking.accept(waiting)
    if files is not None:
        from pycriu.pageserver import tls

        connection.settimeout(wire.SILENCE)
        connection = tls.secure(connection, files, address, server=True)
    with wire.Link(connection, f"the client {host}") as link:
        place.serve(link)
        linger(link)


def linger(link: wire.Link) -> None:
    """Let the client close first, which spares this side a connection in TIME_WAIT."""
    try:
        link.receive(memoryview(bytearray(1)))
    except PycriuError:
        return  # all has been said
