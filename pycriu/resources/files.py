# SPDX-License-Identifier: GPL-2.0-only
"""A process's descriptor table, working directory, root and umask; and the files image that all tasks share."""

from __future__ import annotations

import os

from pycriu.errors import About, ImageError
from pycriu.fds.openfile import FD_CLOEXEC, Place
from pycriu.fds.openfile import look as look_descriptors
from pycriu.images import messages as m
from pycriu.kernel import procfs
from pycriu.record import record
from pycriu.tracing.tracee import Remote, Row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pycriu.fds.kind import Kind
    from pycriu.fds.openfile import OpenFile
    from pycriu.fds.saving import Known, Saving
    from pycriu.fds.table import Kinds

NR_OPEN = 1 << 20  # fs.nr_open as the kernel is built; more descriptors than that are no image of ours


@record
class Files:
    """One process: its descriptors, each with the object for its kind, and the places it stands in."""

    descriptors: tuple[Known, ...]
    cwd: Place
    root: Place
    exe: Place
    umask: int


def look(pid: int, status: dict[str, str], kinds: Kinds, shared: Files | None = None) -> Files:
    """Everything of a stopped process; Unsupported names the first descriptor or place that cannot be kept.

    `shared` is of a process that has the same descriptor table.
    """
    descriptors = (
        tuple((file, _kind(file, kinds)) for file in look_descriptors(pid)) if shared is None else shared.descriptors
    )
    cwd, root, exe = (_place(pid, name, kinds) for name in ("cwd", "root", "exe"))
    return Files(descriptors, cwd, root, exe, int(status["Umask"], 8))


def _kind(file: OpenFile, kinds: Kinds) -> Kind:
    with About(file):
        return kinds.of(file)
    return kinds.refused


def _place(pid: int, name: str, kinds: Kinds) -> Place:
    path = procfs.link(pid, name)
    status = procfs.target(pid, name)
    place = Place(path, status, f"/proc/{pid}/{name}", f"the {_PLACES[name]} of process {pid} ({path})")
    with About(pid):
        kinds.regular.inspect_place(place)
    return place


_PLACES = {"cwd": "working directory", "exe": "program", "root": "root directory"}


def places(files: Files) -> list[tuple[Place, int]]:
    """The places of a process, with the flags to open them."""
    return [(files.exe, os.O_RDONLY), (files.cwd, _DIRECTORY), (files.root, _DIRECTORY)]


_DIRECTORY = os.O_PATH | os.O_DIRECTORY  # opened otherwise, it would be told to who watches it


def descriptor_table(files: Files, saving: Saving) -> list[Any]:
    """The fdinfo image of one process."""
    return [
        m.fdinfo_entry(
            id=saving.number_of(file.pid, file.fd),
            flags=FD_CLOEXEC if file.close_on_exec else 0,
            type=kind.type_of(file),
            fd=file.fd,
        )
        for file, kind in files.descriptors
    ]


def fs_entry(files: Files, saving: Saving) -> Any:
    """The fs image of one process."""
    cwd, root = (saving.place(where, _DIRECTORY) for where in (files.cwd, files.root))
    return m.fs_entry(cwd_id=cwd, root_id=root, umask=files.umask)


# ---------------------------------------------------------------------------------------------------------- restore


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
    """Give each file its number; then close everything else up to the highest of `present`, what the task has now."""
    wanted = sorted({entry.fd for entry in entries})
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
    free = 0
    for number in (*wanted, max([*present, *wanted], default=-1) + 1):
        if free < number:
            rows.append(Row("close_range", free, number - 1, 0))
        free = number + 1
    return rows


def place_rows(fs: Any, fd_of: dict[int, int], remote: Remote) -> list[Row]:
    """Root directory (chroot(2)), working directory and umask. Every path in the images counts from our own root."""
    rows = []
    root, here = os.fstat(fd_of[fs.root_id]), os.stat("/")
    if (root.st_dev, root.st_ino) != (here.st_dev, here.st_ino):
        what = "root directory"
        rows += [Row("fchdir", fd_of[fs.root_id], what=what), Row("chroot", remote.data(b".\0"), what=what)]
    return [*rows, Row("fchdir", fd_of[fs.cwd_id], what="working directory"), Row("umask", fs.umask)]
