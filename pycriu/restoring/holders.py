# SPDX-License-Identifier: GPL-2.0-only
"""Who holds a PID that a restore needs, in words. Imported when one is taken, or is to be waited for.

A number is taken by a process or thread of that id, zombies included, and also by a session or process group of that
number which has outlived its leader: the kernel gives it to nobody as long as one member is left.
"""

from __future__ import annotations

import os

from pycriu.errors import PidTaken, PycriuError, TraceeGone
from pycriu.kernel import procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# What helps whoever it is that has the PID.
WAYS = "or let the restore wait for it (--wait-pid SECONDS) or give it a PID namespace of its own (--new-pid)"


def taken(pid: int) -> PycriuError:
    """The error that names who holds `pid`, and the ways out."""
    try:
        return _holder(pid)
    except TraceeGone:
        pass
    return next(iter(by_members([pid])), None) or PidTaken(f"PID {pid} was in use a moment ago", "try again")


def of_leader(pid: int) -> PidTaken:
    """The same for the PID of a leader that is not in the tree."""
    try:
        holder = procfs.stat(pid).comm
    except TraceeGone:
        holder = "somebody who has just ended"
    return PidTaken(
        f"the leader of the session or group {pid} of the tree is not in the tree, and PID {pid} is in use by {holder}",
        "with --shell-job the tree stays in the session of the restore; --wait-pid SECONDS waits for the PID, "
        "--new-pid restores into a PID namespace of its own",
    )


def _holder(pid: int) -> PycriuError:
    """TraceeGone where no task has that id."""
    stat = procfs.stat(pid)
    process = int(procfs.parse_status(procfs.text(pid, "status"))["Tgid"])
    if process != pid:
        leader = procfs.stat(process)
        said = f"PID {pid} is the id of a thread of another process, {process} ({leader.comm})"
        return PidTaken(said, f"end that process first (kill {process}) {WAYS}")
    if stat.state == "Z":
        parent = procfs.stat(stat.ppid)
        return PidTaken(
            f"PID {pid} is still held by a zombie ({stat.comm}), whose parent {parent.pid} ({parent.comm}) "
            "has not read its exit status",
            f"let {parent.comm} wait for it (a shell does at its next prompt) or end that parent {WAYS}",
        )
    return PidTaken(f"PID {pid} is in use by {stat.comm}", f"end it first (kill {pid}) {WAYS}")


def by_members(pids: Iterable[int]) -> list[PidTaken]:
    """One error for each of `pids` that is the number of a session or group with living members."""
    wanted = set(pids)
    found: dict[int, PidTaken] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            stat = procfs.stat(int(name))
        except TraceeGone:
            continue
        for what, number in (("process group", stat.pgrp), ("session", stat.session)):
            if number in wanted and number not in found:
                found[number] = PidTaken(
                    f"PID {number} is the number of a {what} in which process {stat.pid} ({stat.comm}) still is",
                    f"end it first (kill {stat.pid}) {WAYS}",
                )
    return [found[pid] for pid in sorted(found)]
