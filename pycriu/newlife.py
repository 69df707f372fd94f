# SPDX-License-Identifier: GPL-2.0-only
"""A process that is restored under another PID, as often as one likes, at the same time: its images as they would be
if it had had these ids, in our session and group, with our standard input, output and error, at the root directory.

Only a single process, which may have threads. What else knows a PID is the C library: it keeps the id of each thread
in its descriptor (`struct pthread`), for locks that have owners. Where that is, nobody need guess: it is the address
that the kernel clears when the thread ends (set_tid_address, CLONE_CHILD_CLEARTID), which glibc has pointed at that
very word. `settle` writes the new id there, if the old one is there; if not, as in another C library, the restore is
refused. What has ids that it would keep – owners of files that send signals, timers that notify a thread, file locks –
is refused, too. Locks with owners that are held at the moment of the dump would keep the old id: hooks let go of them.
"""

from __future__ import annotations

import os
import struct

from pycriu.errors import UserError
from pycriu.images import messages as m
from pycriu.images import store
from pycriu.kernel import procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from io import FileIO
    from typing import Any

    from google.protobuf.message import Message

    from pycriu.reading import ThreadImage
    from pycriu.tracee import Tracee

_OF_TASKS = ("core", "ids", "mm", "fs", "pagemap", "pycriu-task", "pycriu-memory", "pycriu-xstate", "pycriu-sve")
_REG = 1  # fd_types
STANDARD = (0, 1, 2)
NAMES = tuple(f"pycriu-standard-{fd}" for fd in STANDARD)
_ID = struct.Struct("<i")
_LOWEST = 300  # PIDs below are those that the kernel gives to the first processes, again and again


