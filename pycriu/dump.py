# SPDX-License-Identifier: GPL-2.0-only
"""The story of a dump.

survey     look at the tree while it runs, and refuse what cannot be kept, all of it at once; first let programs with
           hooks prepare for it
begin      open the checkpoint, with room for the pages
freeze     stop every task
look       read what a stopped task shows; ask it for the rest
copy       its pages
thaw       at once, if it is to go on running
write      the images
commit     the checkpoint takes the place of the one before
finish     kill the tree, or leave it stopped

An error anywhere before `finish` lets the tree go on as it was; so does the end of a dump with --leave-running.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import time

from pycriu import arch, errors, sharing
from pycriu.dumping import entries
from pycriu.dumping.snapshot import Snapshot
from pycriu.dumping.survey import check_sessions, refuse_foreign, refuse_relations, survey
from pycriu.fds.saving import Saving
from pycriu.fds.table import Kinds
from pycriu.images import messages as m
from pycriu.images import store
from pycriu.images.durable import sync_together
from pycriu.kernel import names
from pycriu.kernel.pagemap import PAGE_SIZE
from pycriu.log import DEBUG, TOO_LATE, Log
from pycriu.options import DumpOptions
from pycriu.pages import copying, imagefiles
from pycriu.record import record
from pycriu.resources import limits, memory
from pycriu.tracing import pstree
from pycriu.tracing.haste import Haste
from pycriu.tracing.home import Gadgets
from pycriu.tracing.tracee import SIGSTOP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pycriu.command.progress import Progress
    from pycriu.dumping.incremental import Parent
    from pycriu.dumping.tracking import Tracker
    from pycriu.hooks.audience import Audience
    from pycriu.plugins import Paused

ENDING = {1, 2, 14, 15}  # SIGHUP, SIGINT, SIGALRM (--timeout), SIGTERM


@record
class DumpResult:
    """What was done. Times are in microseconds; `frozen` is how long the tree stood still."""

    tasks: int
    pages: int
    freezing: int
    frozen: int
    copying: int
    skipped: int = 0  # pages that the parent has
    shared: int = 0  # pages of shared memory, which are not among `pages`


def dump(options: DumpOptions, log: Log) -> DumpResult:
    """Save the tree of `options.pid`. Unsupported, UserError and their like leave it running, unchanged."""
    options.hook("pre-dump", options.pid)
    cpu = arch.native()
    limits.raise_own_descriptor_limit()
    gadgets = Gadgets(cpu)
    kinds = Kinds(options, log)
    facts = cpu_facts(options)
    audience, size = prepared(options, gadgets, kinds, log)
    with audience, opened_parent(options, log) as parent, store.NewCheckpoint(options.images_dir) as new:
        begin_images(new, parent, size, options)
        tracker = opened_tracker(options, log)
        preload(cpu)
        begin = time.monotonic()
        with (
            paused(kinds, options, log),
            Haste() as haste,
            pstree.Freeze(options.pid, cpu, options.timeout, options.find) as tree,
            kinds,
            memory.Objects() as objects,
        ):
            frozen = time.monotonic()
            refuse_foreign(tree.root, options)
            check_sessions(tree.root, shell_job=options.shell_job)
            if kinds.plugins is not None:
                kinds.plugins.after_freeze(tree)
            snapshots = take_snapshots(tree, gadgets, kinds)
            saving = take_files(tree.root, snapshots, kinds, objects)
            looked = time.monotonic()
            show(options.progress, new, snapshots)
            segments = copy_pages(new, snapshots, kinds, options, parent)
            tracker.begin_saved(snapshots)
            if options.leave_running:
                thaw(tree, kinds)
                audience.goes_on()
            haste.end()
            copied = time.monotonic()
            segments.write(new, entries.IPC_NAMESPACE)
            for name, entry in facts:
                new.write(name, [entry])
            entries.write(new, tree.root, snapshots, saving, cpu)
            tracker.write(new)
            sync_together(kinds.regular.to_sync())  # after a power cut they must match the checkpoint
            new.commit()
            options.hook("post-dump", options.pid)
            finish(tree, kinds, options, log)
            size = new.pages_size()
    tell(snapshots, log)
    return told(measured(snapshots, (frozen - begin, copied - frozen, copied - looked), parent, size), options, log)


def told(result: DumpResult, options: DumpOptions, log: Log) -> DumpResult:
    """The same, in the statistics and the log."""
    store.write_stats(options.work_dir, "stats-dump", stats_entry(result), log.warn)
    log.info("Frozen for %d us, %d pages written", result.frozen, result.pages)
    return result


def prepared(options: DumpOptions, gadgets: Gadgets, kinds: Kinds, log: Log) -> tuple[Audience | Nobody, int]:
    """The survey, after programs with hooks have called them; those to be told how it ends, and the size.

    What the survey would refuse may be what hooks put away, so then it is asked once more.
    """

    def look() -> tuple[pstree.Process, int]:
        return errors.at_once(lambda: survey(options, gadgets, kinds))

    try:
        root, size = look()
    except errors.UserError:  # the request is wrong, whatever hooks do
        raise
    except errors.PycriuError:
        root, size = options.find() if options.find else pstree.scan(options.pid), -1
        refuse_foreign(root, options)
        if options.hooks == "skip" or not mark(root):
            raise
    programs = [process for process in root.walk() if process.hooks_at] if options.hooks != "skip" else []
    if programs:
        from pycriu.hooks.audience import gathered

        audience = gathered(programs, options, log)
        root, size = audience.prepared(look)
    log.info("Dumping %d processes from %d", len(root.walk()), options.pid)
    return audience if programs else Nobody(), size


def mark(root: pstree.Process) -> bool:
    """Find programs with hooks where the survey has come to no end; whether there are any."""
    from pycriu.hooks.program import marked

    for process in root.walk():
        process.hooks_at = marked(process.pid)
    return any(process.hooks_at for process in root.walk())


class Nobody:
    """The audience of a dump without programs that have hooks."""

    def __enter__(self) -> None:
        return

    def __exit__(self, *_: object) -> None:
        return

    def goes_on(self) -> None:
        """See `hooks.audience.Audience`."""


def cpu_facts(options: DumpOptions) -> list[tuple[str, Any]]:
    """What the CPU offers, where the user wants it in the images: image and entry."""
    if options.cpu_cap is None:
        return []
    from pycriu.arch import cpuinfo

    return [cpuinfo.here()] if cpuinfo.wanted(options.cpu_cap) else []


def measured(
    snapshots: list[Snapshot], spans: tuple[float, float, float], parent: Parent | None, size: int
) -> DumpResult:
    """What was done; `spans` are seconds: freezing, frozen, copying, and `size` the bytes of all images of pages."""
    pages = sum(pages for snapshot in snapshots if snapshot.has_own(sharing.VM) for _, pages in snapshot.runs)
    threads = sum(len(snapshot.threads) for snapshot in snapshots)
    freezing, stood, copying = (round(span * 1e6) for span in spans)
    shared = max(0, size // PAGE_SIZE - pages)
    return DumpResult(threads, pages, freezing, stood, copying, 0 if parent is None else parent.skipped, shared)


class NotPaused:
    """The scope of a dump without plugins."""

    def __enter__(self) -> None:
        return

    def __exit__(self, *_: object) -> None:
        return


def paused(kinds: Kinds, options: DumpOptions, log: Log) -> Paused | NotPaused:
    """The scope in which what plugins know of the tree stands still."""
    if kinds.plugins is None and not kinds.maps_cuda:
        return NotPaused()
    from pycriu import plugins

    known = kinds.plugins or plugins.Plugins([], log)
    if kinds.maps_cuda:
        known.add_cuda()
    kinds.use_plugins(known)
    root = options.find() if options.find else pstree.scan(options.pid)
    return plugins.Paused(known, [one.pid for one in root.walk() if not one.zombie], options.timeout)


def thaw(tree: pstree.Freeze, kinds: Kinds) -> None:
    """Let the tree run on."""
    kinds.thaw()
    tree.thaw()
    if kinds.plugins is not None:
        kinds.plugins.thawed()


class NoTracker:
    """Nobody wants to know what changes from now on."""

    def begin_saved(self, _snapshots: list[Snapshot]) -> None:
        """Nothing."""

    def write(self, _new: store.NewCheckpoint) -> None:
        """Nothing."""


def opened_tracker(options: DumpOptions, log: Log) -> Tracker | NoTracker:
    """Who lets the kernel note what changes from now on, where that is wanted and possible."""
    if not options.track_mem:
        return NoTracker()
    from pycriu.dumping import tracking

    return tracking.opened(options, log) or NoTracker()


class NoParent:
    """The scope of a dump that builds upon nothing."""

    def __enter__(self) -> None:
        return

    def __exit__(self, *_: object) -> None:
        return


def opened_parent(options: DumpOptions, log: Log) -> Parent | NoParent:
    """The images to build upon."""
    if options.prev_images_dir is None:
        return NoParent()
    from pycriu.dumping import incremental

    return incremental.Parent(options.prev_images_dir, options.images_dir, log)


def begin_images(new: store.NewCheckpoint, parent: Parent | None, size: int, options: DumpOptions) -> None:
    """See that there is room for `size` bytes of pages, here or elsewhere.

    How many have changed since a parent, nobody knows yet.
    """
    if parent is not None:
        parent.attach(new)
    if options.page_server is not None:
        from pycriu.pageserver import client

        later = options.leave_running  # its pages are here until it runs again
        new.remote = client.Remote(options.page_server, options.pid, new.path if later else None)
        new.before_commit(new.remote.finish)
        if not later:
            return
    elif parent is not None:
        return
    new.reserve(size)


def tell(snapshots: list[Snapshot], log: Log) -> None:
    """What each thread was found doing, for the debug log."""
    if log.level < DEBUG:
        return
    for one in snapshots:
        log.debug("process %d (%s) has %d mappings", one.pid, one.stat.comm, len(one.mappings))
        for thread in one.threads:
            doing = names.syscall(thread.interrupted_call) if thread.interrupted_call >= 0 else "running"
            log.debug("thread %d (%s) was in %s", thread.tid, thread.stat.comm, doing)


def preload(cpu: arch.Arch) -> None:
    """Make the message classes now that would otherwise be made between freeze and thaw."""
    for name in cpu.messages:
        getattr(m, name)


def take_snapshots(tree: pstree.Freeze, gadgets: Gadgets, kinds: Kinds) -> list[Snapshot]:
    """Everything of everybody, parents first: what can be refused, then what makes the tasks work for us."""
    live = [process for process in tree.root.walk() if not process.zombie]
    shared = sharing.shares([process.pid for process in live])
    refuse_relations(live, shared)
    snapshots = [Snapshot(one, tree.threads(one), gadgets, kinds, shared[one.pid]) for one in live]
    by_pid = {snapshot.pid: snapshot for snapshot in snapshots}
    for snapshot in snapshots:
        snapshot.look(by_pid)
    for snapshot in snapshots:
        snapshot.ask()
    return snapshots


def take_files(root: pstree.Process, snapshots: list[Snapshot], kinds: Kinds, objects: memory.Objects) -> Saving:
    """Everything that the tree has open or mapped."""
    saving = Saving(kinds, root)
    descriptors = [known for one in snapshots if one.has_own(sharing.FILES) for known in one.files.descriptors]
    descriptors += [
        known for one in snapshots if one.has_own(sharing.VM) for known in objects.take(one.mappings, kinds)
    ]
    saving.take(descriptors, [place for snapshot in snapshots for place in snapshot.places()])
    return saving


def show(progress: Progress | None, new: store.NewCheckpoint, snapshots: list[Snapshot]) -> None:
    """Let somebody see how far the copying is."""
    if progress is not None:
        pages = sum(pages for snapshot in snapshots if snapshot.has_own(sharing.VM) for _, pages in snapshot.runs)
        progress.begin("saved", pages, new.copied)


def copy_pages(
    new: store.NewCheckpoint,
    snapshots: list[Snapshot],
    kinds: Kinds,
    options: DumpOptions,
    parent: Parent | None,
) -> memory.Attached:
    """The pages of each task, and of each object, into an image of its own; the System V segments are returned."""
    segments = memory.Attached()
    numbers = imagefiles.Numbers()
    by_pid = {snapshot.pid: snapshot for snapshot in snapshots}
    try:
        for snapshot in snapshots:
            if not snapshot.has_own(sharing.VM):
                snapshot.take_pages(by_pid[snapshot.shares[sharing.VM]])
                continue
            if new.remote is not None:
                new.remote.take(snapshot, [one.pid for one in snapshots if one.shares[sharing.VM] == snapshot.pid])
                continue
            snapshot.pages_id = numbers.pages()
            out = new.create_raw(f"pages-{snapshot.pages_id}.img").fileno()
            write_back = not options.leave_running
            if parent is None:
                copying.copy(snapshot.task, snapshot.runs, out, write_back=write_back)
            else:
                parent.copy_snapshot(snapshot, out, write_back=write_back)
        for snapshot in snapshots:
            segments.take(snapshot.mappings)
        segments.copy(new, numbers)
        for kind in kinds.all:
            kind.copy(new, numbers)
        for snapshot in snapshots:
            memory.check_idle(snapshot.task, snapshot.rings)
    except OSError as error:
        raise store.refusal(error, options.images_dir) from None
    return segments


def finish(tree: pstree.Freeze, kinds: Kinds, options: DumpOptions, log: Log) -> None:
    """The end state of the tree: killed, stopped, or (already) running.

    Half a tree must not be left of it: signals that end us have come before, or come too late.
    """
    if options.leave_running:
        options.settled()
        return
    before = _signal.pthread_sigmask(_signal.SIG_BLOCK, ENDING)
    try:
        options.settled()
        end(tree, kinds, options)
    finally:
        while late := _signal.sigtimedwait(ENDING, 0):
            log.warn(TOO_LATE, late.si_signo)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, before)


def end(tree: pstree.Freeze, kinds: Kinds, options: DumpOptions) -> None:
    """Killed, or let go with a signal, by default that which stops them."""
    if signal := SIGSTOP if options.leave_stopped else options.signal:
        if kinds.plugins is not None:
            kinds.plugins.resume(tree.tasks, tree)
        for process in tree.root.walk():
            if not process.zombie:  # its threads find it when they are let go: a stop, for one, before any runs
                os.kill(process.pid, signal)
        tree.thaw()
        return
    kinds.before_kill([process.pid for process in tree.root.walk() if not process.zombie])
    tree.kill()
    if kinds.plugins is not None:
        kinds.plugins.ended()


def stats_entry(result: DumpResult) -> m.stats_entry:
    """The stats-dump image, with all fields that CRIU fills in. There are no pipes that pages go through."""
    return m.stats_entry(
        dump=m.dump_stats_entry(
            freezing_time=result.freezing, frozen_time=result.frozen, memdump_time=result.copying, memwrite_time=0,
            pages_scanned=result.pages + result.skipped, pages_skipped_parent=result.skipped,
            pages_written=result.pages, irmap_resolve=0, pages_lazy=0, page_pipes=0, page_pipe_bufs=0,
            shpages_scanned=result.shared, shpages_skipped_parent=0, shpages_written=result.shared,
        )
    )  # fmt: skip
