# SPDX-License-Identifier: GPL-2.0-only
"""Dumps that hold only what has changed since an earlier one: its images, opened for comparison before anybody stops.

A page is left to the parent (`pagemap_entry.flags`) where the kernel has noted that nobody has written to it since
(`tracking`), and else where its content is the same there. For the latter it does not matter whose page that was, nor
what has become of the memory in between: equal is equal.
"""

from __future__ import annotations

import os

from pycriu.errors import ImageError, UserError
from pycriu.kernel.pagemap import PAGE_SIZE, Run, append
from pycriu.pages import comparing, copying, lineage
from pycriu.tracing.tracee import Tracee

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from pycriu.dumping.snapshot import Snapshot
    from pycriu.dumping.tracking import Track
    from pycriu.images.store import NewCheckpoint
    from pycriu.log import Log
    from pycriu.pages.comparing import Read
    from pycriu.pages.copying import Batch
    from pycriu.resources.memory import Mapping

_NOTHING = comparing.Comparison([])


class Parent:
    """The images that a dump builds upon. A scope; nobody else can change them while it lasts."""

    def __init__(self, path: str, images_dir: str, log: Log) -> None:
        """`path` is as the user gave it: relative to the images directory, or absolute."""
        given = os.path.join(images_dir, path)
        self._log = log
        self._first = lineage.open_set(given, "--prev-images-dir", os.geteuid())
        self._chain = lineage.Lineage(self._first)
        self._known: dict[str, comparing.Comparison] = {}
        self._open: list[int] = []
        self._tracks: dict[int, Track] = {}
        self._told: list[str] = []  # to the log, when nobody waits any more
        self.skipped = 0  # pages that the parent has
        self.link = os.path.relpath(os.path.realpath(given), os.path.realpath(images_dir))
        try:
            self._check(images_dir)
            for name in self._first.names():
                if name.startswith("pagemap-"):
                    self._known[name] = self._read(name)
            self._read_tracks()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def attach(self, new: NewCheckpoint) -> None:
        """Let these images be the parent of new ones; once those are there, these know of them."""
        new.parent = self
        new.link_parent(self.link)
        new.before_commit(lambda: self._note(new.path))

    def close(self) -> None:
        """Give everything back."""
        for line in self._told:
            self._log.info("%s", line)
        self._told = []
        for fd in self._open:
            os.close(fd)
        self._open = []
        self._chain.__exit__()
        self._first.close()

    def _note(self, child: str) -> None:
        from pycriu.images import children

        children.note(self._first.path, child, self._log)

    def _check(self, images_dir: str) -> None:
        ours = os.stat(images_dir)
        for images in self._chain.all():
            there = os.stat(images.path)
            if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino):
                raise UserError(
                    f"--prev-images-dir: {images.path} is the directory that this dump is to go to",
                    "a dump cannot build upon what it replaces: take a new directory",
                )
        if len(self._chain.sets) >= lineage.MAX_SETS:
            raise UserError(
                f"--prev-images-dir: {len(self._chain.sets)} sets of images are chained already",
                "begin a new chain with a full dump",
            )

    def _read(self, name: str) -> comparing.Comparison:
        _, *entries = self._first.read(name)
        wanted = [(start, (end - start) // PAGE_SIZE) for start, end, _ in lineage.located(entries, name)]
        found, lacking = lineage.find(self._chain, name, wanted, 0, missing_allowed=True)
        self._open += [fd for fd, _ in found]
        for fd, _ in found:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED)  # not from the disk while everybody stands still
        if lacking:
            raise ImageError(
                f"{self._first.path}/{name}: the page at {lacking[0][0]:#x} is in no parent",
                "the chain is broken: begin a new one with a full dump",
            )
        return comparing.Comparison(found)

    def _read_tracks(self) -> None:
        prefix = "pycriu-track-"
        numbers = [name[len(prefix) : -4] for name in self._first.names() if name.startswith(prefix)]
        pids = [int(number) for number in numbers if number.isascii() and number.isdecimal()]
        if not pids:
            return
        from pycriu.dumping import tracking

        for pid in pids:
            try:
                self._tracks[pid] = tracking.read(pid, self._first)
            except tracking.Untracked as error:
                self._log.warn("%s", error)

    def unchanged(
        self, pid: int, started: int, mappings: list[Mapping], runs: list[Run]
    ) -> tuple[list[Run], list[Run]]:
        """Which pages of a process that stands still are as the parent has them, and which have been written to since.

        So far as the kernel has noted that: of the others, or all, nothing is known.
        """
        if pid not in self._tracks:
            self._told.append(f"Process {pid}: contents are compared: its changes have not been noted")
            return [], []
        from pycriu.dumping import tracking

        try:
            same, dirty = self._tracks[pid].ask(started, mappings, runs)
        except (tracking.Untracked, OSError) as error:
            self._told.append(f"Process {pid}: contents are compared: {error}")
            return [], []
        known = self.has(f"pagemap-{pid}.img").has
        same = comparing.both(same, known)
        doubtful = comparing.both(comparing.without(comparing.without(runs, same), dirty), known)
        counts = [sum(pages for _, pages in some) for some in (runs, same, dirty, doubtful)]
        self._told.append(
            f"Process {pid}: of {counts[0]} pages, by soft-dirty bits, {counts[1]} are unchanged, {counts[2]} changed; "
            f"contents of {counts[3]} are compared"
        )
        return same, dirty

    def has(self, name: str) -> comparing.Comparison:
        """What the parent has under the name of a pagemap image."""
        return self._known.get(name, _NOTHING)

    def copy_snapshot(self, snapshot: Snapshot, out: int, *, write_back: bool) -> None:
        """The pages of a process that stands still; what the parent has is not written."""
        task, known = snapshot.task, self.has(f"pagemap-{snapshot.pid}.img")
        same, dirty = self.unchanged(snapshot.pid, snapshot.stat.starttime, snapshot.mappings, snapshot.runs)
        doubtful = comparing.without(comparing.without(snapshot.runs, same), dirty)
        changed, equal = comparing.compare(lambda *to: read_task(task, *to), doubtful, known)
        snapshot.runs, snapshot.inherited = comparing.union(changed + dirty), comparing.union(equal + same)
        copying.copy(task, snapshot.runs, out, write_back=write_back)
        self.skipped += sum(pages for _, pages in snapshot.inherited)

    def copy_running(self, pid: int, runs: list[Run], out: int, read: Read) -> tuple[list[Run], list[Run]]:
        """The same for a task that runs, which `read` reads: what it has unmapped meanwhile is left out."""
        written, inherited = comparing.copy(read, runs, self.has(f"pagemap-{pid}.img"), out)
        self.skipped += sum(pages for _, pages in inherited)
        return written, inherited

    def copy_file(self, fd: int, shmid: int, runs: list[Run], out: int) -> tuple[list[Run], list[Run]]:
        """The same for an object of shared memory, to which somebody may write meanwhile."""
        known = self.has(f"pagemap-shmem-{shmid}.img")
        written, inherited = comparing.copy(lambda *to: read_file(fd, *to), runs, known, out)
        self.skipped += sum(pages for _, pages in inherited)
        return written, inherited


def copy_running(runs: list[Run], out: int, read: Read) -> tuple[list[Run], list[Run]]:
    """Write the pages of a task that runs, which `read` reads as far as they are there; the runs written, no others."""
    return comparing.copy(read, runs, _NOTHING, out)


def read_task(task: Tracee, view: memoryview, address: int, batch: Batch) -> list[tuple[int, int]]:
    """A batch of a stopped task."""
    if not copying.gather(task.tid, address, batch):
        view[:] = copying.as_debugger(task, batch)
    return list(batch.pieces)


class Running:
    """A task that runs, whose memory is read all the same. A scope."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._mem = -1

    def __enter__(self) -> Self:
        self._mem = os.open(f"/proc/{self.pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._mem)

    def read(self, view: memoryview, address: int, batch: Batch) -> list[tuple[int, int]]:
        """A batch; what it has unmapped meanwhile is missing."""
        if copying.gather(self.pid, address, batch):
            return list(batch.pieces)
        # It has ended, or one of the pages is gone: the others, one by one.
        found: list[Run] = []
        at = 0
        for start, size in batch.pieces:
            for page in range(start, start + size, PAGE_SIZE):
                try:
                    if os.preadv(self._mem, [view[at : at + PAGE_SIZE]], page) != PAGE_SIZE:
                        continue
                except OSError:
                    continue
                append(found, page, 1)
                at += PAGE_SIZE
        return [(start, pages * PAGE_SIZE) for start, pages in found]


def read_file(fd: int, view: memoryview, _address: int, batch: Batch) -> list[tuple[int, int]]:
    """A batch of an object."""
    copying.read_file(fd, view, batch)
    return list(batch.pieces)
