# SPDX-License-Identifier: GPL-2.0-only
"""Timers that are read: every clock, what is left, periods, ticks not read yet, relative and absolute, set off by a
change of the clock, expired, not armed, shared by two processes; none early, no tick lost.

Missing: a timer whose clock was set while it was away is not cancelled (TFD_TIMER_CANCEL_ON_SET).
"""

import ctypes
import os
import select
import struct
import time
from collections.abc import Iterator

import victim

MONOTONIC, REALTIME, BOOTTIME, REALTIME_ALARM, BOOTTIME_ALARM = 1, 0, 7, 8, 9
ABSTIME, CANCEL_ON_SET = 1, 2
SECOND = 1_000_000_000
FAR = 5000 * SECOND
SLACK = 2 * SECOND  # what reading two clocks may take on a busy emulator
libc = ctypes.CDLL(None, use_errno=True)


def scenario() -> Iterator[victim.Damage]:
    clocks = {clock: make(clock) for clock in (REALTIME, MONOTONIC, BOOTTIME, REALTIME_ALARM, BOOTTIME_ALARM)}
    relative = {clock: fd for clock, fd in clocks.items() if fd >= 0}
    for fd in relative.values():
        settime(fd, FAR, 7 * SECOND)
    absolute = {clock: make(clock) for clock in (REALTIME, MONOTONIC, BOOTTIME)}
    targets = {clock: time.clock_gettime_ns(clock) + FAR for clock in absolute}
    for clock, fd in absolute.items():
        settime(fd, targets[clock], 0, ABSTIME | (CANCEL_ON_SET if clock == REALTIME else 0))
    idle, expired, ticking, soon, strict = (make(MONOTONIC) for _ in range(5))
    settime(expired, 1000, 0)
    begin = time.monotonic_ns()
    settime(ticking, SECOND // 50, SECOND // 50)
    victim.wait_until(lambda: gettime(ticking) and field(ticking, "ticks") >= 3, "three ticks")
    shared = make(MONOTONIC)
    child = victim.child(lambda: read_later(shared))
    settime(soon, 3 * SECOND, 0)
    set_at = time.monotonic_ns() - SECOND // 1000
    target = time.time_ns() + 2 * SECOND
    strict_fd = make(REALTIME)
    settime(strict_fd, target, 0, ABSTIME)
    settime(strict, SECOND // 1000, 3600 * SECOND)
    victim.wait_until(lambda: field(strict, "ticks") == 1, "a tick")
    yield lambda: os.read(ticking, 8)
    for clock, fd in relative.items():
        left, period = gettime(fd)
        victim.check(0 < left <= FAR, f"{left} ns are left of clock {clock}")
        victim.equal((field(fd, "clockid"), period), (clock, 7 * SECOND), "clock and period")
    for clock, fd in absolute.items():
        off = time.clock_gettime_ns(clock) + gettime(fd)[0] - targets[clock]
        victim.check(-SLACK < off < SLACK, f"the absolute timer of clock {clock} is off by {off} ns")
    victim.equal(field(absolute[REALTIME], "settime flags"), 3, "the flags of the timer that a set clock cancels")
    victim.equal((gettime(idle), ticks(idle)), ((0, 0), 0), "the timer that was never armed")
    victim.equal((gettime(expired), ticks(expired), ticks(expired)), ((0, 0), 1, 0), "the expired timer")
    victim.equal((ticks(strict), ticks(strict)), (1, 0), "the timer with one tick and a long period")
    got, most = ticks(ticking), (time.monotonic_ns() - begin) // (SECOND // 50)
    victim.check(3 <= got <= most, f"{got} ticks were to be read, 3 to {most} are right")
    victim.check(ready(ticking, 1), "the periodic timer has stopped")
    victim.check(
        ready(soon, 10) and time.monotonic_ns() >= set_at + 3 * SECOND, "the timer of 3 s came early, or never"
    )
    victim.check(ready(strict_fd, 10) and time.time_ns() >= target, "the absolute timer came early, or never")
    settime(shared, 1000, 0)
    victim.join(child, "the child that reads the shared timer")


def read_later(shared: int) -> None:
    while not ticks(shared):
        ready(shared, 100)


def make(clock: int) -> int:
    """A descriptor that does not block; -1 where the kernel or its capabilities lack the clock."""
    fd = libc.timerfd_create(clock, os.O_NONBLOCK | os.O_CLOEXEC)
    victim.check(fd >= 0 or clock in (REALTIME_ALARM, BOOTTIME_ALARM), f"timerfd_create({clock})")
    return fd


def settime(fd: int, at: int, period: int, flags: int = 0) -> None:
    spec = struct.pack("=qqqq", period // SECOND, period % SECOND, at // SECOND, at % SECOND)
    victim.equal(libc.timerfd_settime(fd, flags, spec, None), 0, "timerfd_settime")


def gettime(fd: int) -> tuple[int, int]:
    """What is left and the period, in nanoseconds."""
    spec = ctypes.create_string_buffer(32)
    victim.equal(libc.timerfd_gettime(fd, spec), 0, "timerfd_gettime")
    period, rest, left, nanoseconds = struct.unpack("=qqqq", spec.raw)
    return left * SECOND + nanoseconds, period * SECOND + rest


def field(fd: int, name: str) -> int:
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as info:
        value = next(line.split(":")[1] for line in info if line.startswith(name + ":"))
    return int(value, 8 if name.endswith("flags") else 10)


def ticks(fd: int) -> int:
    try:
        return int.from_bytes(os.read(fd, 8), "little")
    except BlockingIOError:
        return 0


def ready(fd: int, seconds: float) -> bool:
    return bool(select.select([fd], [], [], seconds)[0])


victim.play(scenario)
