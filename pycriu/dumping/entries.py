# SPDX-License-Identifier: GPL-2.0-only
"""From snapshots to images: every entry of a checkpoint but the pages. Nobody waits while this runs, or need not."""

from __future__ import annotations

from pycriu import sharing
from pycriu.arch.description import Arch
from pycriu.dumping.snapshot import EXIT_SIGNAL, SIGCHLD, Snapshot, Thread
from pycriu.images import messages as m
from pycriu.images import own, store
from pycriu.kernel import procfs
from pycriu.pages import imagefiles
from pycriu.resources import attributes, credentials, files, limits, memory, posix_timers, seccomp, signals, timers
from pycriu.tracing import pstree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pycriu.fds.saving import Saving
    from pycriu.sharing import Shares

IMG_VERSION = 2
ALIVE, DEAD, STOPPED = 1, 2, 3  # task_core_entry.task_state
NO_CGROUPS = 1  # the id of a set that says nothing; inventory_entry wants one
IPC_NAMESPACE = 3  # its id; see below
_SPACES = ("pid", "net", "ipc", "uts", "mnt", "user", "cgroup", "time")


class Ids:
    """Numbers for the kernel's objects: equal for processes that share one. All namespaces are shared with us."""

    def __init__(self) -> None:
        self._last = len(_SPACES)
        self._known: dict[tuple[int, int], int] = {}
        self.root = self._entry(1, 1, 1, 1)

    def task(self, shares: Shares) -> Any:
        """The ids of one more process; see sharing."""
        numbers = []
        for part in enumerate(shares):
            if part not in self._known:
                self._last += 1
                self._known[part] = self._last
            numbers.append(self._known[part])
        return self._entry(*numbers)

    @staticmethod
    def _entry(vm: int, fd_table: int, fs: int, sighand: int) -> Any:
        spaces = {f"{space}_ns_id": number for number, space in enumerate(_SPACES, 1)}
        return m.task_kobj_ids_entry(vm_id=vm, files_id=fd_table, fs_id=fs, sighand_id=sighand, **spaces)


def write(
    new: store.NewCheckpoint,
    root: pstree.Process,
    snapshots: list[Snapshot],
    saving: Saving,
    cpu: Arch,
) -> None:
    """Write every image, the inventory last."""
    ids, filters = Ids(), seccomp.Filters()
    spaces = {one.pid: mm_entry(one, saving) for one in snapshots if one.has_own(sharing.VM)}
    for snapshot in snapshots:
        new.write(f"mm-{snapshot.pid}.img", [spaces[snapshot.shares[sharing.VM]]])
        _write_process(new, snapshot, saving, ids.task(snapshot.shares), cpu, filters)
    for process in root.walk():
        if process.zombie:
            new.write(f"core-{process.pid}.img", [zombie_entry(process, cpu)])
            new.write(f"ids-{process.pid}.img", [ids.task((process.pid,) * 4)])
            if process.stat.exit_signal != SIGCHLD:
                said = {process.pid: {EXIT_SIGNAL: (process.stat.exit_signal,)}}
                new.write(f"pycriu-task-{process.pid}.img", own.task_entries(said))
    threads = {snapshot.pid: [thread.tid for thread in snapshot.threads] for snapshot in snapshots}
    new.write("pstree.img", [pstree_entry(process, threads.get(process.pid, [])) for process in root.walk()])
    saving.write(new)
    new.write("seccomp.img", [filters.image()])
    inventory = inventory_entry(ids)
    if saving.kinds.regular.options.allow_uprobes:
        inventory.allow_uprobes = True
    if inet := saving.kinds.find("inet.kind"):
        inet.tell(inventory)
    if saving.kinds.plugins is not None:
        saving.kinds.plugins.write(new, inventory)
    new.write("inventory.img", [inventory])


def _write_process(
    new: store.NewCheckpoint,
    snapshot: Snapshot,
    saving: Saving,
    ids: Any,
    cpu: Arch,
    filters: seccomp.Filters,
) -> None:
    pid = snapshot.pid
    for thread in snapshot.threads:
        core = core_entry(snapshot, thread, cpu)
        filters.put(core.thread_core, thread.seccomp)
        info, extras = cpu.save(thread.goes_on, thread.register_sets, thread.attributes.tid_address)
        getattr(core, cpu.thread_info).CopyFrom(info)
        new.write(f"core-{thread.tid}.img", [core])
        for kind, raw in extras.items():
            new.write(f"pycriu-{kind}-{thread.tid}.img", [m.pycriu_registers_entry(data=raw)])
    new.write(f"ids-{pid}.img", [ids])
    new.write(f"fs-{pid}.img", [files.fs_entry(snapshot.files, saving)])
    if snapshot.has_own(sharing.FILES):
        new.write(f"fdinfo-{ids.files_id}.img", files.descriptor_table(snapshot.files, saving))
    if new.remote is None:
        new.write(f"pagemap-{pid}.img", imagefiles.entries(snapshot.pages_id, snapshot.runs, snapshot.inherited))
    new.write_any(f"pycriu-memory-{pid}.img", memory.extra_entries(snapshot.mappings, snapshot.keys))
    new.write_any(f"pycriu-task-{pid}.img", own.task_entries(snapshot.facts))


