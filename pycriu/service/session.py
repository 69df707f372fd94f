# SPDX-License-Identifier: GPL-2.0-only
"""One request's surroundings: its options, the directories that it names, and its log.

Directories are opened once, with the rights of the peer, and used by descriptor, so that nobody can put something else
in their place meanwhile.
"""

from __future__ import annotations

import os
import stat
import time

from pycriu import __version__, log
from pycriu.actions import Request
from pycriu.command import arguments, configuration
from pycriu.errors import PycriuError, UserError
from pycriu.service import fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from pycriu.command.arguments import Values
    from pycriu.images import messages as m
    from pycriu.service.peer import Peer

DEFAULT_LOG = "criu.log"


class BadOptions(UserError):
    """The options of a request are wrong, or not to be had."""


class Session:
    """What a request asks for, in the words that the actions know. A context manager.

    Options come from the configuration files, then from the message, then from the configuration file that the message
    names: the last word counts.
    """

    def __init__(self, peer: Peer, opts: m.criu_opts, action: str, configured: Values, *, swrk: bool) -> None:
        self.peer, self.opts = peer, opts
        self.action = arguments.ACTIONS[action]
        self._fds: list[int] = []
        try:
            asked, own = self._asked(swrk=swrk), self._own_file()
            values = _merged(configured, asked, own)
            if action != arguments.CHECK and os.geteuid() and not values.get("unprivileged"):
                raise UserError("the worker is not run as root", "unprivileged says that this is meant so")
            images, work = self._directories(action, configured, own)
            lines = self._log(work, configured, own)
            self._remark(lines, _merged(asked, own))
            self.request = Request(values, [], images, work, lines)
        except PycriuError as error:
            self._close()
            raise BadOptions(error.message, error.hint) from None
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.request.log.flush()
        self._close()

    def _close(self) -> None:
        while self._fds:
            os.close(self._fds.pop())

    def _asked(self, *, swrk: bool) -> Values:
        """The options of the message."""
        words = []
        for descriptor, _ in self.opts.ListFields():
            if descriptor.name not in fields.FOR_ANYBODY:
                self.peer.demand_trust(descriptor.name)
        for field, some in fields.words(self.opts, swrk=swrk):
            try:
                arguments.parse(some)
            except UserError as error:
                raise UserError(f"criu_opts.{field}: {error.message}", error.hint) from None
            words += some
        return arguments.parse(words)[0]

    def _own_file(self) -> Values:
        """The options of the configuration file that the message names."""
        if not self.opts.config_file:
            return {}
        return configuration.parse([self.opts.config_file], [])[0]

    # ----------------------------------------------------------------------------------------------------- directories

    def _directories(self, action: str, configured: Values, own: Values) -> tuple[str, str]:
        """Paths of the images and of the work directory; empty where the request needs none."""
        if action == arguments.CHECK and not (self.opts.log_file or own.get("log-file")):
            return "", ""  # it reads no images and leaves nothing
        images = self._images(action, own)
        return self._path(images), self._path(self._work(images, configured, own))

    def _images(self, action: str, own: Values) -> int:
        if own.get("images-dir"):
            return self._open(str(own["images-dir"]), "images-dir")
        if self.opts.images_dir_fd != -1:
            return self._lent(self.opts.images_dir_fd, "images_dir_fd")
        if self.opts.images_dir:
            return self._open(self.opts.images_dir, "images_dir")
        if action != arguments.CHECK:
            raise UserError("neither images_dir_fd nor images_dir was given")
        return -1

    def _work(self, images: int, configured: Values, own: Values) -> int:
        if own.get("work-dir"):
            return self._open(str(own["work-dir"]), "work-dir")
        if self.opts.HasField("work_dir_fd"):
            return self._lent(self.opts.work_dir_fd, "work_dir_fd")
        if configured.get("work-dir"):
            return self._open(str(configured["work-dir"]), "work-dir")
        return images

    def _open(self, path: str, field: str) -> int:
        try:
            return self._checked(self.peer.open_directory(path), f"{field} {path}")
        except OSError as error:
            raise UserError(f"{field} {path}: {os.strerror(error.errno or 0)}") from None

    def _lent(self, number: int, field: str) -> int:
        return self._checked(self.peer.descriptor(number, field), f"{field} {number}")

    def _checked(self, fd: int, name: str) -> int:
        self._fds.append(fd)
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            raise UserError(f"{name} is not a directory")
        if not self.peer.trusted and not (os.fstat(fd).st_uid == self.peer.uid and self.peer.may_write(fd)):
            raise UserError(f"{name} is not a directory that belongs to {self.peer.name} and may be written")
        return fd

    def _path(self, fd: int) -> str:
        """A path of the directory: by our descriptor, or where nobody plays tricks, one that can be read by people."""
        if fd < 0:
            return ""
        ours = f"/proc/self/fd/{fd}"
        if not self.peer.trusted:
            return ours
        path = os.readlink(ours)
        try:
            return path if os.path.samestat(os.stat(path), os.fstat(fd)) else ours
        except OSError:
            return ours  # it has moved, or is of another mount namespace

    # ------------------------------------------------------------------------------------------------------------- log

    def _log(self, work: str, configured: Values, own: Values) -> log.Log:
        opts = self.opts
        name = own.get("log-file") or opts.log_file
        if not name and not opts.log_to_stderr and self.action.name != arguments.CHECK:
            name = configured.get("log-file") or DEFAULT_LOG
        fd = self._log_file(work, str(name)) if name else log.STDERR
        lines = log.Log(opts.log_level, fd, time.monotonic(), echo=False)  # the client is told by the response
        system = os.uname()
        lines.info("Version: %s (pycriu)", __version__)
        lines.info("Running on %s Linux %s %s %s", system.nodename, system.release, system.version, system.machine)
        lines.info("Asked by %s through RPC: %s", self.peer.name, self.action.name)
        return lines

    def _remark(self, lines: log.Log, values: Values) -> None:
        """Tell of what was asked for and changes nothing."""
        name = self.action.name
        for option in arguments.without_meaning(name, values):
            lines.warn("%s means nothing to %s", option, name)
        for remark in arguments.without_effect(values):
            lines.warn("%s", remark)
        if self.opts.exec_cmd and name != arguments.RESTORE:
            lines.warn("exec_cmd means nothing to %s", name)
        if self.opts.HasField("pidfd_store_sk"):
            lines.info("pidfd_store_sk is left alone: pages are compared with the parent's, whoever has the PID")

    def _log_file(self, work: str, name: str) -> int:
        """A new, empty file of the work directory, not something that lies there in wait for us to write to it."""
        if "/" in name or name in (".", ".."):
            raise UserError(f"log_file {name} is not the name of a file", "it lies in the work directory")
        if not work:
            raise UserError("a log file needs images_dir, images_dir_fd or work_dir_fd")
        fd = self._opened(work, name)
        self._fds.append(fd)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise UserError(f"log_file {name} is there already, and is not a file of its own")
        if not self.peer.trusted and status.st_uid != self.peer.uid:
            raise UserError(f"log_file {name} is there already, and belongs to user {status.st_uid}")
        os.ftruncate(fd, 0)
        return fd

    def _opened(self, work: str, name: str) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            try:
                fd = os.open(f"{work}/{name}", flags | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                return os.open(f"{work}/{name}", flags)
            if not self.peer.trusted:
                os.fchown(fd, self.peer.uid, self.peer.gid)
            return fd
        except OSError as error:
            raise UserError(f"log_file {name}: {os.strerror(error.errno or 0)}") from None


def _merged(*some: Values) -> Values:
    """Options from several places: a later one overrules, but for those that may be given more than once."""
    found: Values = {}
    for values in some:
        for name, value in values.items():
            before = found.get(name)
            both = isinstance(before, tuple) and isinstance(value, tuple)
            found[name] = (*before, *value) if both else value  # type: ignore[misc]
    return found
