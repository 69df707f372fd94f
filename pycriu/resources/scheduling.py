# SPDX-License-Identifier: GPL-2.0-only
"""How each thread gets the CPU: policy, priority, nice value, deadline parameters, time slice, clamps, CPU affinity,
I/O priority, timer slack, memory policy. See sched(7), ioprio_set(2), set_mempolicy(2).

All but memory policy and timer slack is read and set from outside. CRIU's image has policy, nice value and priority;
the rest goes into pycriu's own (images.own). An affinity that leaves out no CPU of the machine is taken for none: on
a machine with more CPUs the thread may use them all. CPUs that the machine of the restore lacks are left out.

Not kept: core scheduling cookies (refused), memory policies of single mappings (mbind(2)).
"""

from __future__ import annotations

import ctypes
import os
import struct

from pycriu.errors import ImageError, KernelError, Unsupported, UserError
from pycriu.images.own import Facts, Numbers
from pycriu.kernel import libc
from pycriu.record import record
from pycriu.tracing.tracee import Remote, Row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

EPERM, EACCES = 1, 13
SCHED_OTHER, SCHED_FIFO, SCHED_RR, SCHED_BATCH, SCHED_IDLE, SCHED_DEADLINE = 0, 1, 2, 3, 5, 6
REAL_TIME = (SCHED_FIFO, SCHED_RR)
FLAG_RESET_ON_FORK, FLAG_CLAMP_MIN, FLAG_CLAMP_MAX = 1, 0x20, 0x40
_RESET_ON_FORK = 0x40000000  # with a policy, where there is no place for flags
_FLAGS_KEPT = 0x7  # reset on fork, reclaim, overrun signal
# struct sched_attr, include/uapi/linux/sched/types.h: size, policy, flags, nice, priority, runtime, deadline, period in
# nanoseconds, util_min, util_max
_ATTR = struct.Struct("<IIQiIQQQII")
_NO_CLAMPS = ((0, 0), (0, 1024))
PRIO_PROCESS, IOPRIO_WHO_PROCESS = 0, 1
_IOPRIO_DEFAULTS = (0, 2 << 13 | 4)  # none; before Linux 5.18 it is shown as what it means
PR_SCHED_CORE, PR_SCHED_CORE_GET = 62, 0
PR_SET_TIMERSLACK, PR_GET_TIMERSLACK = 29, 30
DEFAULT_TIMER_SLACK = 50_000  # nanoseconds, include/linux/init_task.h
MPOL_DEFAULT = 0
_NODES = 1024  # MAX_NUMNODES at its largest
_CPUS_MAX = 1 << 16

