# SPDX-License-Identifier: GPL-2.0-only
"""Protection keys: which are allocated, the pages that have one, and what each thread may do with them.

Kept: protection keys: which are allocated, the pages that have one, the rights of each thread, execute-only memory
Missing: keys of a process none of whose pages has one, and none of whose threads has changed its rights
Lacking: aarch64 – its keys (POE) are of processors that QEMU does not emulate yet
"""

import ctypes
import mmap
import os
import signal
import threading
from collections.abc import Iterator

import victim

PAGE = mmap.PAGESIZE
SIZE = 4 * PAGE
NO_ACCESS, NO_WRITE = 1, 2
READ_WRITE, EXECUTE = 3, 4
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]


class Worker(threading.Thread):
    """One thread, with rights of its own."""

    def __init__(self, keys: list[int], number: int) -> None:
        super().__init__(daemon=True)
        self.keys, self.number, self.now = keys, number, [0]
        self.settled, self.over = threading.Event(), threading.Event()

    def run(self) -> None:
        for place, key in enumerate(self.keys):
            libc.pkey_set(key, (self.number + place) % 3)
        self.settled.set()
        self.over.wait()
        self.now = rights()

    def wanted(self) -> list[int]:
        return [(self.number + place) % 3 for place in range(len(self.keys))]


def scenario() -> Iterator[victim.Damage]:
    with open("/proc/cpuinfo", encoding="utf-8") as cpuinfo:
        if " ospke" not in cpuinfo.read():
            victim.skip("processor or kernel have no protection keys (ospke in /proc/cpuinfo)")
    lonely = victim.child(holds_keys_without_pages)
    to_execute = libc.mmap(None, PAGE, EXECUTE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)  # takes a key, too
    first, *keys, last = allocate(5)
    libc.pkey_free(first)
    areas = {key: area(key) for key in keys}
    for key, of_key in zip(keys, (NO_ACCESS, NO_WRITE, 0), strict=True):
        libc.pkey_set(key, of_key)
    workers = [Worker(keys, number) for number in range(3)]
    for worker in workers:
        worker.start()
        worker.settled.wait()
    before = rights(), lines([*areas.values(), to_execute])
    yield lambda: libc.pkey_set(keys[0], 0)
    victim.equal(rights(), before[0], "the rights of the first thread")
    victim.equal(lines([*areas.values(), to_execute]), before[1], "the keys of the pages")
    for worker in workers:
        worker.over.set()
        worker.join(60)
        mine = [worker.now[key] for key in keys]
        victim.equal(mine, worker.wanted(), f"the rights of thread {worker.number}")
    judge_access([areas[key] for key in keys], to_execute)
    victim.equal(allocate(1), [first], "the key that was free")
    victim.join(lonely, "the child whose keys protect nothing")
    victim.equal(libc.pkey_free(last), 0, "giving back the key that protects nothing")


def holds_keys_without_pages() -> None:
    first, second = allocate(2)
    libc.pkey_free(first)
    libc.pkey_set(second, NO_WRITE)
    victim.await_file("go")
    victim.equal(libc.pkey_get(second), NO_WRITE, "the rights of a key that protects nothing")
    victim.equal(allocate(2), [first, second + 1], "the keys that are free beside one that protects nothing")


def allocate(count: int) -> list[int]:
    keys = [libc.pkey_alloc(0, 0) for _ in range(count)]
    if min(keys) < 0:
        victim.skip(f"pkey_alloc(2): {os.strerror(ctypes.get_errno())}")
    return keys


def area(key: int) -> int:
    at = libc.mmap(None, SIZE, READ_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    ctypes.memmove(at, b"behind a key", 12)
    victim.equal(libc.pkey_mprotect(ctypes.c_void_p(at), ctypes.c_size_t(SIZE), READ_WRITE, key), 0, "pkey_mprotect")
    return int(at)


def rights() -> list[int]:
    """What the calling thread may not do with the pages of each key: the register PKRU."""
    return [libc.pkey_get(key) for key in range(16)]


def lines(starts: list[int]) -> list[list[str]]:
    """Rights and key of the mappings that start there."""
    found: list[list[str]] = []
    current: list[str] = []
    with open("/proc/self/smaps", encoding="utf-8") as smaps:
        for line in smaps:
            words = line.split()
            if "-" in words[0]:
                current = words[:2] if int(words[0].split("-")[0], 16) in starts else []
            elif current and words[0] == "ProtectionKey:":
                found.append([*current, words[1]])
    return found


def judge_access(areas: list[int], to_execute: int) -> None:
    """Whether pages can be read and written as the rights say."""
    for at, readable, writable in zip(areas, (False, True, True), (False, False, True), strict=True):
        read = victim.dies(lambda at=at: ctypes.string_at(at, 12))
        victim.equal(read, 0 if readable else signal.SIGSEGV, f"reading at {at:#x}")
        write = victim.dies(lambda at=at: ctypes.memset(at, 1, 1))
        victim.equal(write, 0 if writable else signal.SIGSEGV, f"writing at {at:#x}")
    victim.equal(
        victim.dies(lambda: ctypes.string_at(to_execute, 1)), signal.SIGSEGV, "reading what may be executed only"
    )
    for at in areas[1:]:
        victim.equal(ctypes.string_at(at, 12), b"behind a key", f"the memory at {at:#x}")


victim.play(scenario)
