# SPDX-License-Identifier: GPL-2.0-only
"""POSIX shared memory (/dev/shm): mapped by relatives, under its name and unlinked, with descriptor and without.

Missing: unlinked ones larger than --ghost-limit (1 MiB).
"""

import mmap
import os
from collections.abc import Iterator

import victim

PAGE = mmap.PAGESIZE


def scenario() -> Iterator[victim.Damage]:
    if not os.path.ismount("/dev/shm"):
        victim.skip("nothing is mounted on /dev/shm")
    name = f"/dev/shm/victim-{os.getpid()}"
    try:
        yield from with_names(f"{name}-named", f"{name}-unlinked")
    finally:
        os.unlink(f"{name}-named")


def with_names(named: str, unlinked: str) -> Iterator[victim.Damage]:
    areas = [make(named), make(unlinked)]
    os.unlink(unlinked)
    before = tell(areas)
    pid = victim.child(lambda: child(areas))
    yield lambda: areas[1].write(b"not what it was")
    victim.equal(tell(areas), before, "the memory")
    for number, area in enumerate(areas):
        area[100:105] = b"fres%d" % number
    with open(named, "rb") as file:
        victim.equal(file.read()[100:105], b"fres0", "what is seen under the name")
    with open("asked", "w", encoding="utf-8"):
        victim.join(pid, "the child")
    for area in areas:
        victim.equal(bytes(area[200:205]), b"child", "what a child writes")


def make(path: str) -> mmap.mmap:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.ftruncate(fd, 20 * PAGE)
    area = mmap.mmap(fd, 20 * PAGE)
    area[5 * PAGE : 5 * PAGE + 7] = b"content"
    os.close(fd)
    return area


def tell(areas: list[mmap.mmap]) -> list[object]:
    with open("/proc/self/maps", encoding="utf-8") as maps:
        lines = [" ".join([*line.split()[:3], *line.split()[5:]]) for line in maps if "/dev/shm/victim" in line]
    return [lines, *(bytes(area[:]) for area in areas)]


def child(areas: list[mmap.mmap]) -> None:
    victim.await_file("asked")
    for number, area in enumerate(areas):
        victim.equal(bytes(area[100:105]), b"fres%d" % number, "seen by the child")
        area[200:205] = b"child"


victim.play(scenario)
