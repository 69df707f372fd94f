# SPDX-License-Identifier: GPL-2.0-only
"""Every kind of open file that pycriu knows, and what it says of those that it does not."""

from __future__ import annotations

import os
import stat

from pycriu.errors import About, ImageError, Unsupported
from pycriu.fds.kind import Kind
from pycriu.fds.locks import Locks
from pycriu.fds.openfile import OpenFile
from pycriu.fds.regular import Regular

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pycriu.fds.external import Inherited
    from pycriu.images.store import ImagesDir
    from pycriu.log import Log
    from pycriu.options import DumpOptions, RestoreOptions
    from pycriu.plugins import Plugins

    Looks = Callable[[OpenFile], bool]


def _anonymous(name: str) -> Looks:
    return lambda file: file.link == f"anon_inode:{name}"


def _socket(*families: int) -> Looks:
    def looks(file: OpenFile) -> bool:
        if not stat.S_ISSOCK(file.status.st_mode):
            return False
        from pycriu.fds import sockets

        found = sockets.about(file)
        return found is not None and found.family in families

    return looks


AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET = 1, 2, 10, 16, 17

# Module, class, fd_types of the image format, and what could be of this kind by its looks: the module, which costs time
# to import, has the last word. What is gathered later may find what was gathered before.
KINDS: tuple[tuple[str, str, int, Looks], ...] = (
    ("memfd", "Memfd", 18, lambda file: file.link.endswith(" (deleted)")),
    ("regular", "Regular", 1, lambda file: file.link.startswith("/")),
    ("pipe", "Pipe", 2, lambda file: file.link.startswith("pipe:[")),
    ("fifo", "Fifo", 3, lambda file: stat.S_ISFIFO(file.status.st_mode) and file.link.startswith("/")),
    ("eventfd", "Eventfd", 6, _anonymous("[eventfd]")),
    ("signalfd", "Signalfd", 9, _anonymous("[signalfd]")),
    ("timerfd", "Timerfd", 17, _anonymous("[timerfd]")),
    ("inotify", "Inotify", 8, _anonymous("inotify")),
    ("fanotify", "Fanotify", 12, _anonymous("[fanotify]")),
    ("pidfd", "Pidfd", 20, _anonymous("[pidfd]")),
    ("namespace", "Namespace", 14, lambda file: ":[" in file.link),
    ("tun", "Tun", 15, lambda file: file.link.endswith("/net/tun")),
    ("tty.kind", "Tty", 11, lambda file: file.is_character_device()),
    ("unix.kind", "Unix", 5, _socket(AF_UNIX)),
    ("inet.kind", "Inet", 4, _socket(AF_INET, AF_INET6)),
    ("netlink", "Netlink", 13, _socket(AF_NETLINK)),
    ("packet", "Packet", 10, _socket(AF_PACKET)),
    # what all others refuse, see `Kinds.of`
    ("plugged", "Plugged", 16, lambda _: False),
    # last: what it watches may be in flight in a socket, which must have been looked into
    ("epoll", "Epoll", 7, _anonymous("[eventpoll]")),
)

_NO_FILES = ("/secretmem (deleted)", "/dmabuf:")  # what looks like a file with a path and is none


_CUDA = "/proc/driver/nvidia"  # plugins.cuda.ABOUT; where neither is there, nothing of plugins is imported


def _plugins(options: DumpOptions | RestoreOptions, log: Log) -> Plugins | None:
    """The plugins in play."""
    if options.libdir is None and not os.path.exists(_CUDA):
        return None
    from pycriu import plugins

    return plugins.opened(options.libdir, log)


class Kinds:
    """One object of each kind that there is a file of, for one dump or one restore."""

    def __init__(self, options: DumpOptions | RestoreOptions, log: Log) -> None:
        self._options, self._log = options, log
        self._loaded: dict[str, Kind] = {}
        self.plugins = _plugins(options, log)
        self.maps_cuda = False  # whether somebody has the library of CUDA's driver
        self.locks = Locks(options)
        self.refused = Kind(options, log)  # stands in for that of a file that was refused, see `errors`
        self.regular: Regular = self._load(Regular, "regular")
        self.inherited: Inherited | None = None
        if getattr(options, "external", ()):
            self._kind("external", "External")
        if given := getattr(options, "inherit_fd", ()):
            from pycriu.fds.external import Inherited

            self.inherited = Inherited(given, log)

    @property
    def all(self) -> list[Kind]:
        """Those that there is a file of, in the order of the table, and what the user has named."""
        found = [self._loaded[name] for name, *_ in KINDS if name in self._loaded]
        return [*found, self._loaded["external"]] if "external" in self._loaded else found

    def find(self, module: str) -> Any:
        """The kind of that module, or None where there is no file of it."""
        return self._loaded.get(module)

    def use_plugins(self, plugins: Plugins | None) -> None:
        """Others than those that were there at the beginning."""
        self.plugins = plugins
        for kind in self._loaded.values():
            kind.plugins = plugins

    def _load(self, kind: type[Kind], module: str) -> Any:
        self._loaded[module] = kind(self._options, self._log)
        self._loaded[module].plugins = self.plugins
        return self._loaded[module]

    def _kind(self, module: str, name: str) -> Kind:
        if module not in self._loaded:
            self._load(getattr(__import__(f"pycriu.fds.{module}", fromlist=[name]), name), module)
        return self._loaded[module]

    def of(self, file: OpenFile) -> Kind:
        """The kind of this file, which has inspected it; Unsupported names what nobody handles."""
        external = self._loaded.get("external")
        if external is not None and external.matches(file):
            return external
        for module, name, _, looks in KINDS if not file.link.startswith(_NO_FILES) else ():
            if looks(file) and (kind := self._kind(module, name)).matches(file):
                kind.inspect(file)
                self.locks.inspect(file)
                return kind
        if self.plugins is not None and self.plugins.of_fd(file) is not None:
            return self._kind("plugged", "Plugged")
        from pycriu.fds import refused

        what, hint = refused.describe(file)
        raise Unsupported(f"{file.name} is {what}, which cannot be saved", hint)

    def __enter__(self) -> Kinds:
        return self

    def __exit__(self, *_: object) -> None:
        self.thaw()
        for kind in self.all:
            kind.close()

    def before_kill(self, pids: list[int]) -> None:
        """The checkpoint is whole, and these processes are about to be killed."""
        for kind in self.all:
            kind.before_kill(pids)

    def delicate(self) -> list[Kind]:
        """Those to whom the end of a restore matters."""
        return [kind for kind in self.all if kind.is_delicate()]

    def thaw(self) -> None:
        """Let nothing hold the tree back any more."""
        for kind in self.all:
            kind.thaw()

    def by_type(self, entry: Any) -> Kind:
        """The kind of a file_entry; ImageError for one that is not known."""
        for module, name, number, _ in KINDS:
            if number == entry.type:
                return self._kind(module, name)
        raise ImageError(f"file {entry.id} is of kind {entry.type}, which cannot be restored", "restore it with criu")

    def read(self, images: ImagesDir, entries: list[Any]) -> None:
        """Let every kind see its entries and read the images that it has beside them."""
        for entry in entries:
            self.by_type(entry)
        if self.inherited is not None:
            entries = [entry for entry in entries if not self.inherited.replaces(entry, self)]
        for kind in self.all:
            with About():
                kind.read(images, [entry for entry in entries if entry.type == kind.TYPE])
        self.locks.read(images)
