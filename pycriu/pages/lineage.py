# SPDX-License-Identifier: GPL-2.0-only
"""Incremental images: what a set takes from the sets before it.

A set of images has a symbolic link, `parent`, to the set before it, which may have one too. A run of pages that a
pagemap image calls "in parent" is in the pagemap image of that name there, or further up.

A set that gave up pages to a younger one (`dedup`) says so (`pycriu-punched.img`): a hole in its pages is then no
longer a page of zeros, but one that nobody may want any more.

Chains are hostile: they may loop, lead nowhere or to what is no set of images, or promise pages that are not there.
"""

from __future__ import annotations

import os

from pycriu.errors import ImageError, UserError
from pycriu.images import commit, store
from pycriu.images.catalogue import PRESENT
from pycriu.kernel.pagemap import PAGE_SIZE, Run
from pycriu.pages.imagefiles import count, kind, refuse_holes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

    from pycriu.images.store import ImagesDir
    from pycriu.pages.imagefiles import Placed, Source

MAX_SETS = 256  # in a chain; each costs descriptors and a look at its pagemaps


def parent_of(images: ImagesDir) -> ImagesDir | None:
    """The set before this one, which the caller closes. ImageError unless it is whole and has the same owner."""
    path = images.parent()
    return None if path is None else open_set(path, f"{images.path}/{commit.PARENT}", os.stat(images.path).st_uid)


def open_set(path: str, label: str, owner: int) -> ImagesDir:
    """A set that another one builds upon; `label` says in errors who says so, `owner` whose it must be."""
    try:
        real = os.path.realpath(path, strict=True)
        status = os.stat(real)
    except OSError as error:
        raise ImageError(
            f"{label} leads to {path}: {os.strerror(error.errno or 0)}",
            "an earlier dump that these images need is gone",
        ) from None
    if status.st_uid not in (owner, os.geteuid()):
        raise ImageError(f"{label} leads to {real}, which belongs to another user ({status.st_uid})")
    try:
        found = store.ImagesDir(real)
    except UserError as error:
        raise ImageError(f"{label}: {error}", error.hint) from None
    try:
        if not _is_received(found):
            found.inventory()
    except BaseException:
        found.close()
        raise
    return found


def _is_received(images: ImagesDir) -> bool:
    """Whether these are what a page server makes: pages, and no more. A dump that has failed leaves others, too."""
    names = images.names()
    return bool(names) and all(name.startswith(("pagemap-", "pages-", "pycriu-")) for name in names)


class Lineage:
    """A set and all before it, the youngest first. A scope; `first` belongs to the caller."""

    def __init__(self, first: ImagesDir) -> None:
        self.sets = [first]
        self._seen = {_identity(first)}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for images in self.sets[1:]:
            images.close()

    def at(self, generation: int) -> ImagesDir | None:
        """The set so many steps up; None where the chain has ended. ImageError for a chain that has no end."""
        while len(self.sets) <= generation:
            last = self.sets[-1]
            older = parent_of(last)
            if older is None:
                return None
            self.sets.append(older)
            if _identity(older) in self._seen:
                raise ImageError(f"{last.path}/{commit.PARENT} leads back to {older.path}: the chain has no end")
            if len(self.sets) > MAX_SETS:
                raise ImageError(f"{self.sets[0].path}: more than {MAX_SETS} sets of images are chained")
            self._seen.add(_identity(older))
        return self.sets[generation]

    def all(self) -> list[ImagesDir]:
        """Every set of the chain."""
        generation = 0
        while self.at(generation) is not None:
            generation += 1
        return self.sets


def _identity(images: ImagesDir) -> tuple[int, int]:
    status = os.stat(images.path)
    return status.st_dev, status.st_ino


def sources(images: ImagesDir, name: str, wanted: list[Run]) -> list[Source]:
    """Where the pages are that the pagemap image `name` calls "in parent"; the caller closes the descriptors."""
    with Lineage(images) as chain:
        return find(chain, name, wanted, 1)[0]


def find(
    chain: Lineage, name: str, wanted: list[Run], generation: int, *, missing_allowed: bool = False
) -> tuple[list[Source], list[Run]]:
    """The sources of `wanted` (ascending), from the set `generation` on; and the runs that nobody has.

    ImageError for the latter unless that is allowed.
    """
    found: list[Source] = []
    lacking: list[Run] = []
    try:
        while wanted:
            images = chain.at(generation)
            if images is None or not images.exists(name):
                lacking += wanted
                break
            here, wanted, none = _split(images, name, wanted)
            lacking += none
            if here is not None:
                found.append(here)
            generation += 1
        if lacking and not missing_allowed:
            raise ImageError(
                f"{chain.sets[0].path}/{name}: the page at {lacking[0][0]:#x} is in no parent",
                "an earlier dump was replaced or damaged; take a new one",
            )
    except BaseException:
        close(found)
        raise
    return found, sorted(lacking)


def close(found: list[Source]) -> None:
    """Close what `find` has opened."""
    for fd, _ in found:
        os.close(fd)


def _split(images: ImagesDir, name: str, wanted: list[Run]) -> tuple[Source | None, list[Run], list[Run]]:
    """What of `wanted` this set has, what its parent has, and what it does not know of."""
    head, *entries = images.read(name)
    here, above, lacking = overlay(wanted, entries, f"{images.path}/{name}")
    if not here:
        return None, above, lacking
    with images.raw(f"pages-{head.pages_id}.img") as file:  # type: ignore[attr-defined]
        size = os.fstat(file.fileno()).st_size
        if any(offset + pages * PAGE_SIZE > size for _, pages, offset in here):
            raise ImageError(f"{images.path}/{name} promises more pages than the pages image has ({size} bytes)")
        refuse_holes(images, file.fileno(), here)
        return (os.dup(file.fileno()), here), above, lacking


def overlay(wanted: list[Run], entries: list[Any], label: str) -> tuple[Placed, list[Run], list[Run]]:
    """The parts of `wanted` that a pagemap has itself (with their offsets), calls "in parent", and does not have."""
    here: Placed = []
    above: list[Run] = []
    lacking: list[Run] = []
    known = iter(located(entries, label))
    entry = next(known, None)
    for start, pages in wanted:
        at, end = start, start + pages * PAGE_SIZE
        while at < end:
            while entry is not None and entry[1] <= at:
                entry = next(known, None)
            if entry is None or entry[0] >= end:
                lacking.append((at, (end - at) // PAGE_SIZE))
                break
            low, high, offset = entry
            if at < low:
                lacking.append((at, (low - at) // PAGE_SIZE))
                at = low
            take = (min(end, high) - at) // PAGE_SIZE
            if offset < 0:
                above.append((at, take))
            else:
                here.append((at, take, offset + at - low))
            at += take * PAGE_SIZE
    return here, above, lacking


def located(entries: list[Any], label: str) -> list[tuple[int, int, int]]:
    """First address, end, and offset in the pages image (-1: in parent) of every entry; ImageError unless ascending."""
    found, offset, last = [], 0, 0
    for entry in entries:
        size = count(entry) * PAGE_SIZE
        if entry.vaddr % PAGE_SIZE or entry.vaddr < last or not size:
            raise ImageError(f"{label}: the entry for {entry.vaddr:#x} is empty, not aligned, or not in order")
        last = entry.vaddr + size
        if kind(entry) == PRESENT:
            found.append((entry.vaddr, last, offset))
            offset += size
        else:
            found.append((entry.vaddr, last, -1))
    return found
