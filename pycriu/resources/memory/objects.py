# SPDX-License-Identifier: GPL-2.0-only
"""What is mapped, as open files: shared memory has no path, so a mapping of it leads to it by its link in /proc."""

from __future__ import annotations

import os

from pycriu.errors import ImageError, KernelError
from pycriu.fds.openfile import OpenFile
from pycriu.images.catalogue import FILE_PRIVATE, FILE_SHARED, MEMFD, SYSVIPC
from pycriu.kernel.pagemap import PAGE_SIZE
from pycriu.resources.memory.mappings import Mapping, file_flags

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pycriu.fds.opening import Opening
    from pycriu.fds.saving import Known, Saving
    from pycriu.fds.table import Kinds
    from pycriu.resources.memory.plan import Plan


class Objects:
    """Our descriptors for the shared memory that a stopped tree has mapped. A scope: they are closed at its end."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, int], OpenFile] = {}

    def __enter__(self) -> Objects:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._known.values():
            os.close(file.fd)
        self._known = {}

    def take(self, mappings: list[Mapping], kinds: Kinds) -> list[Known]:
        """Open what the mappings of one task are of; what nobody has opened before is returned, for `Saving`."""
        found: list[Known] = []
        for mapping in mappings:
            if not mapping.status & MEMFD or mapping.file is None:
                continue
            status, flags = mapping.file.status, file_flags(mapping.line)
            key = (status.st_dev, status.st_ino, flags)
            if key not in self._known:
                try:
                    fd = os.open(mapping.file.link, flags | os.O_CLOEXEC)
                except OSError as error:
                    raise KernelError("open", error.errno or 0, mapping.file.name) from None
                self._known[key] = OpenFile(os.getpid(), fd)
                found.append((self._known[key], kinds.of(self._known[key])))
            mapping.opened = self._known[key]
        return found


def object_of(mapping: Mapping) -> tuple[str, int, int] | None:
    """The link to the shared memory that is mapped, the number by which images know it, and the size of its pages."""
    if mapping.file is None or not mapping.status & (MEMFD | SYSVIPC):
        return None
    number = mapping.line.inode if mapping.status & SYSVIPC else mapping.file.status.st_ino
    return mapping.file.link, number, mapping.line.page_size if "ht" in mapping.line.flags else PAGE_SIZE


def file_number(mapping: Mapping, saving: Saving) -> int:
    """The id of the file that is mapped, or of the System V segment; 0 where there is none."""
    if mapping.status & SYSVIPC:
        return mapping.line.inode
    if mapping.opened is not None:
        return saving.number_of(mapping.opened.pid, mapping.opened.fd) or 0
    return 0 if mapping.file is None else saving.place(mapping.file, file_flags(mapping.line))


def open_mapped(plans: list[Plan], opened: Opening) -> dict[tuple[int, int], int]:
    """Inheritable descriptors for everything that is mapped, by `Plan.file_key`: id and access mode.

    The access mode is the mapping's own. An open file of the tree may have another, and one that may write would let
    the mapping become writable, which a seal against writing (F_SEAL_WRITE) does not bear.
    """
    found: dict[tuple[int, int], int] = {}
    for plan in plans:
        for vma in plan.vmas:
            key = plan.file_key(vma)
            if not vma.status & (FILE_PRIVATE | FILE_SHARED) or key in found:
                continue
            fd = opened.fd(key[0])
            try:
                found[key] = opened.adopt(os.open(f"/proc/self/fd/{fd}", key[1] | os.O_CLOEXEC))
            except OSError as error:
                raise ImageError(f"file {key[0]} cannot be opened to be mapped: {error.strerror}") from None
    return found
