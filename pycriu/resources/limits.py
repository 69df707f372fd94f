# SPDX-License-Identifier: GPL-2.0-only
"""What the kernel grants: resource limits, scheduling policy and priority, nice value, the OOM killer's adjustment.

All of it is read and set from outside. Raising a hard limit or lowering the OOM adjustment needs CAP_SYS_RESOURCE; a
restore that would need it and does not have it is refused before any task exists.
"""

from __future__ import annotations

import os

from pycriu.errors import UserError
from pycriu.images import messages as m
from pycriu.kernel import procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

RLIM_NLIMITS = 16
RLIM_INFINITY = (1 << 64) - 1
CAP_SYS_RESOURCE = 24
_NAMES = (
    "CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS", "LOCKS", "SIGPENDING",
    "MSGQUEUE", "NICE", "RTPRIO", "RTTIME",
)  # fmt: skip
SCHED_OTHER, SCHED_BATCH, SCHED_IDLE = 0, 3, 5
PRIO_PROCESS = 0


def look(pid: int) -> tuple[tuple[int, int], ...]:
    """Soft and hard limit of each resource, in the kernel's order."""
    import resource

    return tuple(
        (soft & RLIM_INFINITY, hard & RLIM_INFINITY)
        for soft, hard in (resource.prlimit(pid, number) for number in range(RLIM_NLIMITS))
    )


def raise_own_descriptor_limit() -> None:
    """Let this process hold as many descriptors as it may: it opens something for every task at once."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def limit_entries(limits: tuple[tuple[int, int], ...]) -> Any:
    """task_rlimits_entry."""
    return m.task_rlimits_entry(rlimits=[m.rlimit_entry(cur=soft, max=hard) for soft, hard in limits])


def oom_score_adj(pid: int) -> int:
    """/proc/PID/oom_score_adj."""
    return int(procfs.text(pid, "oom_score_adj"))


def check(cores: list[Any]) -> None:
    """UserError where a limit of some task is higher than may be granted here."""
    if int(procfs.parse_status(procfs.text(os.getpid(), "status"))["CapEff"], 16) >> CAP_SYS_RESOURCE & 1:
        return
    mine = look(os.getpid())
    for core in cores:
        for number, (limit, (_, hard)) in enumerate(zip(core.tc.rlimits.rlimits, mine, strict=False)):
            if limit.max > hard:
                wanted = f"RLIMIT_{_NAMES[number]} {_show(limit.max)}"
                raise UserError(
                    f"{core.tc.comm} had {wanted}; the hard limit here is {_show(hard)}",
                    "raising it needs CAP_SYS_RESOURCE; start the restore from a shell that has the higher limit",
                )


def _show(value: int) -> str:
    return "infinity" if value == RLIM_INFINITY else str(value)


def restore(pid: int, core: Any) -> None:
    """Set on the stopped task `pid` what differs from what it was born with."""
    import resource

    for number, (limit, now) in enumerate(zip(core.tc.rlimits.rlimits, look(pid), strict=False)):
        if (limit.cur, limit.max) != now:
            resource.prlimit(pid, number, (_signed(limit.cur), _signed(limit.max)))
    if core.tc.HasField("oom_score_adj") and core.tc.oom_score_adj != oom_score_adj(pid):
        _set_oom_score_adj(pid, core.tc.oom_score_adj)
    _schedule(pid, core.thread_core)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _set_oom_score_adj(pid: int, value: int) -> None:
    try:
        with open(f"/proc/{pid}/oom_score_adj", "w") as file:
            file.write(str(value))
    except PermissionError:
        raise UserError(
            f"task {pid} had oom_score_adj {value}, which may not be granted here", "lowering it needs CAP_SYS_RESOURCE"
        ) from None


def _schedule(pid: int, thread: Any) -> None:
    policy, nice = thread.sched_policy, thread.sched_nice
    if policy != os.sched_getscheduler(pid):
        priority = 0 if policy in (SCHED_OTHER, SCHED_BATCH, SCHED_IDLE) else thread.sched_prio
        os.sched_setscheduler(pid, policy, os.sched_param(priority))
    if nice != os.getpriority(PRIO_PROCESS, pid):
        os.setpriority(PRIO_PROCESS, pid, nice)
