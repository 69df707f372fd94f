# SPDX-License-Identifier: GPL-2.0-only
"""fanotify(7): how it was made, and its marks on inodes, mounts and file systems.

CRIU's messages have no marks on file systems; they are in an image of ours. Marks that let the task decide who may open
a file are refused: while the task stands still nobody could open anything there, neither could we. So are events that
nobody has read; see inotify.
"""

from __future__ import annotations

import ctypes
import os

from pycriu.errors import About, ImageError, Unsupported, UserError
from pycriu.fds import watched
from pycriu.fds.kind import Kind
from pycriu.fds.openfile import OpenFile, no_owner
from pycriu.images import messages as m
from pycriu.kernel import procfs
from pycriu.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pycriu.fds.opening import Opening
    from pycriu.fds.saving import Saving
    from pycriu.images.store import ImagesDir, NewCheckpoint
    from pycriu.log import Log

FAN_NONBLOCK = 2
FAN_MARK_ADD, FAN_MARK_IGNORED_MASK, FAN_MARK_IGNORED_SURV_MODIFY, FAN_MARK_IGNORE = 1, 0x20, 0x40, 0x400
FAN_MARK_EVICTABLE = 0x200
PERMISSION_EVENTS = 0x10000 | 0x20000 | 0x40000 | 0x100000  # OPEN, ACCESS, OPEN_EXEC, PRE_ACCESS
INODE, MOUNT, FILESYSTEM = 0, 0x10, 0x100  # FAN_MARK_*
_TYPES = {INODE: 1, MOUNT: 2}  # mark_type
AT_FDCWD = -100
_IMAGE = "pycriu-fanotify.img"  # fanotify_mark_entry of type MOUNT, each a mark on the whole file system there


@record
class Mark:
    """One mark, as fdinfo has it."""

    type: int
    flags: int
    mask: int
    ignored: int
    mount: int  # of a mark on a mount: its number
    target: watched.Target  # of a mark on a file system: its device, inode 0


def parse(fdinfo: str) -> list[Mark]:
    """The `fanotify` lines but the first, which tells how it was made; fs/notify/fdinfo.c."""
    marks = []
    for line in fdinfo.splitlines():
        words = watched.fields(line)
        if not line.startswith("fanotify ") or "event-flags" in words:
            continue
        flags, mask, ignored = (int(words[name], 16) for name in ("mflags", "mask", "ignored_mask"))
        if "ino" in words:
            marks.append(Mark(INODE, flags, mask, ignored, 0, watched.target(words)))
        elif "mnt_id" in words:
            nothing = watched.Target(0, 0)
            marks.append(Mark(MOUNT, flags, mask, ignored, int(words["mnt_id"], 16), nothing))
        elif "sdev" in words:
            marks.append(Mark(FILESYSTEM, flags, mask, ignored, 0, watched.Target(int(words["sdev"], 16), 0)))
        else:
            raise Unsupported(f"a mark of a kind that is not known: {line}")
    return marks


def made_with(fdinfo: str) -> tuple[int, int]:
    """The two arguments of fanotify_init(2)."""
    words = next(watched.fields(line) for line in fdinfo.splitlines() if line.startswith("fanotify flags:"))
    return int(words["flags"], 16), int(words["event-flags"], 16)


