# SPDX-License-Identifier: GPL-2.0-only
"""Standard input, output and error of this process, as names for `--external`: what each start has of its own."""

from __future__ import annotations

import fcntl
import os
import stat


def external() -> dict[str, int]:
    """The name of what is open as 0, 1 and 2, and is not to be saved → the lowest number that it has.

    Files that are read have a position worth keeping, and /dev/null is everywhere; sockets cannot be named so.
    """
    found: dict[str, int] = {}
    null = os.stat(os.devnull).st_rdev
    for fd in range(3):
        status = os.fstat(fd)
        mode, writes = status.st_mode, fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
        if stat.S_ISFIFO(mode) and os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:"):
            found.setdefault(f"pipe[{status.st_ino}]", fd)
        elif stat.S_ISCHR(mode) and status.st_rdev != null:
            found.setdefault(f"tty[{status.st_rdev:x}:{status.st_dev:x}]", fd)
        elif stat.S_ISREG(mode) and writes:
            found.setdefault(f"file[{_mount(fd):x}:{status.st_ino:x}]", fd)
    return found


def _mount(fd: int) -> int:
    with open(f"/proc/self/fdinfo/{fd}") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("mnt_id:"))
