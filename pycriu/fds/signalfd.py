# SPDX-License-Identifier: GPL-2.0-only
"""signalfd(2): its mask. What can be read from it are pending signals, which belong to the task."""

from __future__ import annotations

import ctypes
import os

from pycriu.fds.kind import Kind
from pycriu.fds.openfile import OpenFile, no_owner
from pycriu.images import messages as m
from pycriu.kernel import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pycriu.fds.opening import Opening
    from pycriu.fds.saving import Saving

_MASK_SIZE = 8  # bytes of the kernel's sigset_t


class Signalfd(Kind):
    """A set of signals to be read."""

    TYPE = 9  # fd_types.SIGNALFD
    NAME = "signalfd"

    def matches(self, file: OpenFile) -> bool:
        """By the name of its anonymous inode."""
        return file.link == "anon_inode:[signalfd]"

    def dump(self, file: OpenFile, number: int, saving: Saving) -> Any:
        """Its message."""
        mask = int(file.fdinfo["sigmask"], 16)
        entry = m.signalfd_entry(id=number, flags=file.flags, fown=no_owner(), sigmask=mask)
        return m.file_entry(type=self.TYPE, id=number, sgfd=entry)

    def open(self, entry: Any, opening: Opening) -> int:
        """A new one."""
        mask = ctypes.c_uint64(entry.sgfd.sigmask)
        flags = os.O_CLOEXEC | entry.sgfd.flags & os.O_NONBLOCK
        return libc.call("signalfd4", -1, ctypes.addressof(mask), _MASK_SIZE, flags, what=f"file {entry.id}")
