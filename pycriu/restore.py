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

import errno
import os
import time

from pycriu import arch
from pycriu.errors import ImageError, UserError
from pycriu.fds.opening import Opening
from pycriu.fds.table import Kinds
from pycriu.images import messages as m
from pycriu.images import store
from pycriu.kernel import procfs
from pycriu.options import RestoreOptions
from pycriu.record import record
from pycriu.resources import limits, stops
from pycriu.restoring import spawn
from pycriu.restoring.reading import Checkpoint
from pycriu.restoring.rebuild import Builder
from pycriu.tracing.haste import Haste
from pycriu.tracing.tracee import SIGSTOP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pycriu.edits import Edits
    from pycriu.hooks.audience import Audience
    from pycriu.log import Log


@record
class RestoreResult:
    """What was restored. `wait` waits for the root to end and returns its wait status; it works once."""

    root_pid: int
    took: int  # microseconds
    pages: int
    wait: Callable[[], int]


def restore(options: RestoreOptions, log: Log) -> RestoreResult:
    """Bring back the tree of `options.images_dir`; on any error nothing of it exists."""
    begin = time.monotonic()
    edits = asked_edits(options)
    options.hook("pre-restore", 0)
    cpu = arch.native()
    limits.raise_own_descriptor_limit()
    with images_of(options) as images:
        images.edited = edits
        kinds = Kinds(options, log)
        demand_plugins(images, kinds, options, log)
        check_cpu(images, options)
        check_uprobes(images, options)
        checkpoint = Checkpoint(images, cpu, kinds)
        try:
            for said in edits.check_used() if edits else ():
                log.info("%s", said)
            if options.wait_pid:
                from pycriu.restoring import pidwait

                pidwait.wait(checkpoint, options.wait_pid, log, shell_job=options.shell_job)
            for remark in checkpoint.check_here():
                log.warn("%s", remark)
            refuse_pidfile(options.pidfile)
            with Haste():  # which tasks inherit, until `Builder.finish` gives them their own
                old = getattr(images, "old", {})
                if kinds.plugins is None:
                    pages = restore_tree(checkpoint, kinds, cpu, options, log, old)
                else:
                    with kinds.plugins:
                        pages = restore_tree(checkpoint, kinds, cpu, options, log, old)
        finally:
            checkpoint.close()
    root = checkpoint.root.pid
    options.hook("post-resume", root)
    took = round((time.monotonic() - begin) * 1e6)
    if options.work_dir:
        store.write_stats(options.work_dir, "stats-restore", stats_entry(took, pages), log.warn)
    log.info("Restored %d processes, %d pages in %d us", len(checkpoint.tasks), pages, took)
    return RestoreResult(root, took, pages, lambda: os.waitpid(root, 0)[1])


def images_of(options: RestoreOptions) -> store.ImagesDir:
    """The images, as they are or as they would be of a process with another PID."""
    if options.new_life is None:
        return store.ImagesDir(options.images_dir)
    from pycriu.restoring import newlife

    return newlife.NewLife(options.images_dir, options.new_life)


def asked_edits(options: RestoreOptions) -> Edits | None:
    """The changes to images that are asked for, checked as far as they can be without the images."""
    if options.edits is not None or (not options.edit and options.edit_script is None):
        return options.edits
    from pycriu.edits import Edits

    return Edits(options.edit, options.edit_script)


def restore_tree(
    checkpoint: Checkpoint, kinds: Kinds, cpu: arch.Arch, options: RestoreOptions, log: Log, old: dict[int, int]
) -> int:
    """From open files to running tasks; the number of pages that were put back. `old` has the ids of the dump of tasks
    that have others now.
    """
    tables = {pid: task.descriptors for pid, task in checkpoint.tasks.items()}
    opened = Opening(kinds, checkpoint.files, tables, checkpoint.first_free_descriptor)
    tty = kinds.find("tty.kind")
    terminals = tty.controlling(opened) if tty else {}
    with opened, checkpoint.segments as segments, spawn.Nursery(cpu, terminals) as nursery:
        nursery.sibling = options.sibling
        if checkpoint.clocks.ahead is not None:
            nursery.enter = checkpoint.clocks.enter  # each of several roots one of its own, with the same clocks
        builder = Builder(nursery, opened, segments, checkpoint.tasks)
        if options.shell_job and not options.detached:
            spawn.join_our_group(checkpoint.root)
        family = spawn.plan(checkpoint.root, shell_job=options.shell_job, outer_group=options.outer_group)
        nursery.make(checkpoint.root, family)
        log.info("Made %d tasks", len(nursery.tasks))
        stop_again(nursery, checkpoint)
        if pidfds := kinds.find("pidfd"):
            builder.make_threads(checkpoint.with_threads(pidfds.threads))
        opened.open_late(nursery.tasks)
        if options.progress is not None:
            options.progress.put_back({pid: image.pages.fileno() for pid, image in checkpoint.tasks.items()})
        pages = sum(builder.rebuild(image) for image in checkpoint.tasks.values())
        builder.finish()
        opened.finish()
        if kinds.inherited is not None:
            kinds.inherited.tell_unused()
        segments.finish()
        settle(builder, old, kinds, nursery)
        with Pidfile(options.pidfile, checkpoint.root.pid):
            options.hook("post-restore", checkpoint.root.pid)
            options.hook("pre-resume", checkpoint.root.pid)
            audience = returned({pid: old.get(pid, pid) for pid in nursery.tasks}, kinds, options, log)
            options.settled()
            nursery.release(SIGSTOP if options.leave_stopped else 0, kinds.delicate())
            if audience is not None:
                audience.wake()
    if tty:
        tty.tell_size(list(checkpoint.tasks))
    if audience is not None:
        audience.done()
    return pages


