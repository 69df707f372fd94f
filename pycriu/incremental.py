# SPDX-License-Identifier: GPL-2.0-only
"""Dumps that hold only what has changed since an earlier one: its images, opened for comparison before anybody stops.

A page is left to the parent (`pagemap_entry.flags`) where its content is the same there. It does not matter whose page
that was, nor what has become of the memory in between: equal is equal.
"""

from __future__ import annotations

import os

from pycriu import lineage, pagecompare, pagecopy
from pycriu.errors import ImageError, UserError
from pycriu.kernel.pagemap import PAGE_SIZE, Run
from pycriu.tracee import Tracee

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from pycriu.images.store import NewCheckpoint
    from pycriu.log import Log
    from pycriu.pagecopy import Batch
    from pycriu.snapshot import Snapshot

_NOTHING = pagecompare.Comparison([])


class Parent:
    """The images that a dump builds upon. A scope; nobody else can change them while it lasts."""

    def __init__(self, path: str, images_dir: str, log: Log) -> None:
        """`path` is as the user gave it: relative to the images directory, or absolute."""
        given = os.path.join(images_dir, path)
        self._log = log
        self._first = lineage.open_set(given, "--prev-images-dir", os.geteuid())
        self._chain = lineage.Lineage(self._first)
        self._known: dict[str, pagecompare.Comparison] = {}
        self._open: list[int] = []
        self.skipped = 0  # pages that the parent has
        self.link = os.path.relpath(os.path.realpath(given), os.path.realpath(images_dir))
        try:
            self._check(images_dir)
            for name in self._first.names():
                if name.startswith("pagemap-"):
                    self._known[name] = self._read(name)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def attach(self, new: NewCheckpoint) -> None:
        """Let these images be the parent of new ones."""
        new.parent = self
        new.link_parent(self.link)

    def close(self) -> None:
        """Give everything back."""
        for fd in self._open:
            os.close(fd)
        self._open = []
        self._chain.__exit__()
        self._first.close()

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

    def _read(self, name: str) -> pagecompare.Comparison:
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
        return pagecompare.Comparison(found)

    def has(self, name: str) -> pagecompare.Comparison:
        """What the parent has under the name of a pagemap image."""
        return self._known.get(name, _NOTHING)

    def copy_snapshot(self, snapshot: Snapshot, out: int, *, write_back: bool) -> None:
        """The pages of a process that stands still; what the parent has is not written."""
        task, known = snapshot.task, self.has(f"pagemap-{snapshot.pid}.img")
        snapshot.runs, snapshot.inherited = pagecompare.compare(lambda *to: read_task(task, *to), snapshot.runs, known)
        pagecopy.copy(task, snapshot.runs, out, write_back=write_back)
        self.skipped += sum(pages for _, pages in snapshot.inherited)

    def copy_running(self, pid: int, runs: list[Run], out: int) -> tuple[list[Run], list[Run]]:
        """The same for a task that runs: what it has unmapped meanwhile is left out."""
        with Running(pid) as task:
            written, inherited = pagecompare.copy(task.read, runs, self.has(f"pagemap-{pid}.img"), out)
        self.skipped += sum(pages for _, pages in inherited)
        return written, inherited

    def copy_file(self, fd: int, shmid: int, runs: list[Run], out: int) -> tuple[list[Run], list[Run]]:
        """The same for an object of shared memory, to which somebody may write meanwhile."""
        known = self.has(f"pagemap-shmem-{shmid}.img")
        written, inherited = pagecompare.copy(lambda *to: read_file(fd, *to), runs, known, out)
        self.skipped += sum(pages for _, pages in inherited)
        return written, inherited


def copy_running(pid: int, runs: list[Run], out: int) -> tuple[list[Run], list[Run]]:
    """Write the pages of a task that runs, as far as they are still there; the runs written, and no others."""
    with Running(pid) as task:
        return pagecompare.copy(task.read, runs, _NOTHING, out)


def read_task(task: Tracee, view: memoryview, address: int, batch: Batch) -> list[tuple[int, int]]:
    """A batch of a stopped task."""
    if not pagecopy.gather(task.tid, address, batch):
        view[:] = pagecopy.as_debugger(task, batch)
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
        if pagecopy.gather(self.pid, address, batch):
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
                pagecompare.append(found, page, 1)
                at += PAGE_SIZE
        return [(start, pages * PAGE_SIZE) for start, pages in found]


def read_file(fd: int, view: memoryview, _address: int, batch: Batch) -> list[tuple[int, int]]:
    """A batch of an object."""
    pagecopy.read_file(fd, view, batch)
    return list(batch.pieces)
