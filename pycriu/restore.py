# SPDX-License-Identifier: GPL-2.0-only
"""The story of a restore.

read       all images, held against each other and against this machine
open       every file, once, by us
spawn      empty tasks with the right PIDs, sessions and groups
rebuild    each task: memory, files, signals, and what else it had
finish     registers and masks, when everybody is complete
release    the pidfile, then everybody at once

Until `release` every task is traced with PTRACE_O_EXITKILL: a restore that fails, or is killed, leaves none behind.
"""

from __future__ import annotations

import os
import time

from pycriu import arch, spawn
from pycriu.checkpoint import Checkpoint, TaskImage, ThreadImage
from pycriu.errors import UserError
from pycriu.fds.opening import Opening
from pycriu.fds.table import Kinds
from pycriu.images import messages as m
from pycriu.images import store
from pycriu.kernel import procfs, ptrace
from pycriu.kernel.pagemap import PAGE_SIZE
from pycriu.options import RestoreOptions
from pycriu.record import record
from pycriu.resources import (
    attributes,
    credentials,
    files,
    limits,
    memory,
    posix_timers,
    prctl,
    procfiles,
    scheduling,
    seccomp,
    signals,
    stops,
    timers,
)
from pycriu.tracee import SCRATCH_SIZE, SIGSTOP, Remote, Row, Tracee, find_syscall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pycriu.images.facts import Numbers
    from pycriu.log import Log

_LOWEST_SCRATCH = 1 << 20


@record
class RestoreResult:
    """What was restored. `wait` waits for the root to end and returns its wait status; it works once."""

    root_pid: int
    wait: Callable[[], int]


def restore(options: RestoreOptions, log: Log) -> RestoreResult:
    """Bring back the tree of `options.images_dir`; on any error nothing of it exists."""
    begin = time.monotonic()
    cpu = arch.native()
    limits.raise_own_descriptor_limit()
    with store.ImagesDir(options.images_dir) as images:
        kinds = Kinds(options, log)
        checkpoint = Checkpoint(images, cpu, kinds)
        try:
            for remark in checkpoint.check_here():
                log.warn("%s", remark)
            pages = restore_tree(checkpoint, kinds, cpu, options, log)
        finally:
            checkpoint.close()
    root = checkpoint.root.pid
    took = round((time.monotonic() - begin) * 1e6)
    store.write_service(options.work_dir, "stats-restore", stats_entry(took, pages))
    log.info("Restored %d processes, %d pages in %d us", len(checkpoint.tasks), pages, took)
    return RestoreResult(root, lambda: os.waitpid(root, 0)[1])


def restore_tree(checkpoint: Checkpoint, kinds: Kinds, cpu: arch.Arch, options: RestoreOptions, log: Log) -> int:
    """From open files to running tasks; the number of pages that were put back."""
    tables = {pid: task.descriptors for pid, task in checkpoint.tasks.items()}
    opened = Opening(kinds, checkpoint.files, tables, checkpoint.first_free_descriptor)
    tty = kinds.find("tty")
    terminals = tty.controlling(opened) if tty else {}
    with opened, checkpoint.segments as segments, spawn.Nursery(cpu, terminals) as nursery:
        plans = [task.plan for task in checkpoint.tasks.values()]
        sources = memory.Sources(memory.open_mapped(plans, opened), segments)
        memory.check_huge_pages(plans)
        pages_fd = {pid: opened.adopt(os.dup(task.pages.fileno())) for pid, task in checkpoint.tasks.items()}
        if options.shell_job and not options.detached:
            spawn.join_our_group(checkpoint.root)
        nursery.make(checkpoint.root)
        log.info("Made %d tasks", len(nursery.tasks))
        stop_again(nursery, checkpoint)
        opened.open_late(nursery.tasks)
        mine = credentials.own()
        pages = 0
        threads: list[tuple[Tracee, ThreadImage]] = []
        facts = {tid: one for image in checkpoint.tasks.values() for tid, one in image.facts.items()}
        for pid, image in checkpoint.tasks.items():
            pages += rebuild(nursery, image, opened, sources, pages_fd[pid], mine, threads)
        for thread, of_thread in threads:
            finish(thread, of_thread, facts.get(thread.tid, {}))
        opened.finish()
        segments.finish()
        if options.pidfile is not None:
            write_pidfile(options.pidfile, checkpoint.root.pid)
        nursery.release(SIGSTOP if options.leave_stopped else 0)
    if tty:
        tty.tell_size(list(checkpoint.tasks))
    return pages


def stop_again(nursery: spawn.Nursery, checkpoint: Checkpoint) -> None:
    """Whoever was stopped by a signal is so again, before its parent has a handler or a mask of its own."""
    for pid, image in checkpoint.tasks.items():
        if image.stop_signal:
            stops.stop(nursery.tasks[pid], image.stop_signal)
    for member in checkpoint.root.walk():
        parent = checkpoint.tasks.get(member.parent.pid) if member.parent is not None else None
        stopped = member.exit_status is None and checkpoint.tasks[member.pid].stop_signal
        if parent is None or not stopped:
            continue
        if member.pid not in parent.facts.get(parent.pid, {}).get(stops.UNSEEN, ()):
            stops.see(nursery.tasks[parent.pid], member.pid)


