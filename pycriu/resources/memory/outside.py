# SPDX-License-Identifier: GPL-2.0-only
"""Shared memory of the tree that somebody outside has too: a restored tree would have a copy of its own."""

from __future__ import annotations

import os

from pycriu.errors import About, TraceeGone, Unsupported
from pycriu.fds import memfd
from pycriu.fds.openfile import OpenFile
from pycriu.images.catalogue import MEMFD, SYSVIPC
from pycriu.kernel import procfs
from pycriu.resources.memory.mappings import Mapping

_BLOCK = 512  # bytes, the unit of st_blocks


class Shared:
    """The objects that the tree has, as a survey of the running tree finds them."""

    def __init__(self) -> None:
        self._sizes: dict[tuple[int, int], int] = {}
        self._names: dict[tuple[int, int], str] = {}  # of those that only relatives can have: not System V segments

    def add(self, mappings: list[Mapping], files: list[OpenFile]) -> None:
        """Those of one process."""
        for mapping in mappings:
            if mapping.file is not None and mapping.status & (MEMFD | SYSVIPC):
                self._note(mapping.file.path, mapping.file.status, system=bool(mapping.status & SYSVIPC))
        for file in files:
            if memfd.is_one(file.link, file.status):
                self._note(file.link, file.status, system=False)

    def _note(self, path: str, status: os.stat_result, *, system: bool) -> None:
        key = (status.st_dev, status.st_ino)
        self._sizes[key] = status.st_blocks * _BLOCK
        if not system:
            self._names[key] = path

    @property
    def size(self) -> int:
        """Bytes that all of them take."""
        return sum(self._sizes.values())

    def refuse_outsiders(self, members: set[int]) -> None:
        """Unsupported where a process that is not in the tree has one of them mapped or open."""
        if not self._names:
            return
        as_mapped = {f" {os.major(dev):02x}:{os.minor(dev):02x} {inode} ": (dev, inode) for dev, inode in self._names}
        for name in os.listdir("/proc"):
            if not name.isdecimal() or int(name) in members:
                continue
            try:
                maps = procfs.text(name, "maps")
                found = next((key for words, key in as_mapped.items() if words in maps), None) or self._open_in(name)
            except (TraceeGone, OSError):
                continue  # it has ended, or is none of our business
            if found is not None:
                with About():
                    raise Unsupported(
                        f"the shared memory {self._names[found]} of the tree is shared with process {name}, which is"
                        " outside the tree",
                        "dump the process that is the parent of both, or let one of them unmap and close it",
                    )

    def _open_in(self, pid: str) -> tuple[int, int] | None:
        for number in os.listdir(f"/proc/{pid}/fd"):
            link = f"/proc/{pid}/fd/{number}"
            try:
                if os.readlink(link).startswith(memfd.PREFIXES):
                    status = os.stat(link)
                    if (status.st_dev, status.st_ino) in self._names:
                        return status.st_dev, status.st_ino
            except FileNotFoundError:
                continue
        return None
