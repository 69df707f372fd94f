# SPDX-License-Identifier: GPL-2.0-only
"""What of the images is another at a restart: nothing is written, entries are changed while they are read.

- paths, as --relocate says;
- groups and sessions: those of cr_restart, unless they are to be what they were. A session with a terminal of its own,
  both ends of which are in the context, stays what it is: there is no other way to keep that terminal;
- files that have been written to since: BLCR takes them as they are, and cuts those that the processes write to back to
  the size that they had. The engine would refuse both. What is mapped, and what has become shorter, it may refuse. What
  cr_restart itself writes to is not cut: there may be words of others in it.
"""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack

from pycriu.blcr.options import EXE, PRIVATE
from pycriu.edits import Edits
from pycriu.errors import UserError
from pycriu.images import store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import IO, Any

    from google.protobuf.message import Message

_REG = 1  # fd_types
_FILE_MAPPED = 1 << 6 | 1 << 7  # vma_entry.status
_OWNER_GROUP = 2  # fown_entry.pid_type
_NOTES = "pycriu-files.img"


class Facts:
    """What the images of a context say, as far as a restart has to know it beforehand."""

    def __init__(self, images: store.ImagesDir, saved: Sequence[str] = ()) -> None:
        """`saved` are the kinds of mapped files whose pages are in the images: see `options`."""
        self.processes: list[Any] = images.read("pstree.img")
        self.files: list[Any] = images.read("files.img")
        self.mapped: set[int] = set()
        self.tables: list[Any] = []
        for name in images.names():
            if name.startswith("mm-"):
                mm: Any = images.read_one(name)
                self.mapped |= {vma.shmid for vma in mm.vmas if vma.status & _FILE_MAPPED}
                self.mapped |= set() if EXE in saved or PRIVATE in saved else {mm.exe_file_id}
            elif name.startswith("fdinfo-"):
                self.tables += images.read(name)
        terminals: list[Any] = images.read_if_there("tty-info.img")
        leaders = set(self._ids("sid")) & set(self.pids)
        self.bound = leaders & {getattr(one, "sid", 0) for one in terminals}  # sessions with a terminal

    @property
    def pids(self) -> list[int]:
        """Of all processes, roots and parents first."""
        return self._ids("pid")

    def _ids(self, field: str) -> list[int]:
        return [getattr(one, field) for one in self.processes]

    def pipes(self) -> dict[str, int]:
        """Pipes to others, by the name in the images: which of descriptors 0, 1, 2 takes the place."""
        numbers: dict[int, set[int]] = {}
        for entry in self.tables:
            numbers.setdefault(entry.id, set()).add(entry.fd)
        found = {}
        for entry in self.files:
            if entry.type == _REG and entry.reg.ext:
                reading = entry.reg.flags & os.O_ACCMODE == os.O_RDONLY
                found[entry.reg.name.removeprefix("/")] = 0 if reading else 2 if numbers.get(entry.id) == {2} else 1
        return found


