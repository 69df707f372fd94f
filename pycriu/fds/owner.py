# SPDX-License-Identifier: GPL-2.0-only
"""Who is told by a signal that a file is ready (F_SETOWN, F_SETOWN_EX, F_SETSIG, O_ASYNC): the same for every kind.

The kernel remembers with the owner the user ids of whoever set it, and checks them when it sends the signal; and with
O_ASYNC the number under which the file was known, which it hands out as si_fd. So the owner is set under those ids, and
O_ASYNC is switched on by a task that has the file. See fcntl(2); __f_setown and fasync_helper in fs/fcntl.c.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from pycriu.errors import ImageError, KernelError, Unsupported
from pycriu.images import messages as m
from pycriu.kernel import libc, procfs
from pycriu.tracing.tracee import Row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pycriu.fds.openfile import OpenFile
    from pycriu.tracing import pstree

F_SETSIG, F_GETSIG, F_SETOWN_EX, F_GETOWN_EX, F_GETOWNER_UIDS = 10, 11, 15, 16, 17
OWNER_TID, OWNER_PID, OWNER_PGRP = 0, 1, 2
_OWNER = struct.Struct("=iI")  # struct f_owner_ex: type and number
_UIDS = struct.Struct("=II")


def look(file: OpenFile, fd: int) -> Any:
    """fown_entry of `file`, of which `fd` is a descriptor of our own; None where it has neither owner nor signal."""
    if file.flags & os.O_PATH:
        return None
    kind, pid = _OWNER.unpack(fcntl.fcntl(fd, F_GETOWN_EX, bytes(8)))
    signum = fcntl.fcntl(fd, F_GETSIG)
    if not pid:  # nobody, or somebody who has ended
        return m.fown_entry(uid=0, euid=0, signum=signum, pid_type=0, pid=0) if signum else None
    try:
        uid, euid = _UIDS.unpack(fcntl.fcntl(fd, F_GETOWNER_UIDS, bytes(8)))
    except OSError as error:
        hint = "this kernel lacks CONFIG_CHECKPOINT_RESTORE"
        raise KernelError("fcntl", error.errno or 0, f"F_GETOWNER_UIDS of {file.name}", hint) from None
    return m.fown_entry(uid=uid, euid=euid, signum=signum, pid_type=kind, pid=pid)


def refuse_outsider(file: OpenFile, owner: Any, root: pstree.Process) -> None:
    """Unsupported where signals go to somebody who is not restored with the tree: the number may be another's then."""
    members = root.walk()
    known = {
        OWNER_PID: [process.pid for process in members],
        OWNER_PGRP: [process.stat.pgrp for process in members],
        OWNER_TID: [tid for process in members if not process.zombie for tid in procfs.threads(process.pid)],
    }
    if owner.pid and owner.pid not in known[owner.pid_type]:
        what = "process group" if owner.pid_type == OWNER_PGRP else "task"
        raise Unsupported(
            f"{file.name} tells {what} {owner.pid} by a signal that it is ready (F_SETOWN), which is outside the tree",
            "dump the process that is the parent of both",
        )


# ---------------------------------------------------------------------------------------------------------- restore


def rows(flags: int, fd: int) -> list[Row]:
    """O_ASYNC, for a task that has the file as `fd`; off and on, because a flag that is set already changes nothing."""
    if not flags & os.O_ASYNC:
        return []
    what = f"O_ASYNC of descriptor {fd}"
    return [Row("fcntl", fd, fcntl.F_SETFL, value, what=what) for value in (flags & ~os.O_ASYNC, flags)]


def restore(fd: int, owner: Any, number: int) -> None:
    """Set signal and owner of the file `fd`, which the image calls `number`; the owner must exist."""
    try:
        if owner.signum:
            fcntl.fcntl(fd, F_SETSIG, owner.signum)
        if owner.pid:
            _set_owner(fd, owner)
    except (OSError, OverflowError, struct.error) as error:
        told = "no such task" if getattr(error, "errno", 0) == errno.ESRCH else str(error)
        raise ImageError(f"the owner (F_SETOWN) of file {number} cannot be set to {owner.pid}: {told}") from None


def _set_owner(fd: int, owner: Any) -> None:
    ours = os.getresuid()
    foreign = (owner.uid, owner.euid) != ours[:2]
    value = _OWNER.pack(owner.pid_type, owner.pid)
    if foreign:
        libc.call("setresuid", owner.uid, owner.euid, ours[1], what=f"owner of file {fd}")
    try:
        fcntl.fcntl(fd, F_SETOWN_EX, value)
    finally:
        if foreign:
            libc.call("setresuid", *ours)