class Fanotify(Kind):
    """A group of marks."""

    TYPE = 12  # fd_types.FANOTIFY
    NAME = "fanotify"

    def __init__(self, options: Any, log: Log) -> None:
        super().__init__(options, log)
        self._paths = watched.Paths(options)
        self._found: dict[int, tuple[int, int, list[tuple[Mark, str]]]] = {}
        self._entries: list[Any] = []
        self._filesystems: list[Any] = []

    # ------------------------------------------------------------------------------------------------------------ dump

    def matches(self, file: OpenFile) -> bool:
        """By the name of its anonymous inode."""
        return file.link == "anon_inode:[fanotify]"

    def inspect(self, file: OpenFile) -> None:
        """Unsupported for marks that decide about others, and for those of what cannot be found again."""
        for mark in parse(procfs.text(file.pid, f"fdinfo/{file.fd}")):
            if (mark.mask | mark.ignored) & PERMISSION_EVENTS:
                raise Unsupported(
                    f"{file.name} decides who may open files (FAN_OPEN_PERM and its like)",
                    "nobody could open a file there while it is stopped; let the task remove those marks first",
                )
            self._path(file, mark)

    def _path(self, file: OpenFile, mark: Mark) -> str:
        if mark.type == INODE:
            return self._paths.of(file, mark.target)
        for mount in reversed(watched.mounts()):
            if mark.type == MOUNT and mount.id == mark.mount:
                return mount.point
            if mark.type == FILESYSTEM and mount.device == mark.target.device:
                return mount.point
        what = f"mount {mark.mount}" if mark.type == MOUNT else f"device {mark.target.device:#x}"
        raise Unsupported(f"{file.name} watches {what}, which is not mounted here", "let the task remove that mark")

    def gather(self, files: list[OpenFile], saving: Saving) -> None:
        """The marks; Unsupported where events wait to be read."""
        for number, file in saving.unseen(files, self._found):
            with About(file):
                watched.refuse_unread(file)
                fdinfo = procfs.text(file.pid, f"fdinfo/{file.fd}")
                self._found[number] = (*made_with(fdinfo), [(mark, self._path(file, mark)) for mark in parse(fdinfo)])

    def dump(self, file: OpenFile, number: int, saving: Saving) -> Any:
        """Its message; marks on file systems are kept for `write`."""
        flags, event_flags, marks = self._found[number]
        entry = m.fanotify_file_entry(
            id=number, flags=file.flags, fown=no_owner(), faflags=flags, evflags=event_flags,
            mark=[mark_entry(number, mark, path) for mark, path in marks if mark.type != FILESYSTEM],
        )  # fmt: skip
        self._filesystems += [mark_entry(number, mark, path) for mark, path in marks if mark.type == FILESYSTEM]
        return m.file_entry(type=self.TYPE, id=number, ffy=entry)

    def write(self, new: NewCheckpoint) -> None:
        """Marks on file systems."""
        if self._filesystems:
            new.write(_IMAGE, self._filesystems)

    # --------------------------------------------------------------------------------------------------------- restore

    def read(self, images: ImagesDir, entries: list[Any]) -> None:
        """All that is marked must be there."""
        self._entries = entries
        if images.exists(_IMAGE):
            self._filesystems = images.read(_IMAGE)
        known = {entry.id for entry in entries}
        for mark in self._filesystems:
            if mark.id not in known:
                raise ImageError(f"{_IMAGE}: no fanotify group has the id {mark.id}")
        for mark in [mark for entry in entries for mark in entry.ffy.mark] + self._filesystems:
            with About():
                os.close(_reopen(mark))

    def open(self, entry: Any, opening: Opening) -> int:
        """A new group without marks."""
        flags = entry.ffy.faflags & ~FAN_NONBLOCK  # FAN_CLOEXEC, too, as it was: fdinfo shows it for ever
        if entry.ffy.flags & os.O_NONBLOCK:
            flags |= FAN_NONBLOCK
        return watched.limited("fanotify_init", flags, entry.ffy.evflags, what=f"file {entry.id}")

    def finish(self, opening: Opening) -> None:
        """Add the marks."""
        for entry in self._entries:
            for mark in entry.ffy.mark:
                _add(opening.fd(entry.id), mark, MOUNT if mark.type == _TYPES[MOUNT] else INODE)
        for mark in self._filesystems:
            _add(opening.fd(mark.id), mark, FILESYSTEM)


def mark_entry(number: int, mark: Mark, path: str) -> Any:
    """fanotify_mark_entry."""
    entry = m.fanotify_mark_entry(
        id=number, type=_TYPES.get(mark.type, _TYPES[MOUNT]), mflags=mark.flags, mask=mark.mask,
        ignored_mask=mark.ignored, s_dev=mark.target.device,
    )  # fmt: skip
    if mark.type == INODE:
        handle = watched.handle_entry(mark.target, path)
        entry.ie.CopyFrom(m.fanotify_inode_mark_entry(i_ino=mark.target.inode, f_handle=handle))
    else:
        entry.me.CopyFrom(m.fanotify_mount_mark_entry(mnt_id=mark.mount, path=path))
    return entry


def _reopen(mark: Any) -> int:
    if mark.type == _TYPES[INODE]:
        wanted = watched.read_target(mark.s_dev, mark.ie.i_ino, mark.ie.f_handle)
        return watched.reopen(wanted, mark.ie.f_handle.path, "fanotify")
    if not mark.me.path.startswith("/") or "\0" in mark.me.path:
        raise ImageError(f"the path {mark.me.path!r} of a mark is not absolute")
    if mark.me.path not in [mount.point for mount in watched.mounts()]:
        raise UserError(f"{mark.me.path}, which fanotify watches, is no longer a mount point", "mount what was there")
    try:
        return os.open(mark.me.path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        raise UserError(f"{mark.me.path}, which fanotify watches, cannot be opened: {error.strerror}") from None


def _add(fd: int, mark: Any, kind: int) -> None:
    """fanotify_mark(2), once for what is told and once for what is ignored."""
    there = _reopen(mark)
    try:
        path = ctypes.create_string_buffer(b"/proc/self/fd/%d" % there)
        flags = FAN_MARK_ADD | kind
        what = mark.me.path or mark.ie.f_handle.path
        if mark.mask:
            evictable = mark.mflags & FAN_MARK_EVICTABLE
            watched.limited(
                "fanotify_mark", fd, flags | evictable, mark.mask, AT_FDCWD, ctypes.addressof(path), what=what
            )
        if mark.ignored_mask:
            how = mark.mflags & (FAN_MARK_IGNORE | FAN_MARK_IGNORED_SURV_MODIFY | FAN_MARK_EVICTABLE)
            flags |= how if how & FAN_MARK_IGNORE else how | FAN_MARK_IGNORED_MASK
            watched.limited("fanotify_mark", fd, flags, mark.ignored_mask, AT_FDCWD, ctypes.addressof(path), what=what)
    finally:
        os.close(there)
