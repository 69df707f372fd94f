# SPDX-License-Identifier: GPL-2.0-only
"""Frees what images hold in vain: pages that a later dump has newer, and pages that a restore has put back.

Holes are punched into pages images; nothing else changes. Before the first, the set that gives up pages says so
(`pycriu_punched_entry`), on disk, so that it is never again taken for a whole one: it serves as a parent only of those
that have, themselves, what it lacks. What is killed in between leaves fewer holes than it could have, and may be run
again. A page is given up only for a set that is whole and on disk.
"""

from __future__ import annotations

import errno
import os

from pycriu.errors import KernelError, UserError
from pycriu.images import messages as m
from pycriu.images import store
from pycriu.images.catalogue import PUNCHED
from pycriu.kernel import libc, procfs
from pycriu.kernel.pagemap import PAGE_SIZE, Run
from pycriu.pages import comparing, lineage
from pycriu.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pycriu.images.store import ImagesDir

_KEEP_SIZE, _PUNCH_HOLE = 1, 2
_BLOCK = 512  # bytes, the unit of st_blocks


@record
class Freed:
    """What was done: how many sets have a later one, and how many bytes of disk are free that were not."""

    sets: int
    size: int


def dedup(images_dir: str) -> Freed:
    """Punch out of all sets before `images_dir` what later ones have newer."""
    size = 0
    with store.ImagesDir(images_dir) as youngest, lineage.Lineage(youngest) as chain:
        youngest.inventory()
        newer: dict[str, list[Run]] = {}
        for images in chain.all():
            for name in images.names():
                if name.startswith("pagemap-"):
                    size += _punch_older(images, name, newer)
        return Freed(len(chain.sets) - 1, size)


def _punch_older(images: ImagesDir, name: str, newer: dict[str, list[Run]]) -> int:
    """Punch what `newer` has of one pagemap, and add to it what this set has."""
    head, *entries = images.read(name)
    located = lineage.located(entries, f"{images.path}/{name}")
    here = [(start, (end - start) // PAGE_SIZE) for start, end, offset in located if offset >= 0]
    vain, _, _ = lineage.overlay(comparing.both(here, newer.get(name, [])), entries, name)
    newer[name] = comparing.union(here + newer.get(name, []))
    return _punch(images, f"pages-{head.pages_id}.img", [(at, pages * PAGE_SIZE) for _, pages, at in vain])  # type: ignore[attr-defined]


def consume(images_dir: str) -> Freed:
    """Punch out every page of a set that was restored, and of all before it."""
    size = 0
    with store.ImagesDir(images_dir) as youngest, lineage.Lineage(youngest) as chain:
        for images in chain.all():
            for name in images.names():
                if name.startswith("pages-"):
                    with images.raw(name) as file:
                        whole = os.fstat(file.fileno()).st_size
                    size += _punch(images, name, [(0, whole)] if whole else [])
        return Freed(len(chain.sets), size)


def _punch(images: ImagesDir, name: str, ranges: list[tuple[int, int]]) -> int:
    """Punch ranges (offset, bytes) out of a pages image; how many bytes that has freed."""
    if not ranges:
        return 0
    if not images.exists(PUNCHED):
        images.add(PUNCHED, [m.pycriu_punched_entry(uptime=procfs.uptime())])
    fd = images.claim(name)
    try:
        before = os.fstat(fd).st_blocks
        for offset, length in ranges:
            libc.call("fallocate", fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length, what=f"{images.path}/{name}")
        return (before - os.fstat(fd).st_blocks) * _BLOCK
    except KernelError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        raise UserError(
            f"{images.path}: this file system cannot punch holes into files", "keep images on ext4, xfs, btrfs or tmpfs"
        ) from None
    finally:
        os.close(fd)
