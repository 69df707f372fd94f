# SPDX-License-Identifier: GPL-2.0-only
"""Huge pages (hugetlb): private, shared between relatives, and memfd; untouched ones stay untouched.

Missing: refused where fewer huge pages are free than were in use.
"""

import ctypes
import mmap
import os
from collections.abc import Iterator

import victim

HUGETLB, MFD_HUGETLB = 0x40000, 4
POOL = "/proc/sys/vm/nr_hugepages"
WANTED = 18  # pages: four private of each process, four shared, four of a memfd


def scenario() -> Iterator[victim.Damage]:
    size = huge_size()
    reserve()
    private = mmap.mmap(-1, 4 * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | HUGETLB)
    shared = mmap.mmap(-1, 4 * size, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | HUGETLB)
    fd = os.memfd_create("huge", MFD_HUGETLB)
    os.ftruncate(fd, 4 * size)
    filed = mmap.mmap(fd, 4 * size)
    for number, area in enumerate((private, shared, filed)):
        area[5:9] = b"huge"
        area[3 * size - 1 : 3 * size] = bytes([65 + number])
    libc = ctypes.CDLL(None, use_errno=True)
    start = ctypes.addressof(ctypes.c_char.from_buffer(private))
    libc.mprotect(ctypes.c_void_p(start + size), ctypes.c_size_t(2 * size), mmap.PROT_READ)
    before = tell(private, shared, filed, fd), lines()
    pid = victim.child(lambda: child(shared, filed))
    yield lambda: shared.write(b"not what it was")
    victim.equal(tell(private, shared, filed, fd), before[0], "the memory")
    victim.equal(lines(), before[1], "the mappings")
    shared[100:105] = b"fresh"
    with open("asked", "w", encoding="utf-8"):
        victim.join(pid, "the child")
    victim.equal(bytes(filed[200:205]), b"child", "what a child writes")
    private[:4] = b"mine"
    victim.equal(os.fstat(fd).st_blksize, size, "the size of pages of the memfd")


def huge_size() -> int:
    """Bytes of a huge page, of the size that the kernel gives who does not ask for another."""
    with open("/proc/meminfo", encoding="utf-8") as file:
        found = [int(line.split()[1]) << 10 for line in file if line.startswith("Hugepagesize:")]
    if not found or not os.path.exists(POOL):
        victim.skip("this kernel has no huge pages (CONFIG_HUGETLBFS)")
    return found[0]


def reserve() -> None:
    with open(POOL, encoding="utf-8") as file:
        there = int(file.read())
    if there >= WANTED:
        return
    victim.undo_by(f"echo {there} >{POOL}")
    try:
        with open(POOL, "w", encoding="utf-8") as file:
            file.write(str(WANTED))
    except PermissionError:
        victim.skip("huge pages must be set aside: needs root")
    with open(POOL, encoding="utf-8") as file:
        there = int(file.read())
    if there < WANTED:
        victim.skip(f"only {there} huge pages can be had, {WANTED} are needed")


def tell(private: mmap.mmap, shared: mmap.mmap, filed: mmap.mmap, fd: int) -> list[object]:
    size = len(private)
    whole = [(bytes(area[:10]), bytes(area[size // 4 * 3 - 3 : size // 4 * 3])) for area in (private, shared, filed)]
    return [whole, os.fstat(fd).st_size, os.fstat(fd).st_blocks, os.readlink(f"/proc/self/fd/{fd}")]


def lines() -> list[tuple[str, ...]]:
    """Span and rights of mappings of huge pages, the size of their pages, and what of them is there."""
    found: list[tuple[str, ...]] = []
    current: list[str] = []
    with open("/proc/self/smaps", encoding="utf-8") as smaps:
        for line in smaps:
            words = line.split()
            if "-" in words[0]:
                current = [*words[:2], *words[5:]]
            elif words[0] in ("KernelPageSize:", "Shared_Hugetlb:", "Private_Hugetlb:"):
                current += words[1:2]
            elif words[0] == "VmFlags:" and "ht" in words:
                # Once a child is there, private pages count as shared: the sum does not change. Those that are shared
                # count where they are touched.
                current[-2:] = [str(int(current[-2]) + int(current[-1]))] if "sh" not in words else []
                found.append((*current, *(word for word in words[1:] if word != "sd")))
    return found


def child(shared: mmap.mmap, filed: mmap.mmap) -> None:
    victim.await_file("asked")
    victim.equal(bytes(shared[100:105]), b"fresh", "seen by the child")
    filed[200:205] = b"child"


victim.play(scenario)
