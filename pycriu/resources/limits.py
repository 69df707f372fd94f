# SPDX-License-Identifier: GPL-2.0-only
"""What the kernel grants: resource limits, the OOM killer's adjustment.

All of it is read from outside. Raising a hard limit or lowering the OOM adjustment needs CAP_SYS_RESOURCE; a
restore that would need it and does not have it is refused before any task exists.
"""

from __future__ import annotations

import os
import struct

from pycriu.errors import About, UserError
from pycriu.images import messages as m
from pycriu.kernel import procfs
from pycriu.tracing.tracee import Remote, Row

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


def look(pid: int) -> tuple[tuple[int, int], ...]:
    """Soft and hard limit of each resource, in the kernel's order.

    prlimit(2) would want CAP_SYS_RESOURCE where the process has other user ids than we.
    """
    return parse(procfs.text(pid, "limits"))


def parse(content: str) -> tuple[tuple[int, int], ...]:
    """/proc/PID/limits: a heading, then one line per resource, in columns."""
    lines = content.splitlines()[1 : RLIM_NLIMITS + 1]
    return tuple((_number(line[26:47]), _number(line[47:68])) for line in lines)


def _number(word: str) -> int:
    word = word.strip()
    return RLIM_INFINITY if word == "unlimited" else int(word)


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
            with About():
                if limit.max > hard:
                    wanted = f"RLIMIT_{_NAMES[number]} {_show(limit.max)}"
                    raise UserError(
                        f"{core.tc.comm} had {wanted}; the hard limit here is {_show(hard)}",
                        "raising it needs CAP_SYS_RESOURCE; start the restore from a shell that has the higher limit",
                    )


def _show(value: int) -> str:
    return "infinity" if value == RLIM_INFINITY else str(value)


def restore(pid: int, core: Any) -> None:
    """Set on the stopped task `pid`, from outside, what differs from what it was born with; limits: see `rows`."""
    if core.tc.HasField("oom_score_adj") and core.tc.oom_score_adj != oom_score_adj(pid):
        _set_oom_score_adj(pid, core.tc.oom_score_adj)


def rows(core: Any, pid: int, remote: Remote) -> list[Row]:
    """The limits, set by the task itself. They come last: what it has may lie above them."""
    out = []
    for number, (limit, now) in enumerate(zip(core.tc.rlimits.rlimits, look(pid), strict=False)):
        if (limit.cur, limit.max) != now:
            data = remote.data(struct.pack("<QQ", limit.cur, limit.max))
            out.append(Row("prlimit64", 0, number, data, 0, what=f"RLIMIT_{_NAMES[number]}"))
    return out


def _set_oom_score_adj(pid: int, value: int) -> None:
    try:
        with open(f"/proc/{pid}/oom_score_adj", "w") as file:
            file.write(str(value))
    except PermissionError:
        raise UserError(
            f"task {pid} had oom_score_adj {value}, which may not be granted here", "lowering it needs CAP_SYS_RESOURCE"
        ) from None
