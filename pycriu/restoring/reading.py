# SPDX-License-Identifier: GPL-2.0-only
"""A checkpoint as it is read: every image of the tree, held against the others before anything is made of it."""

from __future__ import annotations

import os

from pycriu.arch.description import Arch
from pycriu.errors import About, ImageError, OtherCpu, UserError
from pycriu.fds.table import Kinds
from pycriu.images import own, store
from pycriu.kernel import procfs
from pycriu.kernel.pagemap import PAGE_SIZE
from pycriu.pages import imagefiles
from pycriu.resources import clocks, files, limits, memory, posix_timers, procfiles, scheduling, seccomp, stops
from pycriu.restoring import spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from io import FileIO
    from typing import Any

    from pycriu.sharing import Shares

_ALIVE, _DEAD, _STOPPED = 1, 2, 3  # task_core_entry.task_state
_EXIT_SIGNAL, _SIGCHLD, _NSIG = "exit_signal", 17, 64


class ThreadImage:
    """Everything that the images say of one thread."""

    def __init__(self, images: store.ImagesDir, tid: int, core: Any, cpu: Arch, filters: list[Any]) -> None:
        if not core.HasField(cpu.thread_info):
            raise ImageError(f"core-{tid}.img has no registers")
        if not core.HasField("thread_core") or not core.thread_core.HasField("creds"):
            raise ImageError(f"core-{tid}.img has no credentials")
        self.tid, self.core = tid, core
        self.comm: str = core.tc.comm if core.HasField("tc") else core.thread_core.comm
        self.gpr, self.tid_address = cpu.load(core)
        self.seccomp = seccomp.read(core.thread_core, filters, f"core-{tid}.img")
        self.extras = {
            kind: images.read_one(name).data  # type: ignore[attr-defined]
            for kind in ("xstate", "sve")
            if images.exists(name := f"pycriu-{kind}-{tid}.img")
        }


class TaskImage:
    """Everything that the images say of one live process; `threads` begins with the one whose id is the PID."""

    def __init__(self, images: store.ImagesDir, member: spawn.Member, core: Any, cpu: Arch, filters: list[Any]) -> None:
        pid = member.pid
        self.pid, self.core = pid, core
        self.stop_signal = stops.signal_of(core, f"core-{pid}.img") if core.tc.task_state == _STOPPED else 0
        self.threads = [ThreadImage(images, pid, core, cpu, filters)]
        for tid in member.other_threads:
            core_of_thread = images.read_one(f"core-{tid}.img")
            _check_cpu(core_of_thread, cpu)
            self.threads.append(ThreadImage(images, tid, core_of_thread, cpu, filters))
        self.mm: Any = images.read_one(f"mm-{pid}.img")
        self.fs: Any = images.read_one(f"fs-{pid}.img")
        ids: Any = core.ids if core.HasField("ids") else images.read_one(f"ids-{pid}.img")
        self.shares: Shares = (ids.vm_id, ids.files_id, ids.fs_id, ids.sighand_id)
        self.first_in_memory = self  # who rebuilds the address space for all that share it
        self.last_at_table = True  # whether nobody after it needs descriptors of the table
        self.descriptors: list[Any] = images.read(f"fdinfo-{ids.files_id}.img")
        head, *entries = images.read(f"pagemap-{pid}.img")
        self.pages: FileIO = images.raw(f"pages-{head.pages_id}.img")  # type: ignore[attr-defined]
        size = os.fstat(self.pages.fileno()).st_size
        extra = images.read_if_there(f"pycriu-memory-{pid}.img")
        self.plan = memory.plan(self.mm, entries, size, PAGE_SIZE, cpu, extra)
        imagefiles.refuse_holes(images, self.pages.fileno(), self.plan.runs)
        if self.plan.in_parent:
            from pycriu.pages import lineage

            self.plan.inherited = lineage.sources(images, f"pagemap-{pid}.img", self.plan.in_parent)
        self.facts = _facts(images, member)

    @property
    def places(self) -> list[int]:
        """Ids of the files that are referred to by other things than descriptors."""
        mapped = [vma.shmid for vma in self.plan.vmas if vma.status & (memory.FILE_PRIVATE | memory.FILE_SHARED)]
        return [self.mm.exe_file_id, self.fs.cwd_id, self.fs.root_id, *mapped]