class Changes(Edits):
    """The changes, as the engine wants them. `cut` has the files to be cut back, with their sizes."""

    def __init__(self, facts: Facts, relocations: Sequence[str], *, keep_groups: bool, keep_sessions: bool) -> None:
        """`relocations` as `rules` gives them."""
        super().__init__(relocations, None)
        self._bound, self._keep_groups, self._keep_sessions = facts.bound, keep_groups, keep_sessions
        self._group, self._session = os.getpgrp(), os.getsid(0)
        self._stay = {one.pgid for one in facts.processes if one.sid in facts.bound}
        self._ours = _standard_files()
        self.cut: dict[str, int] = {}
        self.remarks: list[str] = []
        self._loose = self._look(facts)

    def __call__(self, name: str, entries: list[tuple[Message, bytes]]) -> list[tuple[Message, bytes]]:
        """The entries of an image, changed."""
        entries = super().__call__(name, entries)
        if name == "pstree.img":
            for one, _ in entries:
                self._adopt(one)
        elif name == "files.img":
            for one, _ in entries:
                self._loosen(one)
        elif name == _NOTES:
            return [(one, more) for one, more in entries if one.id not in self._loose]  # type: ignore[attr-defined]
        return entries

    def _edit(self, message: Message) -> None:
        if getattr(message, "ext", False) is not True:  # what is given back is known by its name
            super()._edit(message)

    def _adopt(self, process: Any) -> None:
        if process.sid in self._bound:
            return
        if not self._keep_sessions:
            process.sid = self._session
        if not self._keep_groups:
            process.pgid = self._group if process.sid == self._session else process.sid

    def _loosen(self, entry: Any) -> None:
        if entry.type == _REG and entry.reg.id in self._loose:
            entry.reg.ClearField("size")
            entry.reg.ClearField("build_id")
        for field, value in entry.ListFields():
            owner = getattr(value, "fown", None) if field.message_type is not None else None
            if owner is None or owner.pid_type != _OWNER_GROUP or self._keep_groups:
                continue
            if owner.pid and owner.pid not in self._stay:
                owner.pid = self._group

    def _look(self, facts: Facts) -> set[int]:
        """Ids of the files that may be other than they were."""
        written = {one.reg.name for one in facts.files if one.type == _REG and _is_written(one.reg)}
        loose = set()
        for entry in facts.files:
            if entry.type != _REG or not stat.S_ISREG(entry.reg.mode) or entry.reg.id in facts.mapped:
                continue
            self._edit(entry.reg)  # on this copy: where the file is now
            if self._is_loose(entry.reg, written=entry.reg.name in written or _is_written(entry.reg)):
                loose.add(entry.reg.id)
        self._counts = [0] * len(self._counts)
        return loose

    def _is_loose(self, reg: Any, *, written: bool) -> bool:
        try:
            now = os.stat(reg.name)
        except OSError:
            return False  # the engine says what is wrong
        if not reg.HasField("size") or now.st_size < reg.size:
            return False
        if now.st_size > reg.size:
            cut = written and (now.st_dev, now.st_ino) not in self._ours
            if cut:
                self.cut[reg.name] = reg.size
            becomes = "; a restart cuts it back" if cut else ""
            self.remarks.append(f"{reg.name} has grown from {reg.size} to {now.st_size} bytes since{becomes}")
        return True

    def cut_back(self) -> None:
        """Everything is complete: the files that the processes write to get the sizes that they had.

        None is cut before it is clear of all that they can be.
        """
        with ExitStack() as opened:
            files = [(path, size, opened.enter_context(_to_be_cut(path))) for path, size in self.cut.items()]
            for path, size, file in files:
                try:
                    os.ftruncate(file.fileno(), size)
                except OSError as error:
                    raise _not_cut(path, error) from error


def _to_be_cut(path: str) -> IO[bytes]:
    try:
        return open(path, "wb", buffering=0, opener=lambda p, _: os.open(p, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:  # such as one that can only be appended to
        raise _not_cut(path, error) from error


def _not_cut(path: str, error: OSError) -> UserError:
    return UserError(f"{path} cannot be cut back to its size at the checkpoint: {error.strerror}")


def _is_written(reg: Any) -> bool:
    return bool(reg.flags & os.O_ACCMODE) and not reg.flags & os.O_PATH


def _standard_files() -> set[tuple[int, int]]:
    """What we, and perhaps the shell that has started us, write to: others than the processes do so, too."""
    found = set()
    for fd in (0, 1, 2):
        try:
            status = os.fstat(fd)
        except OSError:
            continue  # closed
        found.add((status.st_dev, status.st_ino))
    return found


def rules(relocation: str) -> list[str]:
    """Rules of `edits` for OLD=NEW, both whole leading components; none where they are the same.

    \\= and \\\\ stand for the letters. The paths in a context are plain, so OLD must be; NEW becomes so.
    """
    sides = _sides(relocation)
    if len(sides) != 2 or not all(side.startswith("/") for side in sides):
        raise UserError(f"--relocate {relocation}: not OLD=NEW, two absolute paths")
    old, new = (f"/{side.strip('/')}" for side in sides)
    if os.path.normpath(old) != old:
        raise UserError(f"--relocate {relocation}: {old} is not a plain path, and matches none")
    if os.path.normpath(new) != new:
        new = os.path.realpath(new)
    if old == new:
        return []
    old, new = (_escaped(side.rstrip("/")) for side in (old, new))
    found = []
    for kind in ("files:reg", "files:unix"):
        found += [f"?{kind}:{old}={new}"] if old and new else []
        found.append(f"?{kind}:{old}/%={new}/%")
    return found


def _sides(relocation: str) -> list[str]:
    """What stands between the = of a relocation, without backslashes before = and another backslash."""
    sides, at = [""], 0
    while at < len(relocation):
        quoted = relocation[at : at + 2] in ("\\=", "\\\\")
        letter = relocation[at + quoted]
        if letter == "=" and not quoted:
            sides.append("")
        else:
            sides[-1] += letter
        at += 1 + quoted
    return sides


def _escaped(text: str) -> str:
    return "".join(f"\\{letter}" if letter in "%=\\" else letter for letter in text)
