# SPDX-License-Identifier: GPL-2.0-only
"""Descriptors for namespaces (/proc/PID/ns/*): those that pycriu itself is in, as all tasks of a tree are."""

from __future__ import annotations

import os

from pycriu.errors import ImageError, Unsupported
from pycriu.fds.kind import Kind
from pycriu.fds.openfile import OpenFile
from pycriu.images import messages as m

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pycriu.fds.opening import Opening
    from pycriu.fds.saving import Saving
    from pycriu.images.store import ImagesDir

# In the order in which `entries` numbers them, from 1; CLONE_NEW* of linux/sched.h.
SPACES = {
    "pid": 0x20000000, "net": 0x40000000, "ipc": 0x08000000, "uts": 0x04000000, "mnt": 0x00020000,
    "user": 0x10000000, "cgroup": 0x02000000, "time": 0x00000080,
}  # fmt: skip
_NAMES = {flag: name for name, flag in SPACES.items()}


class Namespace(Kind):
    """A namespace."""

    TYPE = 14  # fd_types.NS
    NAME = "namespace"

    def matches(self, file: OpenFile) -> bool:
        """By the name of its inode, such as net:[4026531833]."""
        return name_of(file.link) is not None

    def inspect(self, file: OpenFile) -> None:
        """Unsupported for any that is not ours."""
        if os.readlink(f"/proc/self/ns/{name_of(file.link)}") != file.link:
            raise Unsupported(
                f"{file.name} is a namespace that the tree is not in", "let the task close it before the dump"
            )

    def dump(self, file: OpenFile, number: int, saving: Saving) -> Any:
        """Its message."""
        name = name_of(file.link) or ""
        ns_id = 1 + list(SPACES).index(name)
        entry = m.ns_file_entry(id=number, ns_id=ns_id, ns_cflag=SPACES[name], flags=file.flags)
        return m.file_entry(type=self.TYPE, id=number, nsf=entry)

    def read(self, images: ImagesDir, entries: list[Any]) -> None:
        """ImageError for a namespace other than that of the root, which pycriu does not make."""
        if not entries:
            return
        ids = images.inventory().root_ids
        for entry in entries:
            name = _NAMES.get(entry.nsf.ns_cflag)
            if name is None or getattr(ids, f"{name}_ns_id") != entry.nsf.ns_id:
                raise ImageError(
                    f"file {entry.id} is namespace {entry.nsf.ns_id} of kind {entry.nsf.ns_cflag:#x}, "
                    "which is not one of the tree's own",
                    "restore it with criu",
                )

    def open(self, entry: Any, opening: Opening) -> int:
        """Ours, in which the tasks will be."""
        return os.open(f"/proc/self/ns/{_NAMES[entry.nsf.ns_cflag]}", entry.nsf.flags & os.O_PATH | os.O_CLOEXEC)


def name_of(link: str) -> str | None:
    """net for net:[4026531833]; None for what is no namespace."""
    name, found, _ = link.partition(":[")
    return name if found and name in SPACES else None
