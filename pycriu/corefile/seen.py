# SPDX-License-Identifier: GPL-2.0-only
"""What /proc still shows of a process that the kernel is writing a core of, as images without memory and registers.

It cannot be traced any more, nor do anything for us: signal handlers, alternate stacks and timers stay unknown. Of its
descriptors those are kept that mean something without it: files, terminals, counters, shared memory, sockets that
listen or are bound, event queues, pipes and pairs of sockets that it has to itself. Connections and pipes to others end
with it: in their places are sockets whose other end has gone. What is left out is listed; nothing is refused.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

from pycriu.arch import native
from pycriu.corefile.build import ALIVE, NO_CGROUPS, external
from pycriu.dumping import entries
from pycriu.errors import About, Gathering, PycriuError, Unsupported
from pycriu.fds.openfile import OpenFile
from pycriu.fds.openfile import look as look_descriptors
from pycriu.fds.saving import Saving
from pycriu.fds.table import Kinds
from pycriu.fds.unix import checked
from pycriu.images import messages as m
from pycriu.images import own, store
from pycriu.kernel import libc, procfs
from pycriu.options import DumpOptions
from pycriu.pages.imagefiles import Numbers
from pycriu.resources import clocks, credentials, files, limits, memory, scheduling, seccomp, signals
from pycriu.tracing import pstree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pycriu.log import Log

_GHOST_LIMIT = 1 << 28  # bytes of a deleted file
# Kinds that are kept: each is looked at by descriptors of our own, and does not need its process.
_KEPT = (
    "memfd", "regular", "pipe", "fifo", "eventfd", "signalfd", "timerfd", "inotify", "tty.kind", "unix.kind",
    "inet.kind", "netlink", "epoll",
)  # fmt: skip
_STANDARD = 3  # descriptors that the restore gives, where they are left out
_SIG_IGN = 1
_NAMESPACES = ("net", "ipc", "uts", "user", "time")
_VIEWS = ("mnt", "pid")  # in which paths and PIDs mean something else


class Seen:
    """One process. `lacks` is what was left out, or is not known, in words."""

    def __init__(self, pid: int, folder: str, log: Log) -> None:
        self.pid, self._folder, self._log = pid, folder, log
        self.lacks: list[str] = []
        self._cpu = native()
        self._process = pstree.Process(procfs.stat(pid), None)
        self._process.threads = procfs.threads(pid)
        self._status = procfs.parse_status(procfs.text(pid, "status"))

    def write(self) -> None:
        """All images, into the folder; Unsupported where its paths or PIDs mean something else out here."""
        if others := self._others(_VIEWS):
            raise Unsupported(f"process {self.pid} has namespaces of its own ({', '.join(others)})")
        self._tell_unknown()
        left_out: dict[int, OpenFile] = {}
        for _ in range(3):  # what was left out may have been what another one needed
            with Gathering() as gathering, store.NewCheckpoint(self._folder) as new:
                bad = self._attempt(new, left_out)
                refused = {one.message: about for one, about in gathering.found.values() if isinstance(about, OpenFile)}
                bad |= {file.fd: file for file in refused.values()}
                if not bad.keys() - left_out.keys():
                    new.commit()
                    self.lacks += [
                        one.message for one, about in gathering.found.values() if not isinstance(about, OpenFile)
                    ]
                    return
                self.lacks += [f"{message}: {_fate(file)}" for message, file in refused.items()]
                left_out = bad
        raise PycriuError(f"process {self.pid}: its descriptors cannot be told apart")

    def _options(self) -> DumpOptions:
        return DumpOptions(
            pid=self.pid, images_dir=self._folder, work_dir=self._folder, shell_job=True, leave_running=True,
            ghost_limit=_GHOST_LIMIT,
        )  # fmt: skip

    def _attempt(self, new: store.NewCheckpoint, left_out: dict[int, OpenFile]) -> dict[int, OpenFile]:
        """Write everything but the descriptors `left_out`; all that must be left out, by number."""
        bad = dict(left_out)
        with Kinds(self._options(), self._log) as kinds, memory.Objects() as objects:
            known = []
            for file in look_descriptors(self.pid):
                if file.fd in left_out:
                    continue
                with About(file):
                    kind = kinds.of(file)
                    if kind not in [kinds.find(name) for name in _KEPT]:
                        bad[file.fd] = file
                        self.lacks.append(f"{file.name}: {_fate(file)}")
                        continue
                    known.append((file, kind))
            if epoll := kinds.find("epoll"):
                epoll.ended = {fd for fd, file in left_out.items() if _had_another_end(file)}
            places = files.look(self.pid, self._status, kinds, files.Files((), *(None,) * 3, 0))  # type: ignore[arg-type]
            mapped = [one for one in memory.look(self.pid, kinds.regular) if one.status]
            saving = Saving(kinds, self._process)
            saving.take(known + objects.take(mapped, kinds), files.places(places) + memory.places(mapped))
            table = files.Files(tuple(known), places.cwd, places.root, places.exe, places.umask)
            if bad == left_out:
                self._write_images(new, saving, table, mapped, left_out)
        return bad

    def _write_images(
        self,
        new: store.NewCheckpoint,
        saving: Saving,
        table: files.Files,
        mapped: list[memory.Mapping],
        left_out: dict[int, OpenFile],
    ) -> None:
        pid, ids, numbers = self.pid, entries.Ids(), Numbers()
        mine = ids.task((pid,) * 4)
        segments = memory.Attached()
        segments.take(mapped)
        segments.copy(new, numbers)
        for kind in saving.kinds.all:
            kind.copy(new, numbers)
        segments.write(new, entries.IPC_NAMESPACE)
        for tid in self._process.threads:
            new.write(f"core-{tid}.img", [self._core(tid)])
        new.write(f"mm-{pid}.img", [self._mm(saving, table, mapped)])
        new.write(f"ids-{pid}.img", [mine])
        new.write(f"fs-{pid}.img", [files.fs_entry(table, saving)])
        descriptors: list[Any] = [*self._in_their_place(saving, left_out), *files.descriptor_table(table, saving)]
        descriptors.sort(key=lambda one: int(one.fd))
        new.write(f"fdinfo-{mine.files_id}.img", descriptors)
        new.write_any(f"pycriu-memory-{pid}.img", memory.extra_entries(mapped, ()))
        facts = {tid: scheduling.look_thread(tid) for tid in self._process.threads}
        facts[pid] |= clocks.look(pid)
        new.write_any(f"pycriu-task-{pid}.img", own.task_entries(facts))
        saving.write(new)
        new.write("seccomp.img", [seccomp.Filters().image()])
        new.write("pstree.img", [entries.pstree_entry(self._process, self._process.threads)])
        new.write("inventory.img", [entries.inventory_entry(ids)])

    @staticmethod
    def _in_their_place(saving: Saving, left_out: dict[int, OpenFile]) -> Iterator[Any]:
        """For what is left out: of the standard descriptors those of the restore, and ends of what is over."""
        for fd, file in left_out.items():
            number = saving.fresh()
            if fd < _STANDARD:
                entry = external(number, fd, os.O_RDWR)
            elif _had_another_end(file):
                entry = checked.ended_entry(number, file.flags & os.O_NONBLOCK)
            else:
                continue
            saving.lend_entry(entry)
            yield m.fdinfo_entry(id=number, flags=int(file.close_on_exec), type=entry.type, fd=fd)

    def _mm(self, saving: Saving, table: files.Files, mapped: list[memory.Mapping]) -> Any:
        stat = self._process.stat
        heap = next((one.line for one in mapped if one.line.name == "[heap]"), None)
        vmas = [
            memory.vma_entry(one, memory.file_number(one, saving), memory.vma_advice(one))
            for one in memory.merge_clock_pages(mapped)
        ]
        auxv = procfs.parse_auxv(procfs.read(self.pid, "auxv"))
        brk = heap.end if heap is not None else stat.start_brk
        return memory.mm_entry(stat, brk, auxv, saving.place(table.exe), 1, vmas)

    def _core(self, tid: int) -> Any:
        """A thread without its registers."""
        stat, status = procfs.stat(tid), procfs.parse_status(procfs.text(tid, "status"))
        head, length = libc.get_robust_list(tid)
        of_thread = m.thread_core_entry(
            futex_rla=head, futex_rla_len=length, sched_nice=stat.nice, sched_policy=stat.policy,
            sched_prio=stat.rt_priority, blk_sigset=int(status["SigBlk"], 16), pdeath_sig=0,
            signals_p=signals.queue_entry(()), creds=credentials.entry(status, 0), comm=stat.comm, cg_set=NO_CGROUPS,
        )  # fmt: skip
        of_thread.sas.CopyFrom(signals.stack_entry((0, 0, signals.SS_DISABLE)))
        entry = m.core_entry(mtype=self._cpu.mtype, thread_core=of_thread)
        if tid == self.pid:
            entry.tc.CopyFrom(self._task(stat, status))
        return entry

    def _task(self, stat: procfs.Stat, status: dict[str, str]) -> Any:
        ignored = int(status["SigIgn"], 16)
        actions = tuple((_SIG_IGN if ignored >> number - 1 & 1 else 0, 0, 0, 0) for number in signals.SIGNALS)
        return m.task_core_entry(
            task_state=ALIVE, exit_code=0, personality=int(procfs.text(self.pid, "personality"), 16), flags=0,
            blk_sigset=int(status["SigBlk"], 16), comm=stat.comm, cg_set=NO_CGROUPS,
            rlimits=limits.limit_entries(limits.look(self.pid)), oom_score_adj=limits.oom_score_adj(self.pid),
            signals_s=signals.queue_entry(()), sigactions=signals.action_entries(actions),
        )  # fmt: skip

    def _others(self, names: tuple[str, ...]) -> list[str]:
        return [name for name in names if self._namespace(self.pid, name) != self._namespace("self", name)]

    @staticmethod
    def _namespace(pid: int | str, name: str) -> str:
        try:
            return os.readlink(f"/proc/{pid}/ns/{name}")
        except OSError:
            return ""  # this kernel has none

    def _tell_unknown(self) -> None:
        say = self.lacks.append
        caught = int(self._status["SigCgt"], 16)
        if names := [str(number) for number in range(1, 65) if caught >> number - 1 & 1]:
            say(f"the handlers of signals {', '.join(names)}: they have their default action")
        if os.path.exists(f"/proc/{self.pid}/timers") and procfs.text(self.pid, "timers"):
            say("its POSIX timers: they are gone")
        if int(self._status.get("Seccomp", "0")):
            say("its seccomp filters: it runs without")
        if others := self._others(_NAMESPACES):
            say(f"namespaces of its own ({', '.join(others)}): it is in those of the restore")
        children = procfs.children(self.pid, self._process.threads)
        if children:
            say(f"its {len(children)} children: they are not its children any more")
        pending = int(self._status["SigPnd"], 16) | int(self._status["ShdPnd"], 16)
        if pending:
            say(f"signals that waited ({pending:#x})")


def _had_another_end(file: OpenFile) -> bool:
    """Whether one that has ended can stand in for it: for a socket or a pipe, but those that the restore gives."""
    return file.fd >= _STANDARD and (file.is_socket() or stat.S_ISFIFO(file.status.st_mode))


def _fate(file: OpenFile) -> str:
    if file.fd < _STANDARD:
        return "it is that of the restore"
    return "its other end has gone" if _had_another_end(file) else "it ended with the process"
