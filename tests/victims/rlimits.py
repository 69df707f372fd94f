# SPDX-License-Identifier: GPL-2.0-only
"""Resource limits, soft and hard, different in parent and child.

Kept: resource limits, nice, scheduling policy, OOM adjustment
"""

import os
import resource
from collections.abc import Iterator

import victim

KINDS = [getattr(resource, name) for name in sorted(dir(resource)) if name.startswith("RLIMIT_")]


def scenario() -> Iterator[victim.Damage]:
    lower(resource.RLIMIT_NOFILE, 100, 200)
    lower(resource.RLIMIT_CORE, 0, 4096)
    hold, release = os.pipe()
    other = victim.child(lambda: judge(hold, release))
    os.close(hold)
    victim.wait_until(lambda: os.path.exists("lowered"), "the child's limits")
    before = [resource.getrlimit(kind) for kind in KINDS]
    yield lambda: lower(resource.RLIMIT_NOFILE, 99, 200)
    victim.equal([resource.getrlimit(kind) for kind in KINDS], before, "the limits")
    os.close(release)
    victim.join(other, "the child with its own limits")


def judge(hold: int, release: int) -> None:
    os.close(release)
    lower(resource.RLIMIT_NOFILE, 50, 150)
    lower(resource.RLIMIT_FSIZE, 1 << 20, 1 << 21)
    with open("lowered", "wb"):
        pass
    os.read(hold, 1)
    victim.equal(resource.getrlimit(resource.RLIMIT_NOFILE), (50, 150), "the child's open files")
    victim.equal(resource.getrlimit(resource.RLIMIT_FSIZE), (1 << 20, 1 << 21), "the child's file size")


def lower(kind: int, soft: int, hard: int) -> None:
    resource.setrlimit(kind, (soft, hard))


victim.play(scenario)