def settle(builder: Builder, old: dict[int, int], kinds: Kinds, nursery: spawn.Nursery) -> None:
    """Let complete threads know their new ids, where they have such; and plugins bring back what they have of them."""
    if old:
        from pycriu.restoring import newlife

        newlife.settle(builder.threads(), old)
    if kinds.plugins is not None:
        kinds.plugins.resume(nursery.tasks)


def returned(pids: dict[int, int], kinds: Kinds, options: RestoreOptions, log: Log) -> Audience | None:
    """The programs with hooks among tasks that are complete, told that they have been restored; None if there are none.

    They hear of it when they run. `pids` has with the PID of each that of its dump.
    """
    memfds = kinds.find("memfd")
    if options.hooks == "skip" or memfds is None or not memfds.has("pycriu-hooks"):  # hooks.channel.NAME
        return None
    from pycriu.hooks import audience, program

    programs = [(pid, program.marked(pid)) for pid in pids]
    found = [program.found(pid, procfs.stat(pid).comm, address, pids[pid]) for pid, address in programs if address]
    if options.message and not any(found):
        raise ImageError("nobody here can be told anything: the memory of hooks is not in the images")
    told = audience.Audience([one for one in found if one], options.hook_timeout, log, stopped=options.leave_stopped)
    told.returned(options.message)
    return told


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


def check_uprobes(images: store.ImagesDir, options: RestoreOptions) -> None:
    """UserError where there may have been uprobes, and the user does not say so."""
    if images.inventory().allow_uprobes and not options.allow_uprobes:
        raise UserError("these images were made with --allow-uprobes", "--allow-uprobes, if probes are as they were")


def demand_plugins(images: store.ImagesDir, kinds: Kinds, options: RestoreOptions, log: Log) -> None:
    """UserError where the images need a plugin that is not there, or cannot do its part here."""
    if images.inventory().plugins_entry.plugins:
        from pycriu import plugins

        if options.new_life is not None:
            raise UserError("these images were made with plugins", "restore them under the PIDs that they are of")
        kinds.use_plugins(plugins.demanded(images, kinds.plugins, log))


def check_cpu(images: store.ImagesDir, options: RestoreOptions) -> None:
    """UserError where the CPU lacks what that of the dump had, if the user wants to know."""
    if options.cpu_cap is None:
        return
    from pycriu.arch import cpuinfo

    cpuinfo.check(images, cpuinfo.wanted(options.cpu_cap))


def refuse_pidfile(path: str | None) -> None:
    """UserError where the pidfile is there already."""
    if path is not None and os.path.lexists(path):
        raise UserError(f"--pidfile {path}: {os.strerror(errno.EEXIST)}", "the file must not exist yet")


class Pidfile:
    """The root's PID in a new file, which is gone again if the restore fails."""

    def __init__(self, path: str | None, pid: int) -> None:
        self._path, self._pid = path, pid

    def __enter__(self) -> None:
        if self._path is not None:
            from pycriu.command.background import write_pid

            write_pid(self._path, self._pid)

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is not None and self._path is not None:
            from pycriu.command.background import remove_pid

            remove_pid(self._path, self._pid)


def stats_entry(took: int, pages: int) -> m.stats_entry:
    """The stats-restore image; `took` is in microseconds."""
    entry = m.restore_stats_entry(
        pages_compared=0, pages_skipped_cow=0, forking_time=0, restore_time=took, pages_restored=pages
    )
    return m.stats_entry(restore=entry)