class Checkpoint:
    """The images of one tree. Refuses, before any task exists, what cannot be restored here."""

    def __init__(self, images: store.ImagesDir, cpu: Arch, kinds: Kinds) -> None:
        uptime_at_dump = images.inventory().dump_uptime  # microseconds; 0 where the image does not say
        if not images.exists("pstree.img"):
            raise ImageError(
                f"{images.path}: these images hold memory, but no processes",
                "they are of a pre-dump: restore the dump that was made after it",
            )
        entries: list[Any] = images.read("pstree.img")
        cores = {entry.pid: images.read_one(f"core-{entry.pid}.img") for entry in entries}
        for pid, core in cores.items():
            _check_core(pid, core, cpu)
        self.root = spawn.tree(entries, cores)
        seccomp_image: Any = images.read_one("seccomp.img") if images.exists("seccomp.img") else None
        filters = list(seccomp_image.seccomp_filters) if seccomp_image is not None else []
        self.tasks = {
            member.pid: TaskImage(images, member, cores[member.pid], cpu, filters)
            for member in self.root.walk()
            if member.exit_status is None
        }
        self._relate(images)
        for pid, task in self.tasks.items():
            posix_timers.check(pid, task.core.tc.timers.posix, {thread.tid for thread in task.threads})
        self.files: list[Any] = images.read("files.img")
        tables = [task.descriptors for task in self.tasks.values()]
        files.check_ids(tables, [number for task in self.tasks.values() for number in task.places], self.files)
        kinds.read(images, self.files)
        self.segments = memory.Segments(images, [task.plan for task in self.tasks.values()])
        self.first_free_descriptor = files.base_number(tables)
        self.clocks = clocks.Plan(self.tasks[self.root.pid].facts.get(self.root.pid, {}), uptime_at_dump)

    def _relate(self, images: store.ImagesDir) -> None:
        """Who makes whom, and who rebuilds what several share."""
        for member in self.root.walk():
            known = self.tasks[member.pid].facts if member.pid in self.tasks else _facts(images, member)
            (member.exit_signal,) = known.get(member.pid, {}).get(_EXIT_SIGNAL, (_SIGCHLD,))
            if not 0 <= member.exit_signal <= _NSIG:
                raise ImageError(f"process {member.pid} sends signal {member.exit_signal} at its end")
        spawn.choose_makers(self.root, {pid: task.shares for pid, task in self.tasks.items()})
        first: dict[int, TaskImage] = {}
        last: dict[int, TaskImage] = {}
        for task in self.tasks.values():
            vm, table, *_ = task.shares
            task.first_in_memory = first.setdefault(vm, task)
            if table in last:
                last[table].last_at_table = False
            last[table] = task

    def with_threads(self, tids: set[int]) -> list[TaskImage]:
        """The processes that have one of these threads, which is not their first."""
        return [task for task in self.tasks.values() if not tids.isdisjoint(thread.tid for thread in task.threads[1:])]

    def pids(self) -> list[int]:
        """Of all processes and threads."""
        return [tid for member in self.root.walk() for tid in (member.pid, *member.other_threads)]

    def check_here(self) -> list[str]:
        """Refuse what this machine, now, cannot give: PIDs, limits, CPUs, the vDSO. Gives remarks."""
        spawn.refuse_taken(self.pids())
        cores = [task.core for task in self.tasks.values()]
        with About():
            limits.check(cores)
        with About():
            procfiles.check(cores)
        with About():
            seccomp.check([thread.seccomp for task in self.tasks.values() for thread in task.threads])
        own, remarks = own_vdso(), []
        for task in self.tasks.values():
            with About():
                if not memory.same_vdso(task.plan, own, task.pages.fileno()):
                    raise UserError(
                        f"process {task.pid} was dumped under another kernel: its vDSO is not this kernel's",
                        "restore it on the kernel on which it was dumped",
                    )
            with About():
                remarks += scheduling.check(task.facts)
        return remarks + self.clocks.remarks

    def close(self) -> None:
        """Close the files of pages."""
        for task in self.tasks.values():
            task.pages.close()
            for fd, _ in task.plan.inherited:
                os.close(fd)


def _facts(images: store.ImagesDir, member: spawn.Member) -> own.Facts:
    """What CRIU's messages have no fields for."""
    name = f"pycriu-task-{member.pid}.img"
    said = own.facts(images.read_if_there(name), "tid", name)
    if strangers := set(said) - {member.pid, *member.other_threads}:
        raise ImageError(f"{name}: {strangers.pop()} is no thread of process {member.pid}")
    return said


def _check_cpu(core: Any, cpu: Arch) -> None:
    if core.mtype != cpu.mtype:
        from pycriu.arch import elfcore

        raise OtherCpu(
            f"the images are of another CPU architecture, {elfcore.by_mtype(core.mtype).name}; this machine is "
            f"{cpu.name}",
            "restore them on a machine of that architecture; crit shows what they hold",
        )


def _check_core(pid: int, core: Any, cpu: Arch) -> None:
    _check_cpu(core, cpu)
    if core.tc.task_state not in (_ALIVE, _DEAD, _STOPPED):
        raise ImageError(f"process {pid} is in state {core.tc.task_state}", "restore these images with criu")


def own_vdso() -> bytes:
    """The vDSO of this kernel, as it is mapped into this very process; empty where there is none."""
    for line in procfs.parse_smaps(procfs.text("self", "maps")):
        if line.name == "[vdso]":
            with open("/proc/self/mem", "rb", buffering=0) as mem:
                mem.seek(line.start)
                return mem.read(line.end - line.start)
    return b""