_COUNTS = {"deadline": 3, "clamps": 2, "memory_policy": 1 + _NODES // 64}  # numbers that each has


@record
class Attr:
    """struct sched_attr."""

    policy: int
    flags: int
    nice: int
    priority: int
    runtime: int
    deadline: int
    period: int
    clamps: tuple[int, int]


def get_attr(tid: int) -> Attr:
    """sched_getattr(2) of a thread (0: ours)."""
    buffer = ctypes.create_string_buffer(_ATTR.size)
    libc.call("sched_getattr", tid, ctypes.addressof(buffer), _ATTR.size, 0, what=f"task {tid}")
    _, policy, flags, nice, priority, runtime, deadline, period, low, high = _ATTR.unpack(buffer.raw)
    return Attr(policy, flags, nice, priority, runtime, deadline, period, (low, high))


def set_attr(tid: int, attr: Attr) -> None:
    """sched_setattr(2)."""
    raw = _ATTR.pack(
        _ATTR.size, attr.policy, attr.flags, attr.nice, attr.priority, attr.runtime, attr.deadline, attr.period,
        *attr.clamps,
    )  # fmt: skip
    buffer = ctypes.create_string_buffer(raw, len(raw))
    libc.call("sched_setattr", tid, ctypes.addressof(buffer), 0, what=f"task {tid}, policy {attr.policy}")


def look_thread(tid: int) -> dict[str, Numbers]:
    """The facts of one thread that CRIU's image has no fields for; Unsupported for a core scheduling cookie."""
    _refuse_cookie(tid)
    attr = get_attr(tid)
    facts: dict[str, Numbers] = {}
    if attr.flags & _FLAGS_KEPT:
        facts["sched_flags"] = (attr.flags & _FLAGS_KEPT,)
    if attr.policy == SCHED_DEADLINE:
        facts["deadline"] = (attr.runtime, attr.deadline, attr.period)
    elif attr.policy not in REAL_TIME and attr.runtime and attr.runtime != get_attr(0).runtime:
        facts["slice"] = (attr.runtime,)
    if attr.clamps not in _NO_CLAMPS and (attr.policy not in REAL_TIME or attr.clamps != (1024, 1024)):
        facts["clamps"] = attr.clamps
    affinity = os.sched_getaffinity(tid)
    if not _CPUS:
        _CPUS.update(online())
    if not affinity >= _CPUS:
        facts["affinity"] = tuple(sorted(affinity))
    priority = libc.call("ioprio_get", IOPRIO_WHO_PROCESS, tid, what=f"task {tid}")
    if priority not in _IOPRIO_DEFAULTS:
        facts["io_priority"] = (priority,)
    return facts


_CPUS: set[int] = set()  # of this machine, asked for once, not once per thread that is stopped
_HAS_POLICIES: list[bool] = []


def _refuse_cookie(tid: int) -> None:
    cookie = ctypes.c_uint64(0)
    try:
        libc.call("prctl", PR_SCHED_CORE, PR_SCHED_CORE_GET, tid, 0, ctypes.addressof(cookie))
    except KernelError:
        return  # no CONFIG_SCHED_CORE, or a CPU without SMT
    if cookie.value:
        raise Unsupported(
            f"task {tid} has a core scheduling cookie, which cannot be saved", "prctl(PR_SCHED_CORE) made it"
        )


def online() -> set[int]:
    """The CPUs that this machine has."""
    try:
        with open("/sys/devices/system/cpu/online") as file:
            return parse_cpus(file.read())
    except FileNotFoundError:  # no /sys: its first words are cpu, cpu0, ...
        with open("/proc/stat") as file:
            words = [line.split(" ", 1)[0] for line in file]
        return {int(word[3:]) for word in words if word.startswith("cpu") and word[3:].isdigit()}


def parse_cpus(text: str) -> set[int]:
    """A list of CPUs as the kernel prints it, such as 0-3,8."""
    found: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def own_memory_policy() -> Numbers | None:
    """Our own memory policy: mode and mask; None where the kernel has none (CONFIG_NUMA)."""
    room = ctypes.create_string_buffer(8 + _NODES // 8)
    at = ctypes.addressof(room)
    try:
        libc.call("get_mempolicy", at, at + 8, _NODES, 0, 0)
    except KernelError:
        return None
    return _policy(room.raw)


def own_facts() -> dict[str, Numbers]:
    """What of this thread `look_thread` leaves to `ask_thread`."""
    facts: dict[str, Numbers] = {}
    slack = libc.call("prctl", PR_GET_TIMERSLACK)
    if slack not in (0, DEFAULT_TIMER_SLACK):
        facts["timer_slack"] = (slack,)
    policy = own_memory_policy()
    if policy is not None and policy[0] != MPOL_DEFAULT:
        facts["memory_policy"] = policy
    return facts


def _policy(raw: bytes) -> Numbers:
    mode = int.from_bytes(raw[:4], "little")
    words = struct.unpack_from(f"<{_NODES // 64}Q", raw, 8)
    return (mode, *words)


def ask_thread(remote: Remote) -> tuple[list[Row], Callable[[list[int]], dict[str, Numbers]]]:
    """get_mempolicy(2), which only the thread itself can say, and the timer slack, which takes CAP_SYS_NICE to read of
    others.
    """
    if not _HAS_POLICIES:
        _HAS_POLICIES.append(own_memory_policy() is not None)
    size = 8 + _NODES // 8
    room = remote.room(size)
    rows = [Row("get_mempolicy", room, room + 8, _NODES, 0, 0)] if _HAS_POLICIES[0] else []

    def answer(results: list[int]) -> dict[str, Numbers]:
        facts: dict[str, Numbers] = {}
        policy = _policy(remote.task.read(room, size))
        if policy[0] != MPOL_DEFAULT:
            facts["memory_policy"] = policy
        slack = results[-1]
        if slack not in (0, DEFAULT_TIMER_SLACK):  # 0 is what a real-time thread has
            facts["timer_slack"] = (slack,)
        return facts

    return [*rows, Row("prctl", PR_GET_TIMERSLACK)], answer


# ---------------------------------------------------------------------------------------------------------- restore


def check(facts: Facts) -> list[str]:
    """ImageError for facts that cannot be, UserError for an affinity that this machine cannot give; remarks."""
    remarks = []
    here = online()
    for tid, of_thread in facts.items():
        cpus = set(of_thread.get("affinity", ()))
        if not all(0 <= cpu < _CPUS_MAX for cpu in cpus):
            raise ImageError(f"the affinity of task {tid} has CPUs out of bounds")
        if cpus and not cpus & here:
            raise UserError(
                f"task {tid} was bound to the CPUs {_show(cpus)}; this machine has {_show(here)}",
                "restore it on a machine that has one of them, or dump it without a binding (taskset -p)",
            )
        if cpus - here:
            remarks.append(f"task {tid} was bound to CPUs that this machine lacks: {_show(cpus - here)}")
        for name, count in _COUNTS.items():
            if len(of_thread.get(name, (0,) * count)) != count:
                raise ImageError(f"{name} of task {tid} has {len(of_thread[name])} numbers, not {count}")
        for name, bits in (("io_priority", 16), ("sched_flags", 3), ("timer_slack", 63)):
            if any(not 0 <= number < 1 << bits for number in of_thread.get(name, ())):
                raise ImageError(f"{name} of task {tid} is out of bounds")
    return remarks


def _show(cpus: set[int]) -> str:
    return ",".join(map(str, sorted(cpus)[:20])) + ("…" if len(cpus) > 20 else "")


def thread_rows(facts: dict[str, Numbers], remote: Remote, first: dict[str, Numbers] | None = None) -> list[Row]:
    """Timer slack, and the memory policy, before there is memory; a thread was born with the policy of the first of its
    process, whose facts are `first`.
    """
    slack = Row("prctl", PR_SET_TIMERSLACK, facts.get("timer_slack", (DEFAULT_TIMER_SLACK,))[0])
    mine = own_memory_policy()
    default = (MPOL_DEFAULT, *(0,) * (_NODES // 64))
    wanted = facts.get("memory_policy", default)
    if wanted == (mine or default if first is None else first.get("memory_policy", default)):
        return [slack]
    mask = remote.data(struct.pack(f"<{_NODES // 64}Q", *wanted[1:])) if any(wanted[1:]) else 0
    what = "the memory policy; needs CONFIG_NUMA"
    return [slack, Row("set_mempolicy", wanted[0], mask, _NODES if mask else 0, what=what)]


def apply(tid: int, thread: Any, facts: dict[str, Numbers]) -> None:
    """Everything but what `thread_rows` sets, from outside; UserError where we may not.

    It comes last, because the task may get little CPU time from then on.
    """
    try:
        _apply(tid, thread, facts)
    except (PermissionError, KernelError) as error:
        if error.errno not in (EPERM, EACCES):
            raise
        raise UserError(
            f"task {tid} had policy {thread.sched_policy}, priority {thread.sched_prio}, nice value {thread.sched_nice}"
            f"{', '.join(['', *facts])}, which may not be granted here: {error}",
            "it needs CAP_SYS_NICE, and CAP_SYS_ADMIN for real-time I/O priorities",
        ) from None


def _apply(tid: int, thread: Any, facts: dict[str, Numbers]) -> None:
    wanted = facts.get("io_priority", _IOPRIO_DEFAULTS[:1])[0]
    now = libc.call("ioprio_get", IOPRIO_WHO_PROCESS, tid)
    if wanted != now and not (wanted in _IOPRIO_DEFAULTS and now in _IOPRIO_DEFAULTS):
        libc.call("ioprio_set", IOPRIO_WHO_PROCESS, tid, wanted, what=f"task {tid}, I/O priority {wanted:#x}")
    here = online()
    affinity = set(facts.get("affinity", ())) & here or here
    if affinity != os.sched_getaffinity(tid):
        os.sched_setaffinity(tid, affinity)
    _set_policy(tid, thread, facts)


def _set_policy(tid: int, thread: Any, facts: dict[str, Numbers]) -> None:
    now = get_attr(tid)
    policy, nice = thread.sched_policy & ~_RESET_ON_FORK, thread.sched_nice
    priority = thread.sched_prio if policy in REAL_TIME else 0
    flags = facts.get("sched_flags", (0,))[0]
    if thread.sched_policy & _RESET_ON_FORK:  # CRIU saves what sched_getscheduler(2) says
        flags |= FLAG_RESET_ON_FORK
    runtime, deadline, period = facts.get("deadline", (*facts.get("slice", (0,)), 0, 0))
    low, high = facts.get("clamps", (0, 0))
    if "clamps" in facts:
        flags |= FLAG_CLAMP_MIN | FLAG_CLAMP_MAX
    if policy == SCHED_DEADLINE and "deadline" not in facts:
        raise ImageError(f"task {tid} was under SCHED_DEADLINE, and the image has no parameters of that")
    fair = policy not in REAL_TIME and policy != SCHED_DEADLINE
    wanted = Attr(policy, flags, nice if fair else 0, priority, runtime, deadline, period, (low, high))
    if nice != os.getpriority(PRIO_PROCESS, tid):
        os.setpriority(PRIO_PROCESS, tid, nice)
    same = (now.policy, now.flags & _FLAGS_KEPT, now.priority) == (policy, flags, priority)
    if not same or runtime:
        set_attr(tid, wanted)
