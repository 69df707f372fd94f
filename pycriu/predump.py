# SPDX-License-Identifier: GPL-2.0-only
"""The story of a pre-dump: the memory of a tree that runs on, so that the dump which follows has little left to copy.

survey     as for a dump: what could not be dumped is refused now
begin      open the images and the parent's
track      stop everybody for a moment, and let the kernel note what changes from now on; only where it can
copy       the pages of everybody, and of shared memory, while they run
write, commit

Nobody is stopped for the copying. What changes while it is read need not be right: the dump that builds upon it takes
no page from here that has been written to since `track` or, where nothing is tracked, whose content is another.
"""

from __future__ import annotations

import os
import time

from pycriu import arch, errors, sharing
from pycriu.dump import begin_images, opened_parent
from pycriu.dumping import entries, incremental, tracking
from pycriu.dumping.survey import refuse_foreign, survey
from pycriu.errors import TraceeGone
from pycriu.fds.table import Kinds
from pycriu.images import messages as m
from pycriu.images import store
from pycriu.kernel.pagemap import PAGE_SIZE, Run
from pycriu.pages import comparing, imagefiles
from pycriu.record import record, replace
from pycriu.resources import limits, memory
from pycriu.tracing import pstree
from pycriu.tracing.haste import Haste
from pycriu.tracing.home import Gadgets
from pycriu.tracing.tracee import Tracee

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pycriu.dumping.incremental import Parent
    from pycriu.dumping.tracking import Begun, Tracker
    from pycriu.log import Log
    from pycriu.options import DumpOptions


@record
class PreDumpResult:
    """What was done. Times are in microseconds; `frozen` is how long the tree stood still, 0 where it never did."""

    tasks: int
    pages: int  # written
    skipped: int  # that the parent has
    took: int
    freezing: int = 0
    frozen: int = 0


class Look:
    """The private memory of one process of the tree."""

    def __init__(self, pid: int, kinds: Kinds) -> None:
        self.pid = pid
        self.mappings = memory.look(pid, kinds.regular)
        self.runs = comparing.union(memory.content(pid, self.mappings)[0])
        self.same: list[Run] = []  # the part of `runs` that is known to be as the parent has it
        self.begun: Begun | None = None  # if it is tracked


class Tracking:
    """The moment at which everybody stands still, and the kernel begins to note what changes."""

    def __init__(self, options: DumpOptions, kinds: Kinds, parent: Parent | None) -> None:
        self._options, self._kinds, self._parent = options, kinds, parent
        self.freezing = self.frozen = 0.0  # seconds
        self.looks: dict[int, Look] = {}

    def begin(self, tracker: Tracker, root: pstree.Process, cpu: arch.Arch) -> None:
        """Look at everybody while they run; then stop them, and begin."""
        for process in root.walk():
            try:
                self.looks[process.pid] = Look(process.pid, self._kinds)
            except (FileNotFoundError, ProcessLookupError, TraceeGone):
                continue  # it has ended, or is going to
        start = time.monotonic()
        with Haste(), pstree.Freeze(self._options.pid, cpu, self._options.timeout) as tree:
            stopped = time.monotonic()
            refuse_foreign(tree.root, self._options)
            live = [process for process in tree.root.walk() if not process.zombie]
            shares = sharing.shares([process.pid for process in live])
            for process in live:
                look = self.looks.get(process.pid)
                if look is not None and shares[process.pid][sharing.VM] == process.pid:
                    self._begin_one(tracker, tree.tasks[process.pid], process.stat.starttime, look)
        self.freezing, self.frozen = stopped - start, time.monotonic() - stopped
        tracker.tell()

    def _begin_one(self, tracker: Tracker, task: Tracee, started: int, look: Look) -> None:
        if self._parent is not None:
            look.same, _ = self._parent.unchanged(look.pid, started, look.mappings, look.runs)
        look.begun = tracker.attempt(task, started, look.mappings, look.runs)


