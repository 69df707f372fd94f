# SPDX-License-Identifier: GPL-2.0-only
"""Scheduling: each policy with its parameters, nice value, affinity, I/O priority, timer slack, memory policy.

Missing: core scheduling cookies (refused), memory policies of single mappings.
"""

import ctypes
import os
import platform
import struct
from collections.abc import Callable, Iterator

import victim

GETATTR, SETATTR, IOPRIO_GET, IOPRIO_SET, GET_MEMPOLICY, SET_MEMPOLICY = (
    (315, 314, 252, 251, 239, 238) if platform.machine() == "x86_64" else (275, 274, 31, 30, 236, 237)
)
ATTR = struct.Struct("<IIQiIQQQ8x")
RESET_ON_FORK, RECLAIM = 1, 2
PR_SET_TIMERSLACK, PR_GET_TIMERSLACK = 29, 30
MPOL_BIND = 2
MS = 1_000_000
libc = ctypes.CDLL(None, use_errno=True)


def attr() -> tuple[int, ...]:
    room = ctypes.create_string_buffer(ATTR.size)
    victim.call(GETATTR, 0, room, ATTR.size, 0)
    return ATTR.unpack(room.raw)[1:]


def set_attr(policy: int, flags: int = 0, nice: int = 0, priority: int = 0, times: tuple[int, ...] = (0, 0, 0)) -> None:
    raw = ATTR.pack(ATTR.size, policy, flags, nice, priority, *times)
    victim.call(SETATTR, 0, ctypes.create_string_buffer(raw, len(raw)), 0)


def memory_policy() -> tuple[int, bytes]:
    mode, mask = ctypes.c_int(-1), ctypes.create_string_buffer(128)
    if libc.syscall(GET_MEMPOLICY, ctypes.byref(mode), mask, 1024, None, 0):
        return -1, b""  # no CONFIG_NUMA
    return mode.value, mask.raw


def seen() -> tuple[object, ...]:
    slack = libc.prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0)
    return attr(), sorted(os.sched_getaffinity(0)), victim.call(IOPRIO_GET, 1, 0), slack, memory_policy(), os.nice(0)


def bind_memory() -> None:
    libc.syscall(SET_MEMPOLICY, MPOL_BIND, ctypes.create_string_buffer(bytes([1]), 128), 1024)
    set_attr(3, 0, 7)


def bind() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    victim.call(IOPRIO_SET, 1, 0, 2 << 13 | 6)
    libc.prctl(PR_SET_TIMERSLACK, 123_456, 0, 0, 0)


WAYS: dict[str, Callable[[], None]] = {
    "SCHED_OTHER": lambda: set_attr(0, RESET_ON_FORK, 4),
    "SCHED_BATCH and a memory policy": bind_memory,
    "SCHED_IDLE": lambda: set_attr(5),
    "SCHED_FIFO": lambda: set_attr(1, 0, 0, 3),
    "SCHED_RR": lambda: set_attr(2, RESET_ON_FORK, 0, 5),
    "SCHED_DEADLINE": lambda: set_attr(6, RECLAIM, 0, 0, (MS, 40 * MS, 50 * MS)),
    "one CPU, I/O priority and timer slack": bind,
    "nothing": lambda: None,
}


def scenario() -> Iterator[victim.Damage]:
    hold, release = os.pipe()
    ready = os.pipe()

    def live(name: str, set_up: Callable[[], None]) -> None:
        os.close(release)
        try:
            set_up()
        except OSError as error:
            print(f"{name}: not here: {error}", flush=True)
        before = seen()
        os.write(ready[1], b"x")
        damage = os.read(hold, 1)
        if damage:
            os.nice(3)
            victim.call(IOPRIO_SET, 1, 0, 2 << 13 | 1)
        victim.equal(seen(), before, f"a process with {name}")

    children = {name: victim.child(lambda name=name, way=way: live(name, way)) for name, way in WAYS.items()}  # type: ignore[misc]
    os.close(hold)
    for _ in children:
        os.read(ready[0], 1)
    before = seen()
    yield lambda: os.write(release, b"x")
    victim.equal(seen(), before, "the victim itself")
    os.close(release)
    for name, pid in children.items():
        victim.join(pid, f"the child with {name}")


victim.play(scenario)
