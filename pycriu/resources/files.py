# SPDX-License-Identifier: GPL-2.0-only
"""A process's descriptor table, working directory, root and umask; and the files image that all tasks share."""

from __future__ import annotations

import fcntl
import os

from pycriu.errors import ImageError, TraceeGone, Unsupported
from pycriu.fds import pipe, regular, table
from pycriu.fds.openfile import FD_CLOEXEC, OpenFile
from pycriu.fds.openfile import look as look_descriptors
from pycriu.images import messages as m
from pycriu.kernel import procfs
from pycriu.record import record
from pycriu.sharing import FileIds
from pycriu.tracee import Row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

NR_OPEN = 1 << 20  # fs.nr_open as the kernel is built; more descriptors than that are no image of ours


@record
class Files:
    """One process: its descriptors, each with the module of its kind, and the places it stands in."""

    descriptors: tuple[tuple[OpenFile, ModuleType], ...]
    cwd: tuple[str, os.stat_result]
    root: tuple[str, os.stat_result]
    exe: tuple[str, os.stat_result]
    umask: int


def look(pid: int, status: dict[str, str]) -> Files:
    """Everything of a stopped process; Unsupported names the first descriptor or place that cannot be kept."""
    descriptors = tuple((file, table.kind_of(file)) for file in look_descriptors(pid))
    return Files(descriptors, _place(pid, "cwd"), _root(pid), _place(pid, "exe"), int(status["Umask"], 8))


def _place(pid: int, name: str) -> tuple[str, os.stat_result]:
    path = procfs.link(pid, name)
    try:
        status = os.stat(f"/proc/{pid}/{name}")
    except FileNotFoundError:
        raise TraceeGone(f"process {pid} is gone") from None
    regular.check_path(path, status, f"the {_PLACES[name]} of process {pid} ({path})")
    return path, status


_PLACES = {"cwd": "working directory", "exe": "program", "root": "root directory"}


def _root(pid: int) -> tuple[str, os.stat_result]:
    path, status = _place(pid, "root")
    here = os.stat("/")
    if (status.st_dev, status.st_ino) != (here.st_dev, here.st_ino):
        raise Unsupported(f"process {pid} has another root directory ({path})", "chroot(2) is not supported")
    return path, status


def pipes(all_files: list[Files]) -> list[tuple[int, int, bytes]]:
    """The contents of every pipe of the tree; Unsupported where one leads out of it."""
    descriptors = [file for files in all_files for file, _ in files.descriptors]
    table.inspect_all(descriptors)
    return pipe.contents([file for file in descriptors if pipe.matches(file)])


class Builder:
    """The files image in the making: every open file once, and the tables that refer to it.

    Made while all processes are stopped: kcmp(2) must find them all. Everything else can wait.
    """

    def __init__(self, all_files: list[Files]) -> None:
        self._ids = FileIds()
        self._by_path: dict[tuple[str, int], int] = {}
        self._numbers = {
            (file.pid, file.fd): self._ids.of(file) for files in all_files for file, _ in files.descriptors
        }
        self.entries: list[Any] = []
        self.written: set[str] = set()  # regular files that the tree can write to

    def descriptor_table(self, files: Files) -> list[Any]:
        """The fdinfo image of one process."""
        return [self._descriptor(file, kind) for file, kind in files.descriptors]

    def _descriptor(self, file: OpenFile, kind: ModuleType) -> Any:
        number, first = self._numbers[file.pid, file.fd]
        if first:
            self.entries.append(kind.dump(file, number))
            if kind is regular and file.flags & os.O_ACCMODE and not file.is_character_device():
                self.written.add(file.link)
        flags = FD_CLOEXEC if file.close_on_exec else 0
        return m.fdinfo_entry(id=number, flags=flags, type=kind.TYPE, fd=file.fd)

    def place(self, path: str, status: os.stat_result, flags: int = os.O_RDONLY) -> int:
        """The id of a file that is referred to by path: a mapping's, the program's, a directory's."""
        key = (path, flags)
        if key not in self._by_path:
            self._by_path[key] = self._ids.fresh()
            self.entries.append(regular.entry(self._by_path[key], path, flags, 0, status))
        return self._by_path[key]

    def fs_entry(self, files: Files) -> Any:
        """The fs image of one process."""
        cwd, root = (self.place(*where, os.O_RDONLY | os.O_DIRECTORY) for where in (files.cwd, files.root))
        return m.fs_entry(cwd_id=cwd, root_id=root, umask=files.umask)


