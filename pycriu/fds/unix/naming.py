# SPDX-License-Identifier: GPL-2.0-only
"""Binding UNIX sockets to the names they had: abstract ones, paths, and paths that lead nowhere any more.

The kernel tells a socket's name in the words that bind(2) was given. So a socket whose file has been renamed or deleted
is bound to those words where they lead to an empty directory of ours, by chroot(2); the file is then moved or deleted.
"""

from __future__ import annotations

import _socket
import os
import stat

from pycriu.errors import About, ImageError, KernelError, UserError
from pycriu.kernel import sockdiag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

EADDRINUSE = 98
_SOMEWHERE = ("/tmp", "/run", "/var/tmp", "/")
_DEEP = "d"


class Name:
    """The name of a socket and the file that belongs to it. `where` is None for a file that nobody can find."""

    def __init__(self, name: bytes, directory: str, where: str | None, perms: Any) -> None:
        self.name = name
        self.directory = directory  # what a relative path begins in
        self.where = where
        self.perms = perms

    @property
    def is_path(self) -> bool:
        """Whether it is in a file system."""
        return bool(self.name) and self.name[0] != 0

    @property
    def words(self) -> str:
        """For messages; abstract names with @, as ss(8) shows them."""
        return self.name.decode("utf-8", "backslashreplace").replace("\0", "@")


NONE = Name(b"", "/", None, None)


def of_entry(entry: Any, where: bytes | None) -> Name:
    """The name in a unix_sk_entry; ImageError for an impossible one. `where` is its file if that was renamed."""
    name: bytes = entry.name
    if name and name[0]:
        name = name.removesuffix(b"\0")
    if len(name) > 108 or (name and name[0] and b"\0" in name):
        raise ImageError(f"UNIX socket {entry.id} has an impossible name {name!r}")
    path = os.path.join(entry.name_dir or "/", os.fsdecode(name)) if name and name[0] else None
    if where is not None:
        path = os.fsdecode(where)
    if path is not None and (not path.startswith("/") or "\0" in path):
        raise ImageError(f"UNIX socket {entry.id} has a file with an impossible path {path!r}")
    if entry.deleted:
        path = None
    return Name(name, entry.name_dir or "/", path, entry.file_perms if entry.HasField("file_perms") else None)


def refuse_taken(names: list[Name]) -> None:
    """UserError where the file of a name belongs to somebody's socket, or is none."""
    paths = {name.where: name for name in names if name.where}
    if not paths:
        return
    live = {row.file for row in sockdiag.unix().values() if row.file}
    for path in paths:
        with About():
            _refuse_taken(path, live)


def refuse_abstract(name: Name) -> None:
    """UserError where an abstract name is somebody's; making the socket says the same."""
    if name.name and not name.is_path and any(row.name == name.name for row in sockdiag.unix().values()):
        raise _taken(name.words)


def demand(name: Name) -> None:
    """UserError where nobody has a name; connecting to it says the same."""
    if not any(row.name == name.name for row in sockdiag.unix().values()):
        raise UserError(
            f"the UNIX socket {name.words} outside the tree, to which one was connected, is not there",
            "start the service that has it before the restore",
        )


def _refuse_taken(path: str, live: set[tuple[int, int]]) -> None:
    if not os.path.isdir(os.path.dirname(path)):
        raise UserError(f"the directory of the UNIX socket {path} is not there", "make it, as it was at the dump")
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise UserError(f"{path} should be a UNIX socket, but another file is there", "move it away")
    device = os.major(status.st_dev) << 20 | os.minor(status.st_dev)
    if (status.st_ino & 0xFFFFFFFF, device) in live:
        raise UserError(f"{path} is the UNIX socket of another process by now", "end that process first")


def _taken(words: str) -> UserError:
    return UserError(f"the name {words} is in use by another UNIX socket", "end its owner first")