class PreDump:
    """The memory of one tree on its way into images."""

    def __init__(self, new: store.NewCheckpoint, kinds: Kinds, parent: Parent | None, looks: dict[int, Look]) -> None:
        self._new, self._kinds, self._parent, self._looks = new, kinds, parent, looks
        self._numbers = imagefiles.Numbers()
        self._objects: set[tuple[int, int]] = set()
        self.pages = self.skipped = 0

    def take(self, pid: int) -> bool:
        """One process and the shared memory that it has mapped; False when it has ended meanwhile."""
        try:
            look = self._looks.get(pid) or Look(pid, self._kinds)
            if self._new.remote is not None:
                self.pages += self._new.remote.take_running(pid, look.runs)
            else:
                self._take_private(look)
        except (FileNotFoundError, ProcessLookupError, TraceeGone):
            return False
        self._take_objects(look.mappings)
        return True

    def _take_private(self, look: Look) -> None:
        pid, begun = look.pid, look.begun
        pages_id = self._numbers.pages()
        out = self._new.create_raw(f"pages-{pages_id}.img").fileno()
        runs = comparing.without(look.runs, look.same)
        with incremental.Running(pid) as task:
            read = task.read if begun is None else begun.watched(task.read, pid)
            if self._parent is None:
                written, inherited = incremental.copy_running(runs, out, read)
            else:
                written, inherited = self._parent.copy_running(pid, runs, out, read)
        inherited = comparing.union(inherited + look.same)
        self._note(written, inherited)
        self._new.write(f"pagemap-{pid}.img", imagefiles.entries(pages_id, written, inherited))
        if begun is not None:
            begun.keep(look.same)
            self._new.write(f"pycriu-track-{pid}.img", [begun.image()])

    def _take_objects(self, mappings: list[memory.Mapping]) -> None:
        for mapping in mappings:
            self._take_object(mapping)

    def _take_object(self, mapping: memory.Mapping) -> None:
        found = memory.object_of(mapping)
        if found is None or mapping.file is None:
            return
        link, number, page_size = found
        key = (mapping.file.status.st_dev, mapping.file.status.st_ino)
        if key in self._objects:
            return
        self._objects.add(key)
        try:
            fd = os.open(link, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return  # unmapped meanwhile
        try:
            saved = imagefiles.save(self._new, self._numbers, fd, self._numbers.shmem(number), page_size)
        finally:
            os.close(fd)
        self._note(list(saved.runs), list(saved.in_parent))
        saved.write(self._new)

    def _note(self, written: list[tuple[int, int]], inherited: list[tuple[int, int]]) -> None:
        self.pages += sum(pages for _, pages in written)
        self.skipped += sum(pages for _, pages in inherited)


def pre_dump(options: DumpOptions, log: Log) -> PreDumpResult:
    """Save the memory of the tree of `options.pid`, which runs on."""
    options.hook("pre-dump", options.pid)
    begin = time.monotonic()
    cpu = arch.native()
    limits.raise_own_descriptor_limit()
    kinds = Kinds(options, log)
    gadgets = Gadgets(cpu)
    root, size = errors.at_once(lambda: survey(options, gadgets, kinds))
    with opened_parent(options, log) as parent, store.NewCheckpoint(options.images_dir) as new:
        begin_images(new, parent, size, options)
        moment = Tracking(options, kinds, parent)
        tracker = tracking.opened(replace(options, leave_running=True), log)
        if tracker is not None:
            moment.begin(tracker, root, cpu)
        work = PreDump(new, kinds, parent, moment.looks)
        taken = [one.pid for one in root.walk() if not one.zombie and work.take(one.pid)]
        new.write("inventory.img", [entries.inventory_entry(entries.Ids())])
        new.commit()
    options.hook("post-dump", options.pid)
    spans = (round(span * 1e6) for span in (time.monotonic() - begin, moment.freezing, moment.frozen))
    result = PreDumpResult(len(taken), work.pages, work.skipped, *spans)
    store.write_stats(options.work_dir, "stats-dump", stats_entry(result), log.warn)
    size = result.pages * PAGE_SIZE >> 10
    stood = f"Frozen for {result.frozen} us" if result.frozen else "Nobody was stopped"
    log.info("%s, %d pages (%d KiB) written, %d in parent", stood, result.pages, size, result.skipped)
    return result


def stats_entry(result: PreDumpResult) -> m.stats_entry:
    """The stats-dump image."""
    return m.stats_entry(
        dump=m.dump_stats_entry(
            freezing_time=result.freezing, frozen_time=result.frozen, memdump_time=result.took, memwrite_time=0,
            pages_scanned=result.pages + result.skipped, pages_skipped_parent=result.skipped,
            pages_written=result.pages, pages_lazy=0,
        )
    )  # fmt: skip
