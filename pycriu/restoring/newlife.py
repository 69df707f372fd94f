# SPDX-License-Identifier: GPL-2.0-only
"""A process that is restored under another PID, as often as one likes, at the same time: its images as they would be
if it had had these ids, in our session and group, at the root directory, with what a start gives to a program: standard
input, output and error and other descriptors, limits, priorities, CPUs (`Start`).

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

from pycriu.command import streams
from pycriu.errors import NotHere, UserError
from pycriu.images import messages as m
from pycriu.images import own, store
from pycriu.kernel import procfs
from pycriu.resources import attributes, limits, procfiles, scheduling

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from io import FileIO
    from typing import Any

    from google.protobuf.message import Message

    from pycriu.restoring.reading import ThreadImage
    from pycriu.tracing.tracee import Tracee

_OF_THREADS = "pycriu-task"
_OF_TASKS = ("core", "ids", "mm", "fs", "pagemap", _OF_THREADS, "pycriu-memory", "pycriu-xstate", "pycriu-sve")
_REG = 1  # fd_types
STANDARD = (0, 1, 2)
# What of the facts of a thread comes with the start, beside policy and nice value.
_GIVEN = frozenset(
    {"affinity", "sched_flags", "deadline", "slice", "clamps", "io_priority", "timer_slack", "memory_policy"}
)
_ID = struct.Struct("<i")
_LOWEST = 300  # PIDs below are those that the kernel gives to the first processes, again and again


class Start:
    """What this process was given, and the new life is to have: to be taken before the engine changes anything of it.

    `before` are the descriptors above 2 that the first start was given: they are not kept.
    """

    def __init__(self, before: Iterable[int] = ()) -> None:
        pid = os.getpid()
        self.before = frozenset(before)
        self.descriptors = (*STANDARD, *streams.inherited())
        self.limits = limits.limit_entries(limits.look(pid))
        self.personality = attributes.personality(pid)
        self.attr = scheduling.get_attr(0)
        self.facts = {**scheduling.look_thread(pid), **scheduling.own_facts()}
        self.of_process = procfiles.look(pid)

    def inherit_fd(self) -> tuple[str, ...]:
        """`inherit_fd` of the options of such a restore."""
        return tuple(f"fd[{fd}]:{_stream_name(fd)}" for fd in self.descriptors)


class NewLife(store.ImagesDir):
    """The images of a directory, of a process that is to have another PID. UserError where it cannot."""

    def __init__(self, path: str, start: Start) -> None:
        super().__init__(path)
        self._start = start
        self._new: dict[int, int] = {}
        self.old: dict[int, int] = {}  # new id → that of the dump
        try:
            tree: list[Any] = super().read("pstree.img")
            if len(tree) != 1:
                raise UserError(f"{path}: only a single process can get another PID, here are {len(tree)}")
            threads = [int(tid) for tid in tree[0].threads] or [int(tree[0].pid)]
            self._new = dict(zip(threads, free_ids(len(threads)), strict=True))
            self._streams = self._read_streams(int(tree[0].pid))
            self._leader = self._new[int(tree[0].pid)]
            self._first = _scheduling(super().read_one(f"core-{tree[0].pid}.img"))
            self.old = {new: old for old, new in self._new.items()}
        except BaseException:
            self.close()
            raise

    def _read_streams(self, pid: int) -> dict[int, int]:
        """Ids of the files that a start gives → the lowest number of each."""
        ids: Any = super().read_one(f"ids-{pid}.img")
        table: list[Any] = super().read(f"fdinfo-{ids.files_id}.img")
        found: dict[int, int] = {}
        for entry in sorted(table, key=lambda entry: int(entry.fd)):
            if entry.fd in STANDARD or entry.fd in self._start.before:
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
        return name.startswith(f"{_OF_THREADS}-") or super().exists(self._name(name))

    def raw(self, name: str) -> FileIO:
        """See `ImagesDir`."""
        return super().raw(self._name(name))

    def read_with_payloads(self, name: str) -> list[tuple[Message, bytes]]:
        """See `ImagesDir`."""
        if not self.old:
            return super().read_with_payloads(name)
        if name.startswith(f"{_OF_THREADS}-"):
            said = super().read_with_payloads(name) if super().exists(self._name(name)) else []
            return [(entry, b"") for entry in self._threads([entry for entry, _ in said])]
        return self._relived(name, super().read_with_payloads(name))

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
            return [(entry, b"") for entry in self._with_given(entries)]
        elif stem.startswith("core-"):
            _refuse_timers(entries)
            self._change_core(entries[0])
        elif stem.startswith("fs-"):
            entries[0].cwd_id = entries[0].root_id
        return found

    def _change_ids(self, entry: Any) -> None:
        entry.pid = self._new[entry.pid]
        entry.threads[:] = [self._new[tid] for tid in entry.threads]
        entry.pgid, entry.sid = os.getpgrp(), os.getsid(0)

    def _change_core(self, core: Any) -> None:
        start = self._start
        if core.HasField("tc"):
            core.tc.rlimits.CopyFrom(start.limits)
            core.tc.personality = start.personality
            for born_with in ("oom_score_adj", "loginuid"):
                core.tc.ClearField(born_with)
        if _scheduling(core) == self._first:  # else it has chosen that
            thread = core.thread_core
            thread.sched_policy, thread.sched_nice = start.attr.policy, start.attr.nice
            thread.sched_prio = start.attr.priority

    def _threads(self, entries: list[Any]) -> list[Any]:
        """What is said of the threads: of each that is as the first one is, what the start has."""
        start, first = self._start, self._leader
        said = own.facts(entries, "tid", _OF_THREADS)
        usual = _given(said.get(self.old[first], {}))
        changed: own.Facts = {}
        for new, old in self.old.items():
            facts = said.get(old, {})
            if _given(facts) == usual:
                facts = {name: numbers for name, numbers in facts.items() if name not in _GIVEN} | start.facts
            changed[new] = facts
        changed[first] = {name: numbers for name, numbers in changed[first].items() if name != "coredump_filter"}
        changed[first] |= start.of_process
        return own.task_entries(changed)

    def _with_given(self, entries: list[Any]) -> list[Any]:
        """The table of descriptors, with those that the start gives. NotHere where a number is taken."""
        given = self._start.descriptors
        table = []
        for entry in entries:
            if entry.id in self._streams:
                number = entry.fd if entry.fd in given else self._streams[entry.id]
                if number in given:
                    entry.id, entry.type = _stream_id(number), _REG
                    table.append(entry)
            elif entry.fd in given:
                raise NotHere(f"descriptor {entry.fd}, which is open here, is another one in the images")
            else:
                table.append(entry)
        there = {entry.fd for entry in table}
        table += [m.fdinfo_entry(id=_stream_id(fd), flags=0, type=_REG, fd=fd) for fd in given if fd not in there]
        return table

    def _with_streams(self, entries: list[Any]) -> list[Any]:
        """What is open otherwise, and the files that whoever restores gives."""
        kept = [entry for entry in entries if entry.id not in self._streams]
        for entry in kept:
            for field, value in entry.ListFields():
                if field.message_type is not None and _owner(value):
                    raise UserError(f"file {entry.id} sends signals to a process: another PID would not get them")
        owner = m.fown_entry(uid=0, euid=0, signum=0, pid_type=0, pid=0)
        for fd in self._start.descriptors:
            number = _stream_id(fd)
            reg = m.reg_file_entry(id=number, flags=0, pos=0, fown=owner, name=f"/{_stream_name(fd)}", ext=True)
            kept.append(m.file_entry(type=_REG, id=number, reg=reg))
        return kept


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
    return 0x7FF00000 + fd  # no dump has so many files


def _stream_name(fd: int) -> str:
    return f"pycriu-given-{fd}"


def _scheduling(core: Any) -> tuple[int, int, int]:
    thread = core.thread_core
    return thread.sched_policy, thread.sched_nice, thread.sched_prio


def _given(facts: dict[str, own.Numbers]) -> dict[str, own.Numbers]:
    return {name: numbers for name, numbers in facts.items() if name in _GIVEN}


def _refuse_timers(entries: list[Any]) -> None:
    for core in entries:
        if core.HasField("tc") and core.tc.HasField("timers") and core.tc.timers.posix:
            raise UserError("POSIX timers may notify a thread: they cannot be restored with another PID")