def core_entry(snapshot: Snapshot, thread: Thread, cpu: Arch) -> Any:
    """The core image of a thread; the first one's holds what belongs to the process, too."""
    core = m.core_entry(mtype=cpu.mtype, thread_core=thread_entry(thread))
    if thread.tid == snapshot.pid:
        core.tc.CopyFrom(task_entry(snapshot))
    return core


def task_entry(snapshot: Snapshot) -> Any:
    """What belongs to the process as a whole."""
    task = m.task_core_entry(
        task_state=ALIVE,
        exit_code=0,
        personality=snapshot.personality,
        flags=snapshot.stat.flags,
        blk_sigset=snapshot.threads[0].signals.mask,
        comm=snapshot.stat.comm,
        timers=timers.entry(snapshot.itimers, posix_timers.entries(snapshot.timers_left)),
        rlimits=limits.limit_entries(snapshot.limits),
        cg_set=NO_CGROUPS,
        signals_s=signals.queue_entry(snapshot.queue),
        oom_score_adj=snapshot.oom_score_adj,
        sigactions=signals.action_entries(snapshot.actions),
    )
    if snapshot.process.stop_signal:
        task.task_state, task.stop_signo = STOPPED, snapshot.process.stop_signal
    if snapshot.login_uid is not None:
        task.loginuid = snapshot.login_uid
    if snapshot.attributes.membarrier:
        task.membarrier_registration_mask = snapshot.attributes.membarrier
    if snapshot.attributes.child_subreaper:
        task.child_subreaper = True
    return task


def thread_entry(thread: Thread) -> Any:
    """What belongs to one thread."""
    head, length = thread.registered.robust_list
    stat = thread.stat
    entry = m.thread_core_entry(
        futex_rla=head,
        futex_rla_len=length,
        sched_nice=stat.nice,
        sched_policy=stat.policy,
        sched_prio=stat.rt_priority,
        blk_sigset=thread.signals.mask,
        sas=signals.stack_entry(thread.stack),
        pdeath_sig=thread.attributes.pdeath_signal,
        signals_p=signals.queue_entry(thread.signals.queue),
        creds=credentials.entry(thread.status, thread.securebits),
        comm=stat.comm,
        cg_set=NO_CGROUPS,
    )
    if thread.registered.rseq is not None:
        entry.rseq_entry.CopyFrom(attributes.rseq_entry(thread.registered.rseq))
    return entry


def mm_entry(snapshot: Snapshot, saving: Saving) -> Any:
    """The mm image; the files that are mapped go into the files image."""
    vmas = []
    for mapping in memory.merge_clock_pages(snapshot.mappings):
        vmas.append(memory.vma_entry(mapping, memory.file_number(mapping, saving), memory.vma_advice(mapping)))
    vmas += memory.guard_entries(snapshot.guards)
    exe = saving.place(snapshot.files.exe)
    mm = memory.mm_entry(snapshot.stat, snapshot.brk, snapshot.auxv, exe, snapshot.attributes.dumpable, vmas)
    mm.aios.extend(memory.ring_entries(snapshot.rings))
    if snapshot.attributes.thp_disabled:
        mm.thp_disabled = True
    return mm


def zombie_entry(process: pstree.Process, cpu: Arch) -> Any:
    """The core image of a zombie: its name and how it ended."""
    task = m.task_core_entry(
        task_state=DEAD, exit_code=process.stat.exit_code, personality=0, flags=0, blk_sigset=0, comm=process.stat.comm
    )
    return m.core_entry(mtype=cpu.mtype, tc=task)


def pstree_entry(process: pstree.Process, tids: list[int]) -> Any:
    """One process of the tree and its threads; the root's parent is 0."""
    stat = process.stat
    return m.pstree_entry(
        pid=process.pid,
        ppid=0 if process.parent is None else process.parent.pid,
        pgid=stat.pgrp,
        sid=stat.session,
        threads=tids or [process.pid],
    )


def inventory_entry(ids: Ids) -> Any:
    """What the checkpoint is."""
    return m.inventory_entry(
        img_version=IMG_VERSION, fdinfo_per_id=True, ns_per_id=True, root_ids=ids.root, root_cg_set=NO_CGROUPS,
        lsmtype=0, dump_uptime=procfs.uptime(),
    )  # fmt: skip
