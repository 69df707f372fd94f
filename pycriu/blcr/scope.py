# SPDX-License-Identifier: GPL-2.0-only
"""Which processes a checkpoint is of: a tree, a process alone, a group or a session, less those that stay out.

Out stay: what `cr_run --omit` has started, what is traced or traces others if that is asked for, ourselves where we are
in the scope, and a cr_restart that only waits for what it has restarted.
"""

from __future__ import annotations

import errno
import os

from pycriu.blcr.codes import CR_EPTRACED, CR_EPTRACER, Busy, Failure
from pycriu.blcr.options import ALWAYS, ERROR, MAYBE, NEVER, PROCESS, SESSION, SKIP, TREE
from pycriu.errors import NoProcess, TraceeGone
from pycriu.kernel import procfs
from pycriu.tracing import pstree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pycriu.log import Log

OMITTED = "PYCRIU_CR_OMIT"  # in the environment of what cr_run --omit has started
WAITING = {MAYBE: "cr_restart wait", ALWAYS: "cr_restart omit", NEVER: "cr_restart keep"}
"""The name that a cr_restart has while it waits for what it has restarted, by --omit-*."""
_SAVES = "cr_checkpoint"  # the name of one that does its work
NOBODY = "Checkpoint failed: no processes checkpointed"


class Scope:
    """The processes of a checkpoint. `find` may be asked again and again, while they come and go."""

    def __init__(self, kind: str, number: int, log: Log, *, ptraced: str = ERROR, ptracer: str = ERROR) -> None:
        self._kind, self._number, self._log = kind, number, log
        self._ptraced, self._ptracer = ptraced, ptracer
        self._tracers: dict[int, int] | None = None  # PID → somebody whom it traces
        self._out: dict[int, str] = {}  # who was left out, and why

    def find(self) -> pstree.Process:
        """All of them; Failure where there are none, or where one is refused."""
        stats = self._candidates()
        chosen = self._chosen(stats)
        first = min(chosen, key=lambda pid: (pid != self._number, stats[pid].starttime, pid), default=0)
        root = pstree.gather(sorted(chosen, key=lambda pid: (pid != first, stats[pid].starttime, pid)))
        if root is None:
            raise Failure(errno.ESRCH, NOBODY)
        return root

    def has(self, pid: int) -> bool:
        """Whether a process is in the scope, be it left out or not."""
        return pid in self._candidates()

    def _candidates(self) -> dict[int, procfs.Stat]:
        """Who is in the scope by its number, with zombies of whom members have yet to hear."""
        if self._kind == TREE:
            return {one.pid: one.stat for one in pstree.scan(self._number).walk()}
        if self._kind == PROCESS:
            root = pstree.scan(self._number)
            return {one.pid: one.stat for one in (root, *(child for child in root.children if child.zombie))}
        everybody = _everybody()
        field = "session" if self._kind == SESSION else "pgrp"
        members = {pid: stat for pid, stat in everybody.items() if getattr(stat, field) == self._number}
        if not members:
            raise NoProcess(f"there is no process in {'session' if field == 'session' else 'group'} {self._number}")
        dead = {pid: stat for pid, stat in everybody.items() if stat.state == "Z" and stat.ppid in members}
        return dead | members

    def _chosen(self, stats: dict[int, procfs.Stat]) -> list[int]:
        out = self._ourselves(stats)
        for pid, stat in stats.items():
            if pid in out:
                continue
            if self._kind == TREE and out.get(stat.ppid) == SKIP:  # parents come first
                out[pid] = SKIP
            elif stat.state not in "ZX" and (why := self._reason(pid, stat, stats)):
                out[pid] = why
            if pid in out and pid not in self._out:
                self._log.warn("process %d (%s) is left out: %s", pid, stat.comm, _REASONS[out[pid]])
        self._out = out
        return [pid for pid in stats if pid not in out]

    def _ourselves(self, stats: dict[int, procfs.Stat]) -> dict[int, str]:
        ours = os.getpid()
        return dict.fromkeys((ours, *_below(ours, stats)), _OURS) if ours in stats else {}

    def _reason(self, pid: int, stat: procfs.Stat, stats: dict[int, procfs.Stat]) -> str:
        """Why a process is left out; "" for one that is not. Failure where its debugger, or debugging, is refused."""
        if stat.comm == WAITING[ALWAYS] or (stat.comm == WAITING[MAYBE] and stat.ppid not in stats):
            return _WAITS
        try:
            if is_omitted(pid):
                return _OMIT
            tracer = int(procfs.parse_status(procfs.text(pid, "status")).get("TracerPid", "0"))
        except TraceeGone:
            return ""
        if tracer not in (0, os.getpid()):
            if _comm(tracer) == _SAVES:
                raise Busy(
                    errno.EBUSY, f"Checkpoint failed: process {pid} ({stat.comm}) is just being saved by {tracer}"
                )
            return self._judge(self._ptraced, CR_EPTRACED, f"process {pid} ({stat.comm}) is being traced by {tracer}")
        if self._tracers is None:
            self._tracers = _tracers()
        if traced := self._tracers.get(pid):
            return self._judge(self._ptracer, CR_EPTRACER, f"process {pid} ({stat.comm}) is tracing {traced}")
        return ""

    @staticmethod
    def _judge(choice: str, code: int, what: str) -> str:
        if choice == SKIP:
            return SKIP
        hint = "detach the debugger, or leave such processes out with --ptraced-skip or --ptracer-skip"
        if choice != ERROR:
            hint = "--ptraced-allow cannot help: Linux allows one tracer only"
        raise Failure(code, f"Checkpoint failed: {what}", (hint,))


_OURS, _OMIT, _WAITS = "ours", "omit", "waits"
_REASONS = {
    _OURS: "it makes this checkpoint",
    _OMIT: "cr_run --omit has started it",
    _WAITS: "it waits for what it has restarted",
    SKIP: "it, or what it is below, is being traced or traces others",
}


def _comm(pid: int) -> str:
    """The name of a process; "" for one that has ended."""
    try:
        return procfs.stat(pid).comm
    except TraceeGone:
        return ""


def is_omitted(pid: int) -> bool:
    """Whether cr_run --omit has started a process, or what has."""
    try:
        return f"{OMITTED}=1".encode() in procfs.read(pid, "environ").split(b"\0")
    except PermissionError:
        return False  # not ours to look at, and so not ours to save: the engine says so


def _everybody() -> dict[int, procfs.Stat]:
    found = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                found[int(name)] = procfs.stat(int(name))
            except TraceeGone:
                continue
    return found


def _below(pid: int, stats: dict[int, procfs.Stat]) -> set[int]:
    """Everybody of `stats` below a process."""
    found: set[int] = set()
    reached: Iterable[int] = [pid]
    while reached := [one for one, stat in stats.items() if stat.ppid in reached and one not in found]:
        found.update(reached)
    return found


def _tracers() -> dict[int, int]:
    """Who traces whom."""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        try:
            tracer = int(procfs.parse_status(procfs.text(name, "status")).get("TracerPid", "0"))
        except TraceeGone:
            continue
        if tracer:
            found[tracer] = int(name)
    return found