def bind(fd: int, name: Name) -> int:
    """Bind our socket; a descriptor (O_PATH) of its file, -1 where there is none. The caller closes it."""
    if not name.name:
        return -1
    if not name.is_path:
        _bind(fd, name.name, name.words)
        return -1
    text = os.fsdecode(name.name)
    if name.where is not None and os.path.join(name.directory, text) == name.where:
        return _bind_there(fd, name, name.where)
    base = (
        os.path.dirname(name.where) if name.where else next(place for place in _SOMEWHERE if os.access(place, os.W_OK))
    )
    return _bind_elsewhere(fd, name, text, base)


def address(name: Name, path_fd: int) -> bytes:
    """struct sockaddr_un that leads to a bound socket of ours, wherever its file is by now."""
    if name.is_path:
        return sockaddr(f"/proc/{os.getpid()}/fd/{path_fd}".encode())
    return sockaddr(name.name)


def sockaddr(name: bytes) -> bytes:
    """struct sockaddr_un for a name."""
    return (1).to_bytes(2, "little") + name + (b"\0" if name and name[0] else b"")


def _bind(fd: int, name: bytes, words: str) -> None:
    one = _socket.socket(fileno=fd)
    try:
        one.bind(name)
    except OSError as error:
        if error.errno == EADDRINUSE:
            raise _taken(words) from None
        raise KernelError("bind", error.errno or 0, words) from None
    finally:
        one.detach()


def _bind_there(fd: int, name: Name, where: str) -> int:
    """To its own path, in place of what a dead socket has left there (`refuse_taken` has looked)."""
    if os.path.lexists(where):
        os.unlink(where)
    with elsewhere("", name.directory):
        _bind(fd, name.name, name.words)
    _set_permissions(where, name.perms)
    return os.open(where, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)


def _bind_elsewhere(fd: int, name: Name, text: str, base: str) -> int:
    """To the same words in a directory of ours on the disk of the real one; the file is then moved or deleted."""
    yard = f"{base.rstrip('/')}/.pycriu-{os.getpid()}-{fd}"
    climbs = 0 if text.startswith("/") else text.split("/").count("..")
    start = "/" + "/".join([_DEEP] * climbs)
    folders, file = _way(start, text)
    os.mkdir(yard, 0o700)
    try:
        for folder in folders:
            os.mkdir(yard + folder, 0o700)
        with elsewhere(yard, start):
            _bind(fd, name.name, name.words)
        _set_permissions(yard + file, name.perms)
        path_fd = os.open(yard + file, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        if name.where:
            os.rename(yard + file, name.where)
        return path_fd
    finally:
        if os.path.lexists(yard + file):
            os.unlink(yard + file)
        for folder in (*reversed(folders), ""):
            if os.path.isdir(yard + folder):
                os.rmdir(yard + folder)


def _way(start: str, text: str) -> tuple[list[str], str]:
    """The directories that must be there for a path to be one, parents first, and where it leads."""
    here, folders = "/", ["/"]
    for word in [*start.split("/"), *text.split("/")[:-1]]:
        here = os.path.normpath(os.path.join(here, word))
        folders.append(here)
    return sorted({*folders} - {"/"}), os.path.join(here, text.rsplit("/", 1)[-1])


def _set_permissions(path: str, perms: Any) -> None:
    if perms is not None:
        os.chown(path, perms.uid, perms.gid, follow_symlinks=False)
        os.chmod(path, perms.mode & 0o7777)


class elsewhere:  # noqa: N801 - reads as a word where it is used
    """A scope with another root directory (empty: ours) and working directory. Nothing is imported within it."""

    def __init__(self, root: str, directory: str) -> None:
        self._root, self._directory = root, directory

    def __enter__(self) -> None:
        self._back = [os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for place in ("/", ".")]
        try:
            if self._root:
                os.chroot(self._root)
            os.chdir(self._directory)
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        root, directory = self._back
        try:
            if self._root:
                os.fchdir(root)
                os.chroot(".")
            os.fchdir(directory)
        finally:
            for fd in self._back:
                os.close(fd)
