# SPDX-License-Identifier: GPL-2.0-only
"""POSIX timers: ids with gaps, every clock, ways to notify, interval, what is left, and an expiry that is pending.

Missing: the overrun count of a pending expiry, and that a timer was armed for an absolute time.
"""

import ctypes
import os
import platform
import signal
import struct
import time
from collections.abc import Iterator
from types import FrameType

import victim

X86 = platform.machine() == "x86_64"
CREATE, SETTIME, GETTIME, DELETE = (222, 223, 224, 226) if X86 else (107, 110, 108, 111)
SIGEV_SIGNAL, SIGEV_NONE, SIGEV_THREAD_ID = 0, 1, 4
CLOCKS = {"REALTIME": 0, "MONOTONIC": 1, "PROCESS_CPUTIME": 2, "THREAD_CPUTIME": 3, "BOOTTIME": 7, "TAI": 11}
ALARMS = {"REALTIME_ALARM": 8, "BOOTTIME_ALARM": 9}  # a machine without a clock that wakes it has no such timers
LONG, PERIOD, EXTRA = 5000, 0.25, 0.02
VALUE = 0x123456789ABCDEF


def create(clock: int, number: int = signal.SIGALRM, how: int = SIGEV_SIGNAL, value: int = VALUE) -> int:
    event = ctypes.create_string_buffer(struct.pack("<QiiI44x", value, number, how, os.getpid()), 64)
    timer = ctypes.c_int(-1)
    victim.call(CREATE, clock, event, ctypes.byref(timer))
    return timer.value


def arm(timer: int, value: float, period: float = 0.0, flags: int = 0) -> None:
    victim.call(SETTIME, timer, flags, spec(value, period), None)


def spec(value: float, period: float) -> ctypes.Array[ctypes.c_char]:
    words = [word for one in (period, value) for word in (int(one), round(one % 1 * 1e9))]
    return ctypes.create_string_buffer(struct.pack("<4q", *words), 32)


def left(timer: int) -> tuple[float, float]:
    """What is left, and the period."""
    room = ctypes.create_string_buffer(32)
    victim.call(GETTIME, timer, room)
    a, b, c, d = struct.unpack("<4q", room.raw)
    return c + d / 1e9, a + b / 1e9


def known() -> str:
    with open("/proc/self/timers", encoding="ascii") as file:
        return file.read()


def scenario() -> Iterator[victim.Damage]:
    ticks: list[int] = []

    def tick(number: int, frame: FrameType | None) -> None:
        ticks.append(number)

    for number in (signal.SIGALRM, signal.SIGUSR1, signal.SIGRTMIN + 3):
        signal.signal(number, tick)
    gap = [create(1) for _ in range(3)]
    long = {name: create(clock) for name, clock in CLOCKS.items()}
    for name, clock in ALARMS.items():
        try:
            long[name] = create(clock)
        except OSError:
            print(f"no timers on {name} here", flush=True)
    idle = create(1)
    silent = create(1, 0, SIGEV_NONE)
    periodic = create(1, signal.SIGUSR1, SIGEV_SIGNAL | SIGEV_THREAD_ID)
    pending = create(1, signal.SIGRTMIN + 3)
    for timer in gap:
        victim.call(DELETE, timer)
    for timer in (*long.values(), silent):
        arm(timer, LONG, 3.0)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN + 3])
    arm(pending, 0.001)
    victim.wait_until(lambda: signal.SIGRTMIN + 3 in signal.sigpending(), "the pending expiry")
    start = time.monotonic()
    arm(periodic, PERIOD, PERIOD)
    victim.wait_until(lambda: ticks.count(signal.SIGUSR1) > 1, "the first ticks")
    before = known()
    yield lambda: victim.call(DELETE, long["TAI"])
    victim.equal(known(), before, "/proc/self/timers")
    for name, timer in (*long.items(), ("no clock at all", silent)):
        now, again = left(timer)
        passed = time.monotonic() - start
        right = LONG - passed - 400 < now <= LONG + EXTRA and again == 3.0
        victim.check(right, f"timer on {name}: {now} s left, every {again} s")
    victim.equal(left(idle), (0.0, 0.0), "the timer that was not armed")
    seen = ticks.count(signal.SIGUSR1)
    victim.wait_until(lambda: ticks.count(signal.SIGUSR1) > seen + 2, "ticks afterwards", 8)
    victim.equal(left(periodic)[1], PERIOD, "the period")
    info = signal.sigtimedwait([signal.SIGRTMIN + 3], 1)
    victim.check(info is not None and info.si_code == -2, f"the pending expiry: {info}")
    victim.check(signal.sigtimedwait([signal.SIGRTMIN + 3], 0.05) is None, "it expired twice")
    victim.equal(ticks.count(signal.SIGALRM), 0, "long timers that have fired")


victim.play(scenario)
