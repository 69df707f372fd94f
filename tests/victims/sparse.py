# SPDX-License-Identifier: GPL-2.0-only
"""Reservations of 1 TiB of which little is touched, private and shared; closed pages with content; a stack that grows.

Missing: sharing of pages since fork(2): each process gets its own copies.
"""

import ctypes
import mmap
import os
import resource
import signal
from collections.abc import Iterator

import victim

PAGE = mmap.PAGESIZE
TIB = 1 << 40
NORESERVE = 0x4000
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
PLACES = (0, 5 * PAGE, TIB // 3 // PAGE * PAGE, TIB - PAGE)


def scenario() -> Iterator[victim.Damage]:
    private = reserve(mmap.MAP_PRIVATE, 3)
    shared = reserve(mmap.MAP_SHARED, 3)
    closed = reserve(mmap.MAP_PRIVATE, 0)
    libc.mprotect(closed + TIB // 2, 4 * PAGE, 3)
    ctypes.memmove(closed + TIB // 2 + PAGE, b"closed", 6)
    libc.mprotect(closed + TIB // 2, 4 * PAGE, 0)
    for number, place in enumerate(PLACES):
        for at in (private, shared):
            ctypes.memmove(at + place, b"here%d" % number, 5)
    ctypes.string_at(private + TIB // 2, PAGE)  # the zero page
    lowest = grow(stack() - 16 * PAGE)
    ctypes.memmove(lowest, b"deep", 4)
    before = lines(private, shared, closed), touched(private), touched(shared)
    yield lambda: ctypes.memmove(private + PLACES[2], b"other", 5)
    victim.equal(lines(private, shared, closed), before[0], "the mappings")
    victim.equal((touched(private), touched(shared)), before[1:], "the pages that were touched")
    victim.check(resident() < 200 << 20, f"{resident() >> 20} MiB are in memory: pages that nobody touched, too")
    libc.mprotect(closed + TIB // 2, 4 * PAGE, 1)
    victim.equal(ctypes.string_at(closed + TIB // 2 + PAGE, 7), b"closed\0", "what was in closed pages")
    victim.equal(victim.dies(lambda: ctypes.string_at(closed, 1)), signal.SIGSEGV, "reading closed pages")
    victim.equal(ctypes.string_at(private + TIB - PAGE * 3, 2), b"\0\0", "a page that nobody touched")
    victim.equal(ctypes.string_at(lowest, 4), b"deep", "the depth of the stack")
    judge_stack()


def reserve(kind: int, prot: int) -> int:
    at = libc.mmap(None, TIB, prot, kind | mmap.MAP_ANONYMOUS | NORESERVE, -1, 0)
    if at == ctypes.c_void_p(-1).value:
        victim.skip(f"1 TiB of address space cannot be had: {os.strerror(ctypes.get_errno())}")
    libc.madvise(ctypes.c_void_p(at), ctypes.c_size_t(TIB), 15)  # MADV_NOHUGEPAGE
    return int(at)


def touched(at: int) -> list[bytes]:
    return [ctypes.string_at(at + place, 8) for place in PLACES]


def resident() -> int:
    """Bytes in memory; shared ones count where they are mapped."""
    return int(victim.status_lines("VmRSS")[0].split()[1]) << 10


def stack() -> int:
    """Where the stack begins, its lowest address at present."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        return next(int(line.split("-")[0], 16) for line in maps if line.rstrip().endswith("[stack]"))


def grow(address: int) -> int:
    """Touch an address below the stack, which grows it; its page is returned."""
    page = address // PAGE * PAGE
    ctypes.memset(page, 0, 1)
    return page


def judge_stack() -> None:
    """It still grows, as far as its limit says and no further."""
    lower = stack() - 20 * PAGE
    grow(lower)
    victim.check(stack() <= lower, "the stack has not grown")
    limit, _ = resource.getrlimit(resource.RLIMIT_STACK)
    if limit == resource.RLIM_INFINITY:
        return
    end = stack_end()
    victim.equal(victim.dies(lambda: grow(end - limit + 4 * PAGE)), 0, "growing the stack up to its limit")
    victim.equal(
        victim.dies(lambda: grow(end - limit - 4 * PAGE)), signal.SIGSEGV, "growing the stack beyond its limit"
    )


def stack_end() -> int:
    with open("/proc/self/maps", encoding="utf-8") as maps:
        return next(int(line.split()[0].split("-")[1], 16) for line in maps if line.rstrip().endswith("[stack]"))


def lines(*areas: int) -> list[str]:
    """The mappings of the reservations, neighbours merged: whether the kernel does that depends on their history."""
    found: list[list[str]] = []
    with open("/proc/self/maps", encoding="utf-8") as maps:
        for line in maps:
            words = line.split()
            start, _, end = words[0].partition("-")
            if not any(at <= int(start, 16) < at + TIB for at in areas):
                continue
            if found and found[-1][1:] == [start, words[1], *words[5:]]:
                found[-1][1] = end
            else:
                found.append([start, end, words[1], *words[5:]])
    return [" ".join(one) for one in found]


victim.play(scenario)
