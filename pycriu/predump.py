# SPDX-License-Identifier: GPL-2.0-only
"""The story of a pre-dump: the memory of a tree that runs on, so that the dump which follows has little left to copy.

survey     as for a dump: what could not be dumped is refused now
begin      open the images and the parent's
track      let the kernel note what changes from now on, where it can
copy       the pages of everybody, and of shared memory, while they run
write, commit

Nobody is stopped for the copying. What changes while it is read need not be right: the dump that builds upon it takes
no page from here that has changed since `track`, or whose content is another.
"""

from __future__ import annotations

import os
import time

from pycriu import arch, entries, errors, incremental, pagecompare, pageimages
from pycriu.dump import begin_images, opened_parent
from pycriu.errors import TraceeGone
from pycriu.fds.table import Kinds
from pycriu.home import Gadgets
from pycriu.images import messages as m
from pycriu.images import store
from pycriu.kernel.pagemap import PAGE_SIZE
from pycriu.record import record
from pycriu.resources import limits, memory
from pycriu.survey import survey

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pycriu.incremental import Parent
    from pycriu.log import Log
    from pycriu.options import DumpOptions


@record
class PreDumpResult:
    """What was done. Times are in microseconds."""

    tasks: int
    pages: int  # written
    skipped: int  # that the parent has
    took: int


class PreDump:
    """The memory of one tree on its way into images."""

    def __init__(self, new: store.NewCheckpoint, kinds: Kinds, parent: Parent | None) -> None:
        self._new, self._kinds, self._parent = new, kinds, parent
        self._numbers = pageimages.Numbers()
        self._objects: set[tuple[int, int]] = set()
        self.pages = self.skipped = 0

    def take(self, pid: int) -> bool:
        """One process and the shared memory that it has mapped; False when it has ended meanwhile."""
        try:
            mappings = memory.look(pid, self._kinds.regular)
            runs = pagecompare.union(memory.content(pid, mappings)[0])
            if self._new.remote is not None:
                self.pages += self._new.remote.take_running(pid, runs)
                self._take_objects(mappings)
                return True
            pages_id = self._numbers.pages()
            out = self._new.create_raw(f"pages-{pages_id}.img").fileno()
            if self._parent is None:
                written, inherited = incremental.copy_running(pid, runs, out)
            else:
                written, inherited = self._parent.copy_running(pid, runs, out)
        except (FileNotFoundError, ProcessLookupError, TraceeGone):
            return False
        self._note(written, inherited)
        self._new.write(f"pagemap-{pid}.img", pageimages.entries(pages_id, written, inherited))
        self._take_objects(mappings)
        return True

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
            saved = pageimages.save(self._new, self._numbers, fd, self._numbers.shmem(number), page_size)
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
        work = PreDump(new, kinds, parent)
        taken = [one.pid for one in root.walk() if not one.zombie and work.take(one.pid)]
        new.write("inventory.img", [entries.inventory_entry(entries.Ids())])
        new.commit()
    options.hook("post-dump", options.pid)
    result = PreDumpResult(len(taken), work.pages, work.skipped, round((time.monotonic() - begin) * 1e6))
    store.write_stats(options.work_dir, "stats-dump", stats_entry(result), log.warn)
    size = result.pages * PAGE_SIZE >> 10
    log.info("Nobody was stopped, %d pages (%d KiB) written, %d in parent", result.pages, size, result.skipped)
    return result


def stats_entry(result: PreDumpResult) -> m.stats_entry:
    """The stats-dump image."""
    return m.stats_entry(
        dump=m.dump_stats_entry(
            freezing_time=0, frozen_time=0, memdump_time=result.took, memwrite_time=0,
            pages_scanned=result.pages + result.skipped, pages_skipped_parent=result.skipped,
            pages_written=result.pages, pages_lazy=0,
        )
    )  # fmt: skip