# ---------------------------------------------------------------------------------------------------------- restore


class Opened:
    """The files of an image, open in this process on inheritable descriptors from `base` upwards.

    New tasks are forks of this process and of each other, so they are born with all of them, at the same numbers.
    """

    def __init__(self, entries: list[Any], pipes_data: list[tuple[Any, bytes]], base: int) -> None:
        self._base = base
        self._kept: list[int] = []
        self.fd_of: dict[int, int] = {}
        restorer = table.Restorer(pipes_data)
        try:
            for entry in entries:
                self.fd_of[entry.id] = self.adopt(restorer.open(entry))
        except BaseException:
            self.close()
            raise
        finally:
            restorer.close()

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def adopt(self, fd: int) -> int:
        """Move `fd` out of the way of the numbers that tasks use, and let it be inherited."""
        try:
            kept = fcntl.fcntl(fd, fcntl.F_DUPFD, self._base)
        finally:
            os.close(fd)
        self._kept.append(kept)
        return kept

    def close(self) -> None:
        """Close our copies."""
        for fd in self._kept:
            os.close(fd)
        self._kept = []


def base_number(tables: list[list[Any]]) -> int:
    """The lowest number that is above every descriptor of every table; ImageError for numbers out of bounds."""
    highest = max((entry.fd for entries in tables for entry in entries), default=0)
    if highest >= NR_OPEN:
        raise ImageError(f"descriptor number {highest} is out of bounds")
    return int(highest) + 1


def check_ids(tables: list[list[Any]], places: list[int], entries: list[Any]) -> None:
    """ImageError where a table or a place refers to a file that the image does not have."""
    known = {entry.id: entry.type for entry in entries}
    if len(known) != len(entries):
        raise ImageError("two files of the image have the same id")
    for entry in (entry for one in tables for entry in one):
        if known.get(entry.id) != entry.type:
            raise ImageError(f"descriptor {entry.fd} refers to file {entry.id}, which the files image does not have")
    missing = [number for number in places if number not in known]
    if missing:
        raise ImageError(f"file {missing[0]} is referred to, but is not in the files image")


def descriptor_rows(entries: list[Any], fd_of: dict[int, int], present: list[int]) -> list[Row]:
    """Give each file its number; then close `present`, what the task was born with, unless it is now one of those."""
    wanted = {entry.fd for entry in entries}
    rows = [
        Row(
            "dup3",
            fd_of[entry.id],
            entry.fd,
            os.O_CLOEXEC if entry.flags & FD_CLOEXEC else 0,
            what=f"descriptor {entry.fd}",
        )
        for entry in entries
    ]
    return rows + [Row("close", fd) for fd in present if fd not in wanted]


def place_rows(fs: Any, fd_of: dict[int, int]) -> list[Row]:
    """Working directory and umask. The root directory is ours: dump and restore refuse any other."""
    return [Row("fchdir", fd_of[fs.cwd_id], what="working directory"), Row("umask", fs.umask)]


def refuse_other_root(fs: Any, entries: list[Any]) -> None:
    """Unsupported where the image's root directory is not /."""
    for entry in entries:
        if entry.id == fs.root_id and entry.reg.name != "/":
            raise Unsupported(f"the task had the root directory {entry.reg.name}", "chroot(2) is not supported")
