# SPDX-License-Identifier: GPL-2.0-only
"""Sets of images below directories: of whom, how large, whether whole, and what they build upon. No link is followed.

A set that lies half way between two checkpoints, because a dump was killed, is brought to one of them by being opened.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from pycriu.crit.check import findings
from pycriu.crit.source import Source, open_source
from pycriu.errors import PycriuError, UserError
from pycriu.images import commit

OURS = (commit.NEW, commit.WHOLE, commit.MOVING)

_LONGEST = 1024  # chain of parents
CHECKPOINT, MEMORY, BROKEN, BUSY = "checkpoint", "pre-dump", "broken", "in use"


@dataclass(frozen=True, slots=True)
class Set:
    """One directory of images."""

    path: str
    state: str  # checkpoint, pre-dump (memory only), broken, in use (being written)
    made: float  # seconds since 1970; 0 where nothing tells
    owner: int  # user id of the directory
    size: int  # bytes on the disk
    root: int | None = None  # PID of the root
    name: str | None = None  # of its program, as the kernel has it
    processes: int = 0
    threads: int = 0
    parents: tuple[str, ...] = ()  # the sets that it needs, the nearest first
    fault: str | None = None  # what is wrong, where something is

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def find(top: str, hidden: Callable[[OSError], None]) -> Iterator[str]:
    """The directories of images at and below `top`, in the order of their names; `hidden` hears of the unreadable."""
    if not os.path.isdir(top):
        raise UserError(f"{top}: no such directory")

    def failed(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # it has just been removed
            hidden(error)

    for path, folders, names in os.walk(top, onerror=failed):
        if is_set(folders, names):
            yield path
        folders[:] = sorted(folder for folder in folders if folder not in OURS)


def known(top: str, hidden: Callable[[OSError], None]) -> list[Set]:
    """What there is to say of all of them, but for those that are removed meanwhile."""
    found = []
    for path in find(top, hidden):
        try:
            found.append(look(path))
        except FileNotFoundError:
            continue
        except OSError as error:
            hidden(error)
    return found


def is_set(folders: Iterable[str], names: Iterable[str]) -> bool:
    """Whether a directory with these entries has images in it, or a dump at work."""
    return any(folder in OURS for folder in folders) or any(
        commit.is_image(name) and name != commit.PARENT for name in names
    )


def look(path: str) -> Set:
    """What there is to say of one; FileNotFoundError where somebody has removed it."""
    told: dict[str, Any]
    try:
        with open_source(path) as images:  # which brings it to what it is, where a dump was killed
            told = {"state": BROKEN, **_content(images)}
    except UserError as error:  # it is locked
        told = {"state": BUSY, "fault": error.message}
    except PycriuError as error:
        told = {"state": BROKEN, "fault": error.message}
    told |= {"made": made(path), "size": size(path), "parents": parents(path)}
    return Set(path=path, owner=os.stat(path).st_uid, **told)


def _content(images: Source) -> dict[str, Any]:
    images.inventory()
    faults = [str(fault) for fault in findings(images)]
    told: dict[str, Any] = {"state": BROKEN if faults else CHECKPOINT, "fault": faults[0] if faults else None}
    if not images.exists("pstree.img"):
        return {**told, "state": BROKEN if faults else MEMORY}
    members: list[Any] = images.read("pstree.img")
    if members:
        core: Any = images.read_one(f"core-{members[0].pid}.img")
        told |= {"root": members[0].pid, "name": core.tc.comm}
    return {**told, "processes": len(members), "threads": sum(len(one.threads) for one in members)}


def made(path: str) -> float:
    """When its inventory, or else the directory, was written."""
    for name in (commit.INVENTORY, ""):
        try:
            return os.lstat(os.path.join(path, name)).st_mtime
        except FileNotFoundError:
            continue
    return 0


def size(path: str) -> int:
    """Bytes on the disk of all images, whole or in the making; what is removed meanwhile has none."""
    folders = [path, *(os.path.join(path, name) for name in OURS)]
    return sum(_size(folder) for folder in folders if os.path.isdir(folder) and not os.path.islink(folder))


def _size(folder: str) -> int:
    total = 0
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode) and commit.is_image(entry.name):
                    total += status.st_blocks * 512
    return total


def parents(path: str) -> tuple[str, ...]:
    """The real paths of the sets that it builds upon, the nearest first; a loop ends where it closes."""
    found: list[str] = []
    todo = [path]
    while todo and len(found) < _LONGEST:
        here = todo.pop()
        for folder in (here, *(os.path.join(here, name) for name in OURS)):
            link = _link(folder)
            parent = os.path.realpath(os.path.join(here, link))
            if link and parent not in found:
                found.append(parent)
                todo.append(parent)
    return tuple(found)


def _link(folder: str) -> str:
    try:
        return os.readlink(os.path.join(folder, commit.PARENT))
    except OSError:
        return ""
