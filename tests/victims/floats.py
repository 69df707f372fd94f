# SPDX-License-Identifier: GPL-2.0-only
"""Registers: a busy loop over floating-point numbers never takes a wrong turn; the rounding mode stays set.

Kept: registers, FPU, SSE/AVX/AVX-512, SIMD, pointer-authentication keys
Missing: shadow stacks, SME
"""

import ctypes
import math
import os
import time
from collections.abc import Iterator

import victim

UPWARD = {"x86_64": 0x800, "aarch64": 0x400000}  # FE_UPWARD


def scenario() -> Iterator[victim.Damage]:
    libm = ctypes.CDLL("libm.so.6")
    upward = UPWARD[os.uname().machine]
    libm.fesetround(upward)
    right = block()
    results, report = os.pipe()
    busy = victim.child(lambda: keep_computing(right, report))
    os.close(report)
    yield lambda: libm.fesetround(0)
    victim.equal(libm.fegetround(), upward, "the rounding mode")
    victim.equal(block(), right, "a block computed afterwards")
    with open("enough", "wb"):
        pass
    victim.join(busy, "the busy loop")
    victim.check(int(os.read(results, 20)) > 0, "the busy loop got nowhere")


def block() -> float:
    """A chaotic map: one wrong bit in any step changes everything after it."""
    value, total = 0.3141592653589793, 0.0
    for step in range(1, 2000):
        value = 3.99 * value * (1.0 - value)
        total += math.sqrt(value) / step + math.sin(value)
    return total


def keep_computing(right: float, report: int) -> None:
    blocks = 0
    end = time.monotonic() + victim.PATIENCE
    while not os.path.exists("enough") and time.monotonic() < end:
        victim.equal(block(), right, f"block {blocks}")
        blocks += 1
    os.write(report, b"%d" % blocks)


victim.play(scenario)
