# SPDX-License-Identifier: GPL-2.0-only
"""`pycriu gc`: which checkpoints may go, and their going.

1. chosen are the checkpoints that are not among the newest ones, and sets of memory alone that are older than all kept;
2. each is locked, as a dump locks what it writes: whoever is at work in one, keeps it;
3. only then it is looked who needs whom: no dump can begin to build upon one of them any more. What another set below
   the same directories needs stays, and so on for what that one needs;
4. inventory first, then the other images: what is killed half way leaves nothing that looks whole.

Other files (logs, pidfiles) stay, and a directory that still has some. What lies elsewhere is not seen: a checkpoint
outside of the directories may need one inside.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from dataclasses import dataclass

from pycriu.errors import UserError
from pycriu.images import catalogue, commit
from pycriu.stored import sets

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a set, and why."""

    path: str
    removed: bool
    why: str
    size: int  # bytes on the disk

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {"path": self.path, "removed": self.removed, "why": self.why, "size": self.size}


def age(text: str) -> int:
    """Seconds, from a number with s, m, h, d (default) or w behind it; UserError for anything else."""
    digits, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS else (text, "d")
    if not digits.isascii() or not digits.isdigit() or len(digits) > 9:
        raise UserError(f"--older-than {text}: not an age", "a number and s, m, h, d or w, such as 12h or 7d")
    return int(digits) * _UNITS[unit]


class _Held:
    """Candidates under lock, by path → descriptor."""

    def __init__(self) -> None:
        self.fds: dict[str, int] = {}

    def __enter__(self) -> _Held:
        return self

    def __exit__(self, *_: object) -> None:
        for path in list(self.fds):
            self.release(path)

    def take(self, one: sets.Set) -> bool:
        """Whether nobody else is at work there, nor has been since it was looked at; and no link has led elsewhere."""
        fd = os.open(one.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self.fds[one.path] = fd
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            same = os.readlink(f"/proc/self/fd/{fd}") == one.path and sets.made(one.path) == one.made
        except BlockingIOError:
            same = False
        if not same:
            self.release(one.path)
        return same

    def release(self, path: str) -> None:
        """Others may go on."""
        os.close(self.fds.pop(path))


def collect(tops: list[str], keep: int, before: float, *, dry: bool, removed: Callable[[str], None]) -> list[Verdict]:
    """Of the checkpoints below each of `tops` the `keep` newest stay; of the others, those made before that time go."""
    verdicts: dict[str, Verdict] = {}
    tops = [os.path.realpath(top) for top in tops]
    with _Held() as held:
        for top in tops:
            for one in _chosen([sets.look(path) for path in sets.find(top)], keep, before, verdicts):
                if one.path not in held.fds and not held.take(one):
                    verdicts[one.path] = Verdict(one.path, False, "a dump or restore is at work in it", one.size)
        for path, child in _needed([path for top in tops for path in sets.find(top)], held.fds).items():
            verdicts[path] = Verdict(path, False, f"{child} builds upon it", sets.size(path))
            held.release(path)
        for path, fd in sorted(held.fds.items()):
            verdicts[path] = Verdict(path, True, "", sets.size(path))
            if not dry:
                remove(path, fd)
                removed(path)
    return [verdicts[path] for path in sorted(verdicts)]


def _chosen(found: list[sets.Set], keep: int, before: float, verdicts: dict[str, Verdict]) -> list[sets.Set]:
    """Those that may go as far as they themselves are concerned; the verdict on all others."""
    whole = sorted((one for one in found if one.state == sets.CHECKPOINT), key=lambda one: (-one.made, one.path))
    kept = {one.path for one in whole[:keep]}
    oldest = whole[:keep][-1].made if kept else 0
    chosen = []
    for one in found:
        why = ""
        if one.state == sets.BUSY:
            why = "a dump is at work in it"
        elif one.state == sets.BROKEN:
            why = f"it is not whole, and nobody knows what it is: {one.fault}"
        elif one.path in kept:
            why = f"one of the {keep} newest"
        elif one.state == sets.MEMORY and one.made >= oldest:
            why = "a dump may be about to build upon it"
        elif one.made >= before:
            why = "not old enough"
        if why:
            verdicts[one.path] = Verdict(one.path, False, why, one.size)
        else:
            chosen.append(one)
    return chosen


def _needed(paths: list[str], candidates: dict[str, int]) -> dict[str, str]:
    """Candidates that a set needs which stays, with one such set."""
    found: dict[str, str] = {}
    for path in paths:
        if path not in candidates:
            for parent in sets.parents(path):
                if parent in candidates:
                    found.setdefault(parent, path)
    return found


def remove(path: str, fd: int) -> None:
    """The images in the directory `fd`, and the directory, if nothing else is in it."""
    names = [name for name in os.listdir(fd) if _is_ours(name)]
    for name in sorted(names, key=lambda name: name != commit.INVENTORY):
        os.unlink(name, dir_fd=fd)
    commit.remove(fd)
    if not os.listdir(fd):
        try:
            os.rmdir(path)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}", "its images are gone") from None


def _is_ours(name: str) -> bool:
    """An image, or the statistics of a run."""
    return name == commit.PARENT or catalogue.lookup(name) is not None
