# SPDX-License-Identifier: GPL-2.0-only
"""What each start is given: standard input, output and error, and other open files; as names for `--external`."""

from __future__ import annotations

import fcntl
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def inherited() -> list[int]:
    """The descriptors above 2 that this process was given when its program was started: whoever opens one later has it
    closed by execve(2) (PEP 446).
    """
    numbers = sorted(int(name) for name in os.listdir("/proc/self/fd"))
    return [fd for fd in numbers if fd > 2 and _is_inheritable(fd)]


def _is_inheritable(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except OSError:  # that of the listing
        return False


def external(more: Iterable[int] = ()) -> dict[str, int]:
    """The name of what is open as 0, 1, 2 and `more`, and is not to be saved → the lowest number that it has.

    Files that are read have a position worth keeping, and /dev/null is everywhere.
    """
    found: dict[str, int] = {}
    null = os.stat(os.devnull).st_rdev
    for fd in (0, 1, 2, *more):
        status = os.fstat(fd)
        mode, writes = status.st_mode, fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
        if stat.S_ISFIFO(mode) and os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:"):
            found.setdefault(f"pipe[{status.st_ino}]", fd)
        elif stat.S_ISCHR(mode):
            if status.st_rdev != null:
                found.setdefault(f"tty[{status.st_rdev:x}:{status.st_dev:x}]", fd)
        elif stat.S_ISSOCK(mode) or (stat.S_IFMT(mode) and fd > 2) or (stat.S_ISREG(mode) and writes):
            found.setdefault(f"file[{_mount(fd):x}:{status.st_ino:x}]", fd)
    return found


def _mount(fd: int) -> int:
    with open(f"/proc/self/fdinfo/{fd}") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("mnt_id:"))
