# SPDX-License-Identifier: GPL-2.0-only
"""Clocks through the vDSO, which a restore has to move, and the rseq area, which it has to register again.

Kept: vDSO, clocks (also after another boot, by a time namespace), rseq
Missing: another kernel's vDSO
"""

import ctypes
import os
import time
from collections.abc import Iterator

import victim

RSEQ = {"x86_64": 334, "aarch64": 293}
RSEQ_SIZE, SIGNATURE = 32, 0x53053053
libc = ctypes.CDLL(None, use_errno=True)


def scenario() -> Iterator[victim.Damage]:
    began = {"monotonic": time.monotonic(), "wall": time.time()}
    registered = rseq_is_taken()
    yield lambda: began.update(monotonic=time.monotonic() + 1000)  # as if the clock had been put back
    monotonic, wall = began["monotonic"], began["wall"]
    first = [time.monotonic() for _ in range(1000)]
    victim.equal(first, sorted(first), "the order of monotonic times")
    victim.check(first[0] >= monotonic, f"monotonic time went back from {monotonic} to {first[0]}")
    passed = time.monotonic() - monotonic, time.time() - wall
    victim.check(
        abs(passed[0] - passed[1]) < 5, f"monotonic time says {passed[0]} s passed, the wall clock {passed[1]} s"
    )
    through_kernel = libc.syscall(clock_gettime_number(), 1, ctypes.byref(buffer := (ctypes.c_long * 2)()))
    victim.equal(through_kernel, 0, "clock_gettime by system call")
    victim.check(abs(buffer[0] - time.monotonic()) < 5, "the vDSO and the kernel do not agree")
    before = time.clock_gettime(time.CLOCK_PROCESS_CPUTIME_ID)
    sum(range(100_000))
    victim.check(time.clock_gettime(time.CLOCK_PROCESS_CPUTIME_ID) > before, "the CPU clock stands still")
    victim.equal(rseq_is_taken(), registered, "whether an rseq area is registered")
    victim.check(0 <= libc.sched_getcpu() < (os.cpu_count() or 1), f"sched_getcpu says {libc.sched_getcpu()}")


def rseq_is_taken() -> bool:
    """Registering a second area is refused; where it is not, the first was not registered, and ours is withdrawn."""
    area = ctypes.create_string_buffer(RSEQ_SIZE * 2)
    aligned = (ctypes.addressof(area) + RSEQ_SIZE - 1) & -RSEQ_SIZE
    number = RSEQ[os.uname().machine]
    if libc.syscall(number, ctypes.c_void_p(aligned), RSEQ_SIZE, 0, SIGNATURE) < 0:
        return True
    libc.syscall(number, ctypes.c_void_p(aligned), RSEQ_SIZE, 1, SIGNATURE)
    return False


def clock_gettime_number() -> int:
    return {"x86_64": 228, "aarch64": 113}[os.uname().machine]


victim.play(scenario)
