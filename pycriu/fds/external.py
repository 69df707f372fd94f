# SPDX-License-Identifier: GPL-2.0-only
"""Open files that the user names: not saved (--external), and given back by the user at the restore (--inherit-fd).

A dump takes `file[MNT:INODE]`, `tty[RDEV:DEV]` (hexadecimal, as CRIU has them), `pipe[INODE]`; any descriptor can be
named so, whatever is open there. It becomes the file_entry that CRIU writes for an external file, with that name for a
path. A restore takes `fd[N]:NAME`, where NAME is such a name, or that of a file of the images: its path, `pipe:[ID]`,
`socket:[INODE]`, `/memfd:NAME`. The tasks get a copy of our descriptor N instead of the file.
"""

from __future__ import annotations

import os
import stat

from pycriu.errors import Unsupported, UserError
from pycriu.fds.kind import Kind
from pycriu.fds.openfile import OpenFile, no_owner
from pycriu.images import messages as m

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from pycriu.fds.saving import Saving
    from pycriu.fds.table import Kinds
    from pycriu.log import Log

REG, PIPE, INET, UNIX, MEMFD = 1, 2, 4, 5, 18  # fd_types
_NEVER_HERE = {
    "mnt": "mounts are neither saved nor restored",
    "dev": "mounts are neither saved nor restored, and so are the devices below them",
    "net": "tasks come back in the network namespace of the restore",
    "pid": "tasks come back in the PID namespace of the restore",
    "veth": "pycriu makes no network namespaces, so it connects none",
    "macvlan": "pycriu makes no network namespaces, so it connects none",
    "netdev": "pycriu moves no network devices",
}


def for_dump(resources: Sequence[str], ext_unix_sk: str | None) -> tuple[tuple[str, ...], str | None]:
    """`external` and `ext_unix_sk` of DumpOptions: UNIX sockets that are named join those of --ext-unix-sk."""
    names, sockets = check(resources, dumping=True)
    if sockets and ext_unix_sk != "":
        ext_unix_sk = ",".join([*([ext_unix_sk] if ext_unix_sk else []), *sockets])
    return tuple(names), ext_unix_sk


def check(resources: Sequence[str], *, dumping: bool) -> tuple[list[str], list[str]]:
    """The names of open files, and the inodes of UNIX sockets, among what --external gives; UserError for the rest."""
    names, sockets = [], []
    for resource in resources:
        kind, bracket, rest = resource.partition("[")
        if kind in _NEVER_HERE and bracket:
            raise UserError(f"--external {resource}: {_NEVER_HERE[kind]}")
        numbers = _numbers(kind, rest) if bracket and rest.endswith("]") and dumping else None
        if numbers is None:
            raise UserError(
                f"--external {resource}: not a resource that {'can be external' if dumping else 'a restore needs'}",
                "a dump takes file[MNT:INODE], tty[RDEV:DEV], pipe[INODE], unix[INODE]" if dumping else
                "name it at the dump; here --inherit-fd fd[N]:NAME gives it back",
            )  # fmt: skip
        if kind == "unix":
            sockets.append(str(numbers[0]))
        else:
            names.append(_name(kind, *numbers))
    return names, sockets


def _numbers(kind: str, rest: str) -> tuple[int, ...] | None:
    base, count = {"file": (16, 2), "tty": (16, 2), "pipe": (10, 1), "unix": (10, 1)}.get(kind, (0, 0))
    words = rest[:-1].lstrip(":[").split(":") if kind == "pipe" else rest[:-1].split(":")
    try:
        numbers = tuple(int(word, base) for word in words)
    except ValueError:
        return None
    return numbers if count and len(numbers) == count and min(numbers) >= 0 else None


def _name(kind: str, first: int, second: int = 0) -> str:
    return f"pipe:[{first}]" if kind == "pipe" else f"{kind}[{first:x}:{second:x}]"


