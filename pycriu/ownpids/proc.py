# SPDX-License-Identifier: GPL-2.0-only
"""A /proc that shows the PID namespace of who asks for it, in a mount namespace of its own."""

from __future__ import annotations

import ctypes

from pycriu.kernel import libc

CLONE_NEWNS = 0x20000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_SLAVE = 2, 4, 8, 0x4000, 0x80000


def own() -> None:
    """For us and what we start; mounts from outside go on to arrive. KernelError where that may not be."""
    libc.call("unshare", CLONE_NEWNS)
    _mount("none", "/", "", MS_REC | MS_SLAVE)
    _mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)


def _mount(source: str, target: str, kind: str, flags: int) -> None:
    words = [ctypes.c_char_p(word.encode()) for word in (source, target, kind)]
    addresses = [ctypes.cast(word, ctypes.c_void_p).value or 0 for word in words]
    libc.call("mount", *addresses, flags, what=target)