class NewLife(store.ImagesDir):
    """The images of a directory, of a process that is to have another PID. UserError where it cannot."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._new: dict[int, int] = {}
        self.old: dict[int, int] = {}  # new id → that of the dump
        try:
            tree: list[Any] = super().read("pstree.img")
            if len(tree) != 1:
                raise UserError(f"{path}: only a single process can get another PID, here are {len(tree)}")
            threads = [int(tid) for tid in tree[0].threads] or [int(tree[0].pid)]
            self._new = dict(zip(threads, free_ids(len(threads)), strict=True))
            self._streams = self._read_streams(int(tree[0].pid))
            self.old = {new: old for old, new in self._new.items()}
        except BaseException:
            self.close()
            raise

    def _read_streams(self, pid: int) -> dict[int, int]:
        """Ids of the files that are open as 0, 1, 2 → the lowest of these numbers."""
        ids: Any = super().read_one(f"ids-{pid}.img")
        table: list[Any] = super().read(f"fdinfo-{ids.files_id}.img")
        found: dict[int, int] = {}
        for entry in sorted(table, key=lambda entry: int(entry.fd)):
            if entry.fd in STANDARD:
                found.setdefault(entry.id, entry.fd)
        return found

    # ------------------------------------------------------------------------------------------------ names of images

    def _name(self, name: str) -> str:
        stem, dash, number = name.removesuffix(".img").rpartition("-")
        if dash and stem in _OF_TASKS and number.isdigit():
            return f"{stem}-{self.old.get(int(number), int(number))}.img"
        return name

    def exists(self, name: str) -> bool:
        """See `ImagesDir`."""
        return super().exists(self._name(name))

    def raw(self, name: str) -> FileIO:
        """See `ImagesDir`."""
        return super().raw(self._name(name))

    def read_with_payloads(self, name: str) -> list[tuple[Message, bytes]]:
        """See `ImagesDir`."""
        found = super().read_with_payloads(name)
        return self._relived(name, found) if self.old else found

    # ------------------------------------------------------------------------------------------------ what is changed

    def _relived(self, name: str, found: list[tuple[Any, bytes]]) -> list[tuple[Message, bytes]]:
        stem = name.removesuffix(".img")
        entries = [entry for entry, _ in found]
        if stem == "pstree":
            self._change_ids(entries[0])
        elif stem == "files":
            return [(entry, b"") for entry in self._with_streams(entries)]
        elif stem == "pycriu-files":
            return [(entry, payload) for entry, payload in found if entry.id not in self._streams]
        elif stem == "filelocks" and entries:
            raise UserError("file locks belong to a process: another PID cannot have them")
        elif stem.startswith("fdinfo-"):
            self._use_streams(entries)
        elif stem.startswith("core-"):
            _refuse_timers(entries)
        elif stem.startswith("pycriu-task-"):
            for entry in entries:
                entry.tid = self._new.get(entry.tid, entry.tid)
        elif stem.startswith("fs-"):
            entries[0].cwd_id = entries[0].root_id
        return found

    def _change_ids(self, entry: Any) -> None:
        entry.pid = self._new[entry.pid]
        entry.threads[:] = [self._new[tid] for tid in entry.threads]
        entry.pgid, entry.sid = os.getpgrp(), os.getsid(0)

    def _use_streams(self, entries: list[Any]) -> None:
        for entry in entries:
            if entry.id in self._streams:
                entry.id, entry.type = _stream_id(self._streams[entry.id]), _REG
            if entry.fd in STANDARD:
                entry.id, entry.type = _stream_id(entry.fd), _REG

    def _with_streams(self, entries: list[Any]) -> list[Any]:
        """What is open otherwise, and three files that whoever restores gives."""
        kept = [entry for entry in entries if entry.id not in self._streams]
        for entry in kept:
            for field, value in entry.ListFields():
                if field.message_type is not None and _owner(value):
                    raise UserError(f"file {entry.id} sends signals to a process: another PID would not get them")
        owner = m.fown_entry(uid=0, euid=0, signum=0, pid_type=0, pid=0)
        for fd, name in zip(STANDARD, NAMES, strict=True):
            number = _stream_id(fd)
            reg = m.reg_file_entry(id=number, flags=0, pos=0, fown=owner, name=f"/{name}", ext=True)
            kept.append(m.file_entry(type=_REG, id=number, reg=reg))
        return kept


def inherited() -> tuple[str, ...]:
    """`inherit_fd` of the options of such a restore: what this process has as 0, 1 and 2."""
    return tuple(f"fd[{fd}]:{name}" for fd, name in zip(STANDARD, NAMES, strict=True))


def settle(threads: Iterable[tuple[Tracee, ThreadImage]], old: dict[int, int]) -> None:
    """Let the C library of a complete process know the new ids of its threads."""
    for task, image in threads:
        at, before = image.tid_address, old[image.tid]
        known = _ID.unpack(task.read(at, _ID.size))[0] if at else 0
        if known != before:
            raise UserError(
                f"thread {before}: its C library does not keep the id of a thread where the kernel clears it "
                f"({at:#x} holds {known})",
                "only glibc is known to; without another PID it can be restored",
            )
        task.write(at, _ID.pack(image.tid))


def _owner(message: Any) -> int:
    """Who is told by a signal that a file is ready."""
    return int(message.fown.pid) if hasattr(message, "fown") else 0


def free_ids(count: int) -> list[int]:
    """Ids that nobody has at this moment, anywhere among those that the kernel gives out; others choose, too."""
    with open("/proc/sys/kernel/pid_max") as file:
        highest = min(int(file.read()), 1 << 22)
    lowest = min(_LOWEST, highest // 2)
    found: list[int] = []
    while len(found) < count:
        number = lowest + int.from_bytes(os.urandom(8), "little") % (highest - lowest)
        if number not in found and not procfs.exists(number):
            found.append(number)
    return found


def _stream_id(fd: int) -> int:
    return 0x7FFF0000 + fd  # no dump has so many files


def _refuse_timers(entries: list[Any]) -> None:
    for core in entries:
        if core.HasField("tc") and core.tc.HasField("timers") and core.tc.timers.posix:
            raise UserError("POSIX timers may notify a thread: they cannot be restored with another PID")
