# SPDX-License-Identifier: GPL-2.0-only
"""Capabilities that survive execve(2) for a user other than root, see capabilities(7): the ambient ones.

A program that has its capabilities from its file loses them at each further execve(2), and is not dumpable, so that its
own files in /proc belong to root. A restore needs both of its new tasks and of itself.
"""

from __future__ import annotations

import ctypes
import struct

from pycriu.kernel import libc, procfs

PR_SET_DUMPABLE, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 4, 47, 2
_VERSION_3 = 0x20080522


def keep() -> None:
    """Make all effective capabilities ambient, and this process dumpable. KernelError where that is forbidden."""
    status = procfs.parse_status(procfs.text("self", "status"))
    effective, permitted, inheritable, ambient = (
        int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")
    )
    if not effective & ~ambient:
        return
    inheritable |= effective
    words = (
        number >> shift & 0xFFFFFFFF for shift in (0, 32) for number in (effective, permitted, inheritable)
    )  # fmt: skip
    head = ctypes.create_string_buffer(struct.pack("<Ii", _VERSION_3, 0))
    data = ctypes.create_string_buffer(struct.pack("<6I", *words))
    libc.call("capset", ctypes.addressof(head), ctypes.addressof(data))
    for number in range(effective.bit_length()):
        if effective >> number & 1:
            libc.call("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number, 0, 0)
    libc.call("prctl", PR_SET_DUMPABLE, 1, 0, 0, 0)
