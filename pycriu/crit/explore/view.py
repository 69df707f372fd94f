# SPDX-License-Identifier: GPL-2.0-only
"""What all explorers ask of a checkpoint: processes in their order, their images, files by id with a short text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from pycriu.crit.source import Source
from pycriu.images import hints, schema, values

DEAD = (2, 6)  # task_core_entry.task_state
REG, PIPE, UNIX = 1, 2, 5  # fd_types
_OLD_FILES = {REG: "reg-files.img", PIPE: "pipes.img", UNIX: "unixsk.img"}


class View:
    """A checkpoint to look at; each image is read once."""

    def __init__(self, images: Source) -> None:
        self.images = images
        self._cache: dict[str, list[Any]] = {}

    def read(self, name: str) -> list[Any]:
        """The entries of an image, none where there is no such image."""
        if name not in self._cache:
            self._cache[name] = self.images.read(name) if self.images.exists(name) else []
        return self._cache[name]

    def one(self, name: str) -> Any:
        """The entry of an image that must be there."""
        return self.images.read_one(name)

    @cached_property
    def processes(self) -> list[Any]:
        """The entries of pstree.img."""
        return self.images.read("pstree.img")

    def core(self, tid: int) -> Any:
        """The core image of a thread."""
        found = self.read(f"core-{tid}.img")
        return found[0] if found else self.one(f"core-{tid}.img")

    def comm(self, tid: int) -> str:
        """The name of a thread."""
        core = self.core(tid)
        return str(core.tc.comm if core.HasField("tc") else core.thread_core.comm)

    def living(self) -> list[Any]:
        """Processes that have not ended."""
        return [one for one in self.processes if self.core(one.pid).tc.task_state not in DEAD]

    def ids(self, pid: int) -> Any:
        """The ids of a process's parts."""
        core = self.core(pid)
        return core.ids if core.HasField("ids") else self.one(f"ids-{pid}.img")

    def descriptors(self, pid: int) -> list[Any]:
        """The table of descriptors of a process."""
        return self.read(f"fdinfo-{self.ids(pid).files_id}.img")

    @cached_property
    def files(self) -> dict[int, Any]:
        """The entries of files.img by id."""
        return {entry.id: entry for entry in self.read("files.img")}

    @cached_property
    def holders(self) -> dict[int, list[str]]:
        """Id of a file → `pid:fd` of all who have it open."""
        found: dict[int, list[str]] = {}
        for process in self.living():
            for one in self.descriptors(process.pid):
                found.setdefault(one.id, []).append(f"{process.pid}:{one.fd}")
        return found

    def file_text(self, kind: int, number: int) -> str:
        """A file in a few words."""
        if kind == REG:
            reg = self._file(kind, "reg", number)
            return reg.name if reg is not None and reg.name else "unknown path"
        if kind == PIPE:
            pipe = self._file(kind, "pipe", number)
            return f"pipe[{pipe.pipe_id}]" if pipe is not None else "pipe[?]"
        if kind == UNIX:
            sock = self._file(kind, "usk", number)
            return _unix_text(sock) if sock is not None else "unix[?]"
        return f"{type_name(kind)}.{number}"

    def _file(self, kind: int, field: str, number: int) -> Any:
        if number in self.files:
            entry = self.files[number]
            return getattr(entry, field) if entry.HasField(field) else None
        return next((one for one in self.read(_OLD_FILES[kind]) if one.id == number), None)


def _unix_text(sock: Any) -> str:
    name = values.to_dict(sock).get("name")
    return f"unix[{sock.ino} ({sock.peer}){f' {name}' if name else ''}]"


def type_name(kind: int) -> str:
    """REG, PIPE, … of a number."""
    return next((name for name, number in schema.enum("fd_types").items() if number == kind), str(kind))


def word(table: str, value: int) -> str:
    """LISTEN, STREAM, … of a number."""
    return hints.WORDS[table].get(value, str(value))


def pages_of(run: Any) -> int:
    """How many pages a pagemap_entry has; before CRIU 4.2 the number had 32 bits."""
    return int(run.nr_pages if run.HasField("nr_pages") else run.compat_nr_pages)


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Lines with columns that are as wide as what is in them."""
    widths = [max(len(row[at]) for row in [head, *rows]) for at in range(len(head))]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in [head, *rows]]
    return ["  ".join(line).rstrip() for line in lines]