def rebuild(
    nursery: spawn.Nursery,
    image: TaskImage,
    opened: Opening,
    sources: memory.Sources,
    pages_fd: int,
    mine: Any,
    threads: list[tuple[Tracee, ThreadImage]],
) -> int:
    """Everything that a process has but registers and masks; the number of its pages. `threads` gets its threads."""
    task, core, plan = nursery.tasks[image.pid], image.core, image.plan
    facts = image.facts.get(image.pid, {})
    present = procfs.parse_smaps(procfs.text(task.tid, "maps"))
    parking = memory.parking_size(present)
    busy = [(line.start, line.end) for line in present] + [(vma.start, vma.end) for vma in plan.vmas]
    scratch = memory.free_span(busy, SCRATCH_SIZE + parking, _LOWEST_SCRATCH, task.arch.task_size)
    descriptors = procfs.descriptors(task.tid)
    with Remote(task, at=scratch) as remote:
        remote.calls(signals.forget_children_rows(remote) + scheduling.thread_rows(facts, remote))
        pages = map_memory(remote, plan, present, scratch, busy, sources, pages_fd)
        limits.restore(task.tid, core)
        procfiles.restore(task.tid, facts)
        procfiles.restore_login_uid(remote, core)
        fd_of = opened.fd_of | opened.fetch(remote, [entry.id for entry in image.descriptors] + image.places)
        remote.calls(
            memory.finish_rows(plan, remote)
            + memory.mm_rows(image.mm, remote, fd_of[image.mm.exe_file_id])
            + files.place_rows(image.fs, fd_of)
            + files.descriptor_rows(image.descriptors, fd_of, [*descriptors, *fd_of.values()])
            + opened.task_rows(image.descriptors, task.tid, remote)
            + signals.rows(core, task.tid, remote)
            + attributes.rows(core, image.mm)
            + prctl.rows(facts)
        )
        others = nursery.make_threads(remote, [thread.tid for thread in image.threads[1:]])
        shared = seccomp.install_shared(remote, [task, *others], [thread.seccomp for thread in image.threads])
        for thread, of_thread in zip(others, image.threads[1:], strict=True):
            with Remote(thread, inside=remote) as guest:
                own = image.facts.get(thread.tid, {})
                seccomp.install(guest, of_thread.seccomp.chain[shared:])
                rows = scheduling.thread_rows(own, guest, facts)
                guest.calls(rows + thread_rows(image, of_thread, mine, guest))
        posix_timers.make(remote, core.tc.timers.posix)  # some notify a thread
        seccomp.install(remote, image.threads[0].seccomp.chain[shared:])
        remote.calls(
            thread_rows(image, image.threads[0], mine, remote)
            + attributes.last_rows(image.mm)
            + timers.rows(core, remote)
            + limits.rows(core, task.tid, remote)
        )
        posix_timers.arm(remote, core.tc.timers.posix)
        task.gate = find_gate(task, image)
    threads += zip((task, *others), image.threads, strict=True)
    return pages


def map_memory(
    remote: Remote,
    plan: memory.Plan,
    present: list[procfs.Mapping],
    scratch: int,
    busy: list[tuple[int, int]],
    sources: memory.Sources,
    pages_fd: int,
) -> int:
    """All mappings, and the private pages with their number; behind the scratch pages the vDSO can be put aside."""
    park = scratch + SCRATCH_SIZE
    busy = [*busy, (scratch, park + memory.parking_size(present))]
    remote.calls(
        memory.clear_rows(present)
        + memory.vdso_rows(present, plan.vmas, park)
        + memory.key_rows(plan)
        + memory.map_rows(plan, sources.files)
        + sources.segments.rows(plan, busy, remote.task.arch.task_size)
    )
    return memory.fill(remote, plan, pages_fd, PAGE_SIZE)


def thread_rows(image: TaskImage, of_thread: ThreadImage, mine: Any, remote: Remote) -> list[Row]:
    """What each thread sets for itself. Once its credentials are changed little else is allowed to it."""
    thread, persona = of_thread.core.thread_core, image.core.tc.personality
    return (
        signals.thread_rows(thread, image.pid, of_thread.tid, remote)
        + attributes.thread_rows(thread, of_thread.comm, persona, of_thread.tid_address, remote)
        + prctl.thread_rows(image.facts.get(of_thread.tid, {}))
        + credentials.rows(thread.creds, mine, remote)
        + attributes.last_thread_rows(thread)
        + seccomp.strict_rows(of_thread.seccomp)
    )


def find_gate(task: Tracee, image: TaskImage) -> int:
    """A system call instruction that stays when the scratch pages go: in the vDSO at its final place."""
    for vma in image.plan.vmas:
        if vma.status & memory.VDSO:
            code = task.read(vma.start, vma.end - vma.start)
            return int(vma.start) + find_syscall(task.arch, code)
    raise UserError(f"process {task.tid} had no vDSO", "such processes cannot be restored")


def finish(task: Tracee, image: ThreadImage, facts: dict[str, Numbers]) -> None:
    """Registers and mask: with these the thread is what it was."""
    task.arch.restore_others(task.tid, image.core, image.extras)
    task.set_registers(image.gpr)
    ptrace.set_sigmask(task.tid, signals.mask(image.core))
    scheduling.apply(task.tid, image.core.thread_core, facts)


def write_pidfile(path: str, pid: int) -> None:
    """The root's PID, decimal, without a newline, as CRIU writes it; UserError when the file is there already."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UserError(f"--pidfile {path}: {error.strerror}", "the file must not exist yet") from None
    try:
        os.write(fd, str(pid).encode())
    finally:
        os.close(fd)


def stats_entry(took: int, pages: int) -> m.stats_entry:
    """The stats-restore image; `took` is in microseconds."""
    entry = m.restore_stats_entry(
        pages_compared=0, pages_skipped_cow=0, forking_time=0, restore_time=took, pages_restored=pages
    )
    return m.stats_entry(restore=entry)
