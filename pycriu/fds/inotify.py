# SPDX-License-Identifier: GPL-2.0-only
"""inotify(7): what is watched, for what, under which numbers.

Events that nobody has read are refused: no call can put them back, and a task that is not told of a change relies on
what is no longer so. Watches are added when everything else is done, so that they do not see what a restore does.
"""

from __future__ import annotations

import ctypes
import fcntl
import os

from pycriu.errors import About, ImageError, KernelError
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
    from pycriu.images.store import ImagesDir
    from pycriu.log import Log

INOTIFY_IOC_SETNEXTWD = 0x40044900
# IN_ALL_EVENTS, IN_UNMOUNT, IN_EXCL_UNLINK, IN_ONESHOT: what a watch is made with; fdinfo shows more on old kernels
MASK = 0xFFF | 0x2000 | 0x0400_0000 | 0x8000_0000
_NO_EVENTS = 0x2000
MAX_WD = (1 << 31) - 1


@record
class Watch:
    """One watch, as fdinfo has it."""

    number: int
    mask: int
    target: watched.Target


def parse(fdinfo: str) -> list[Watch]:
    """The `inotify` lines."""
    lines = [watched.fields(line) for line in fdinfo.splitlines() if line.startswith("inotify ")]
    return [Watch(int(one["wd"], 16), int(one["mask"], 16), watched.target(one)) for one in lines]


class Inotify(Kind):
    """A set of watches."""

    TYPE = 8  # fd_types.INOTIFY
    NAME = "inotify"

    def __init__(self, options: Any, log: Log) -> None:
        super().__init__(options, log)
        self._paths = watched.Paths(options)
        self._found: dict[int, list[tuple[Watch, str]]] = {}
        self._entries: list[Any] = []

    # ------------------------------------------------------------------------------------------------------------ dump

    def matches(self, file: OpenFile) -> bool:
        """By the name of its anonymous inode."""
        return file.link == "anon_inode:inotify"

    def inspect(self, file: OpenFile) -> None:
        """Unsupported for a watch of what cannot be found again."""
        for watch in parse(procfs.text(file.pid, f"fdinfo/{file.fd}")):
            with About(file):
                self._paths.of(file, watch.target)

    def gather(self, files: list[OpenFile], saving: Saving) -> None:
        """The watches; Unsupported where events wait to be read."""
        for number, file in saving.unseen(files, self._found):
            with About(file):
                watched.refuse_unread(file)
                watches = parse(procfs.text(file.pid, f"fdinfo/{file.fd}"))
                self._found[number] = [(watch, self._paths.of(file, watch.target)) for watch in watches]

    def dump(self, file: OpenFile, number: int, saving: Saving) -> Any:
        """Its message."""
        watches = [
            m.inotify_wd_entry(
                id=number, i_ino=watch.target.inode, mask=watch.mask, ignored_mask=0, s_dev=watch.target.device,
                wd=watch.number, f_handle=watched.handle_entry(watch.target, path),
            )
            for watch, path in self._found[number]
        ]  # fmt: skip
        entry = m.inotify_file_entry(id=number, flags=file.flags, fown=no_owner(), wd=watches)
        return m.file_entry(type=self.TYPE, id=number, ify=entry)

    # --------------------------------------------------------------------------------------------------------- restore

    def read(self, images: ImagesDir, entries: list[Any]) -> None:
        """All that is watched must be there; ImageError for a number that no watch can have."""
        self._entries = entries
        for entry in entries:
            numbers = [watch.wd for watch in entry.ify.wd]
            if len(set(numbers)) != len(numbers) or not all(0 < number <= MAX_WD for number in numbers):
                raise ImageError(f"inotify {entry.id} has a watch twice, or one with a number that is out of bounds")
            for watch in entry.ify.wd:
                with About():
                    os.close(_reopen(watch))

    def open(self, entry: Any, opening: Opening) -> int:
        """A new one without watches."""
        flags = os.O_CLOEXEC | entry.ify.flags & os.O_NONBLOCK
        return watched.limited("inotify_init1", flags, what=f"file {entry.id}")

    def finish(self, opening: Opening) -> None:
        """Add the watches, in the order of their numbers, as they were given out."""
        for entry in self._entries:
            fd = opening.fd(entry.id)
            for watch in sorted(entry.ify.wd, key=lambda one: one.wd):
                _add(fd, watch)


def _reopen(watch: Any) -> int:
    wanted = watched.read_target(watch.s_dev, watch.i_ino, watch.f_handle)
    return watched.reopen(wanted, watch.f_handle.path, "inotify")


def _add(fd: int, watch: Any) -> None:
    """inotify_add_watch(2) under the number of the image."""
    there = _reopen(watch)
    try:
        _choose_number(fd, watch.wd)
        path = ctypes.create_string_buffer(b"/proc/self/fd/%d" % there)
        # A watch for nothing may not be asked for; that its file system goes away every watch is told anyway.
        mask = watch.mask & MASK or _NO_EVENTS
        got = watched.limited("inotify_add_watch", fd, ctypes.addressof(path), mask, what=watch.f_handle.path)
    finally:
        os.close(there)
    if got != watch.wd:
        raise ImageError(f"the watch of {watch.f_handle.path} got the number {got}, not {watch.wd}")


def _choose_number(fd: int, number: int) -> None:
    try:
        fcntl.ioctl(fd, INOTIFY_IOC_SETNEXTWD, number)
    except OSError as error:
        hint = "this kernel lacks CONFIG_CHECKPOINT_RESTORE"
        raise KernelError("ioctl", error.errno or 0, "INOTIFY_IOC_SETNEXTWD", hint) from None
