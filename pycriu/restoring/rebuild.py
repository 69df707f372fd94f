# SPDX-License-Identifier: GPL-2.0-only
"""From empty tasks to complete ones: everything that a process and its threads have, in the order that it needs.

Nobody runs yet: each task makes the calls that we give it, table by table.
"""

from __future__ import annotations

import os

from pycriu.errors import UserError
from pycriu.fds.opening import Opening
from pycriu.kernel import procfs, ptrace
from pycriu.kernel.pagemap import PAGE_SIZE
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
    timers,
)
from pycriu.restoring import spawn
from pycriu.restoring.reading import TaskImage, ThreadImage
from pycriu.tracing.tracee import SCRATCH_SIZE, Remote, Row, Tracee, find_syscall

_LOWEST_SCRATCH = 1 << 20


class Builder:
    """The tasks of a restore in the making. What several share is rebuilt by one of them."""

    def __init__(
        self, nursery: spawn.Nursery, opened: Opening, segments: memory.Segments, images: dict[int, TaskImage]
    ) -> None:
        self._nursery, self._opened = nursery, opened
        plans = [image.plan for image in images.values()]
        self._sources = memory.Sources(memory.open_mapped(plans, opened), segments)
        memory.check_huge_pages(plans)
        self._pages = {
            pid: [
                (opened.adopt(os.dup(fd)), runs)
                for fd, runs in ((image.pages.fileno(), image.plan.runs), *image.plan.inherited)
            ]
            for pid, image in images.items()
        }
        self._null = opened.adopt(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
        self._born_with = credentials.own()
        self._threads: list[tuple[Tracee, TaskImage, ThreadImage]] = []
        self._made: dict[int, list[Tracee]] = {}  # threads but the first, by PID, that exist already

    def make_threads(self, images: list[TaskImage]) -> None:
        """All threads of these processes, before anything else of them: there are files that refer to some.

        What they would inherit from the first thread later is given to each.
        """
        for image in images:
            facts = image.facts.get(image.pid, {})
            with Remote(self._nursery.tasks[image.pid]) as remote:
                tids = [thread.tid for thread in image.threads[1:]]
                self._made[image.pid] = self._nursery.make_threads(remote, tids)
                for thread in self._made[image.pid]:
                    with Remote(thread, inside=remote) as guest:
                        guest.calls(scheduling.thread_rows(facts, guest))
                        procfiles.restore_login_uid(guest, image.core)

    def rebuild(self, image: TaskImage) -> int:
        """Everything that a process has but registers and masks; the number of its pages. Parents first."""
        task = self._nursery.tasks[image.pid]
        present = procfs.parse_smaps(procfs.text(task.tid, "maps"))
        busy = [(line.start, line.end) for line in present] + [(vma.start, vma.end) for vma in image.plan.vmas]
        size = SCRATCH_SIZE + memory.parking_size(present)
        scratch = memory.free_span(busy, size, _LOWEST_SCRATCH, task.arch.task_size)
        if image.first_in_memory is not image:  # what it was born on is gone
            task.gate = self._nursery.tasks[image.first_in_memory.pid].gate
        facts = image.facts.get(image.pid, {})
        with Remote(task, at=scratch) as remote:
            remote.calls(signals.forget_children_rows(remote) + scheduling.thread_rows(facts, remote))
            pages = self._fill(remote, image, present, [*busy, (scratch, scratch + size)])
            limits.restore(task.tid, image.core)
            procfiles.restore(task.tid, facts)
            procfiles.restore_login_uid(remote, image.core)
            self._place(remote, image)
            remote.calls(
                signals.rows(image.core, task.tid, remote) + attributes.rows(image.core, image.mm) + prctl.rows(facts)
            )
            self._complete(remote, image)
            task.gate = find_gate(task, image)
        return pages

    def _fill(
        self, remote: Remote, image: TaskImage, present: list[procfs.Mapping], busy: list[tuple[int, int]]
    ) -> int:
        """All mappings, and the private pages with their number; behind the scratch pages the vDSO can be put aside."""
        if image.first_in_memory is not image:
            return 0
        plan = image.plan
        remote.calls(
            memory.clear_rows(present)
            + memory.vdso_rows(present, plan.vmas, remote.scratch + SCRATCH_SIZE)
            + memory.key_rows(plan)
            + memory.map_rows(plan, self._sources.files)
            + self._sources.segments.rows(plan, busy, remote.task.arch.task_size)
        )
        pages = sum(memory.fill(remote, plan, fd, runs, PAGE_SIZE) for fd, runs in self._pages[image.pid])
        memory.restore_rings(remote, plan, image.pages.fileno(), self._null)
        return pages

    def _place(self, remote: Remote, image: TaskImage) -> None:
        """Its layout of memory, its directory, and its descriptors under their numbers."""
        present, opened = procfs.descriptors(image.pid), self._opened
        fd_of = opened.fd_of | opened.fetch(remote, [entry.id for entry in image.descriptors] + image.places)
        if image.first_in_memory is image:
            exe = fd_of[image.mm.exe_file_id]
            remote.calls(memory.finish_rows(image.plan, remote) + memory.mm_rows(image.mm, remote, exe))
        rows = files.place_rows(image.fs, fd_of, remote)
        if image.last_at_table:  # until then the others need what they were born with
            rows += files.descriptor_rows(image.descriptors, fd_of, [*present, *fd_of.values()])
            rows += opened.task_rows(image.descriptors, image.pid, remote)
        remote.calls(rows)

    def _complete(self, remote: Remote, image: TaskImage) -> None:
        """The other threads, and what each thread has of its own; with its credentials it loses its power."""
        task, core, first = remote.task, image.core, image.threads[0]
        remote.reset()
        others = self._made.get(image.pid) or self._nursery.make_threads(
            remote, [thread.tid for thread in image.threads[1:]]
        )
        shared = seccomp.install_shared(remote, [task, *others], [thread.seccomp for thread in image.threads])
        for thread, of_thread in zip(others, image.threads[1:], strict=True):
            with Remote(thread, inside=remote) as guest:
                seccomp.install(guest, of_thread.seccomp.chain[shared:])
                facts = [image.facts.get(tid, {}) for tid in (thread.tid, task.tid)]
                rows = scheduling.thread_rows(facts[0], guest, facts[1])
                guest.calls(rows + self._thread_rows(image, of_thread, guest))
        posix_timers.make(remote, core.tc.timers.posix)  # some notify a thread
        seccomp.install(remote, first.seccomp.chain[shared:])
        remote.calls(
            self._thread_rows(image, first, remote)
            + attributes.last_rows(image.mm)
            + timers.rows(core, remote)
            + limits.rows(core, task.tid, remote)
        )
        posix_timers.arm(remote, core.tc.timers.posix)
        self._threads += zip((task, *others), (image,) * len(image.threads), image.threads, strict=True)

    def _thread_rows(self, image: TaskImage, of_thread: ThreadImage, remote: Remote) -> list[Row]:
        thread, persona = of_thread.core.thread_core, image.core.tc.personality
        return (
            signals.thread_rows(thread, image.pid, of_thread.tid, remote)
            + attributes.thread_rows(thread, of_thread.comm, persona, of_thread.tid_address, remote)
            + prctl.thread_rows(image.facts.get(of_thread.tid, {}))
            + credentials.rows(thread.creds, self._born_with, remote)
            + attributes.last_thread_rows(thread)
            + seccomp.strict_rows(of_thread.seccomp)
        )

    def threads(self) -> list[tuple[Tracee, ThreadImage]]:
        """All threads that are complete, each with its image."""
        return [(task, of_thread) for task, _, of_thread in self._threads]

    def finish(self) -> None:
        """Registers and masks, when everybody is complete: with these the threads are what they were."""
        for task, image, of_thread in self._threads:
            task.arch.restore_others(task.tid, of_thread.core, of_thread.extras)
            task.set_registers(of_thread.gpr)
            ptrace.set_sigmask(task.tid, signals.mask(of_thread.core))
            scheduling.apply(task.tid, of_thread.core.thread_core, image.facts.get(task.tid, {}))


def find_gate(task: Tracee, image: TaskImage) -> int:
    """A system call instruction that stays when the scratch pages go: in the vDSO at its final place."""
    for vma in image.plan.vmas:
        if vma.status & memory.VDSO:
            code = task.read(vma.start, vma.end - vma.start)
            return int(vma.start) + find_syscall(task.arch, code)
    raise UserError(f"process {task.tid} had no vDSO", "such processes cannot be restored")