class External(Kind):
    """Whatever the user has named at a dump."""

    TYPE = REG  # as which it is in the images

    def __init__(self, options: Any, log: Log) -> None:
        super().__init__(options, log)
        self._wanted: set[str] = set(options.external)
        self._seen: set[str] = set()

    def matches(self, file: OpenFile) -> bool:
        """Named by one of its names."""
        return self._name_of(file) is not None

    def _name_of(self, file: OpenFile) -> str | None:
        status = file.status
        names = [_name("file", int(file.fdinfo.get("mnt_id", "0")), status.st_ino)]
        if stat.S_ISCHR(status.st_mode):
            names.append(_name("tty", status.st_rdev, status.st_dev))
        elif stat.S_ISFIFO(status.st_mode):
            names.append(_name("pipe", status.st_ino))
        return next((name for name in names if name in self._wanted), None)

    def gather(self, files: list[OpenFile], saving: Saving) -> None:
        """Unsupported for a terminal that a session of the tree has for its own: that bond would be lost."""
        leaders = {one.stat.tty_nr for one in saving.root.walk() if one.stat.session == one.pid and one.stat.tty_nr}
        for file in files:
            self._seen.add(self._name_of(file) or "")
            device = file.status.st_rdev
            if stat.S_ISCHR(file.status.st_mode) and os.major(device) << 8 | os.minor(device) in leaders:
                raise Unsupported(
                    f"{file.name} is the controlling terminal of a session of the tree, and cannot be external",
                    "dump a tree that does not lead the session, with --shell-job",
                )

    def settle(self, saving: Saving) -> None:
        """What was named in vain is told."""
        for name in sorted(self._wanted - self._seen):
            self.log.warn("--external %s: nobody in the tree has it open", name)

    def dump(self, file: OpenFile, number: int, saving: Saving) -> Any:
        """A path that names it, as CRIU has it."""
        return entry(file, number, self._name_of(file) or "")


def entry(file: OpenFile, number: int, name: str) -> Any:
    """The file_entry of what is left out: a path that names it, as CRIU has it."""
    reg = m.reg_file_entry(
        id=number, flags=file.flags, pos=0, fown=no_owner(), name=f"/{name}", ext=True, mode=file.status.st_mode
    )
    return m.file_entry(type=REG, id=number, reg=reg)


class Inherited:
    """Descriptors of ours that take the place of files of the images."""

    def __init__(self, given: Sequence[str], log: Log) -> None:
        self._log = log
        self._fds: dict[str, int] = {}
        self._used: set[str] = set()
        for one in given:
            number, colon, name = one.removeprefix("fd[").partition("]:")
            if not (one.startswith("fd[") and colon and name and number.isascii() and number.isdigit()):
                raise UserError(f"--inherit-fd {one}: not fd[N]:NAME", "such as fd[5]:var/log/app.log")
            try:
                os.fstat(int(number))
            except (OSError, OverflowError):
                raise UserError(f"--inherit-fd {one}: descriptor {number} is not open") from None
            if _key(name) in self._fds:
                raise UserError(f"--inherit-fd {one}: {name} is given twice")
            self._fds[_key(name)] = int(number)

    def replaces(self, entry: Any, kinds: Kinds) -> bool:
        """Whether the kind of a socket need not make it."""
        return entry.type in (UNIX, INET) and self.has(entry, kinds)

    def has(self, entry: Any, kinds: Kinds) -> bool:
        """Whether a descriptor was given for this file_entry."""
        return any(name in self._fds for name in _names(entry, kinds))

    def take(self, entry: Any, kinds: Kinds) -> int:
        """A copy of the descriptor for this file_entry; -1 where none was given."""
        for name in _names(entry, kinds):
            if name in self._fds:
                self._used.add(name)
                return os.dup(self._fds[name])
        return -1

    def tell_unused(self) -> None:
        """What was given in vain."""
        for name in sorted(self._fds.keys() - self._used):
            self._log.warn("--inherit-fd fd[%d]:%s: no file of the images has this name", self._fds[name], name)


def _key(name: str) -> str:
    """Without a slash in front; pipe[5] and socket[5] as CRIU also spells pipe:[5] and socket:[5]."""
    for kind in ("pipe", "socket"):
        name = name.replace(f"{kind}[", f"{kind}:[") if name.startswith(f"{kind}[") else name
    return name.removeprefix("/")


def _names(entry: Any, kinds: Kinds) -> list[str]:
    if entry.type == REG:
        return [entry.reg.name.removeprefix("/")]
    if entry.type == PIPE:
        return [f"pipe:[{entry.pipe.pipe_id}]"]
    if entry.type == UNIX:
        return [f"socket:[{entry.usk.ino}]"]
    if entry.type == INET:
        return [f"socket:[{entry.isk.ino}]"]
    if entry.type == MEMFD:
        return [f"memfd:{kinds.find('memfd').name_of(entry)}"]
    return []
