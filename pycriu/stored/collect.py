# SPDX-License-Identifier: GPL-2.0-only
"""`pycriu gc`: which checkpoints may go, and their going.

1. chosen are the checkpoints that are not among the newest ones, and sets of memory alone that are older than all kept;
2. each is locked, as a dump locks what it writes: whoever is at work in one, keeps it;
3. only then it is looked who needs whom: no dump can begin to build upon one of them any more. What another set below
   the same directories needs stays, and so on for what that one needs; and what one elsewhere needs that a set knows of
   (`images.children`);
4. inventory first, then the other images: what is killed half way leaves nothing that looks whole.

Other files (logs, pidfiles) stay, and a directory that still has some. What cannot be seen: checkpoints elsewhere that
CRIU has made, or that were moved to another directory or machine; the latter is told of where a set knows of them.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass

from pycriu.errors import PycriuError, UserError
from pycriu.images import catalogue, children, commit
from pycriu.resources import limits
from pycriu.stored import sets

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a set, and why."""

    path: str
    removed: bool
    why: str
    size: int  # bytes on the disk
    failed: bool = False  # it was to be removed

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


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
        try:
            fd = os.open(one.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False  # it is gone, or another thing by now
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


def collect(
    tops: list[str], keep: int, before: float, *, dry: bool, hidden: Callable[[OSError], None]
) -> list[Verdict]:
    """Of the checkpoints below each of `tops` the `keep` newest stay; of the others, those made before that time go.

    `hidden` hears of directories that cannot be looked into.
    """
    verdicts: dict[str, Verdict] = {}
    limits.raise_own_descriptor_limit()  # one for each that may go
    tops = [os.path.realpath(top) for top in tops]
    with _Held() as held:
        # All are looked at before one is locked: they open those that they build upon.
        for one in _chosen([sets.known(top, hidden) for top in tops], keep, before, verdicts):
            if not held.take(one):
                verdicts[one.path] = Verdict(one.path, False, "somebody is at work in it, or has been", one.size)
        needed, lost = _needed([path for top in tops for path in sets.find(top, _known)], held.fds)
        for path, why in needed.items():
            verdicts[path] = Verdict(path, False, why, sets.size(path))
            held.release(path)
        _remove(held.fds, lost, verdicts, dry=dry)
    return [verdicts[path] for path in sorted(verdicts)]


def _known(_error: OSError) -> None:
    """It has been told."""


def _chosen(tops: list[list[sets.Set]], keep: int, before: float, verdicts: dict[str, Verdict]) -> list[sets.Set]:
    """Those that may go as far as they themselves are concerned; the verdict on all others.

    Directories may lie in each other: what is to stay in one of them stays.
    """
    chosen: dict[str, sets.Set] = {}
    for found in tops:
        whole = sorted((one for one in found if one.state == sets.CHECKPOINT), key=lambda one: (-one.made, one.path))
        newest = whole[:keep]
        for one in found:
            if why := _stays(one, newest, before):
                verdicts[one.path] = Verdict(one.path, False, why, one.size)
            else:
                chosen[one.path] = one
    return [one for path, one in chosen.items() if path not in verdicts]


def _stays(one: sets.Set, newest: list[sets.Set], before: float) -> str:
    """Why, in words; nothing where it may go."""
    if one.state == sets.BUSY:
        return "a dump is at work in it"
    if one.state == sets.BROKEN:
        return f"it is not whole, and nobody knows what it is: {one.fault}"
    if any(one.path == kept.path for kept in newest):
        return f"one of the {len(newest)} newest"
    if one.state == sets.MEMORY and one.made >= (newest[-1].made if newest else 0):
        return "a dump may be about to build upon it"
    return "not old enough" if one.made >= before else ""


def _needed(paths: list[str], candidates: dict[str, int]) -> tuple[dict[str, str], dict[str, str]]:
    """Candidates that must stay, and those of which something that needed them is not found; each with the words."""
    found: dict[str, str] = {}
    lost: dict[str, str] = {}
    others = [path for path in paths if path not in candidates]
    for path in candidates:
        try:
            for was, child in children.noted(path):
                if child is None:
                    lost[path] = f"{was}, which built upon it, is not there any more"
                elif child not in candidates:
                    others.append(child)
        except OSError as error:
            found[path] = f"{error.filename or path}, which may build upon it, cannot be looked at"
    for path in [*others, *found]:
        for parent in sets.parents(path):
            if parent in candidates:
                found.setdefault(parent, f"{path} builds upon it")
    return found, lost


def _remove(candidates: dict[str, int], lost: dict[str, str], verdicts: dict[str, Verdict], *, dry: bool) -> None:
    """Those that nothing builds upon first: whenever this ends, nothing is gone that something else needs."""
    parents = {path: sets.parents(path) for path in candidates}
    needed: dict[str, str] = {}
    for path in sorted(candidates, key=lambda path: (-len(parents[path]), path)):
        size = sets.size(path)
        why = needed.get(path) or ("" if dry else remove(path, candidates[path]))
        if why:
            needed = dict.fromkeys(parents[path], f"{path} builds upon it, and stays") | needed
        verdicts[path] = Verdict(path, not why, why or lost.get(path, ""), size, bool(why) and path not in needed)


def remove(path: str, fd: int) -> str:
    """The images in the directory `fd`, what is noted there, and the directory, if nothing else is in it.

    Why not, where that cannot be.
    """
    try:
        for name in sorted(os.listdir(fd), key=lambda name: name != commit.INVENTORY):
            with suppress(FileNotFoundError):  # somebody else removes it at the same time
                if _is_ours(name, fd):
                    os.unlink(name, dir_fd=fd)
        commit.remove(fd)
        if not os.listdir(fd):
            os.rmdir(path)
    except FileNotFoundError:
        return ""
    except (OSError, PycriuError) as error:
        return f"it cannot be removed: {error.strerror if isinstance(error, OSError) else error.message}"
    return ""


def _is_ours(name: str, fd: int) -> bool:
    """An image, the statistics of a run, or a note."""
    if stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
        return False
    return name == commit.PARENT or catalogue.lookup(name) is not None or children.is_note(name)
