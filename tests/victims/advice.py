# SPDX-License-Identifier: GPL-2.0-only
"""What is said of mappings: madvise, mlock and its on-fault kind, names, seals, guard pages, droppable memory, keys.

Missing: protection keys that protect nothing; guard pages before Linux 6.15 (refused).
"""

import ctypes
import mmap
import os
import signal
from collections.abc import Iterator

import victim

PAGE = mmap.PAGESIZE
NUMBERS = {"mseal": (462, 462), "mlock2": (325, 284), "pkey_alloc": (330, 289), "pkey_mprotect": (329, 288)}
COLUMN = 0 if os.uname().machine == "x86_64" else 1
MADV = {"random": 1, "sequential": 2, "dontfork": 10, "mergeable": 12, "hugepage": 14, "nohugepage": 15,
        "dontdump": 16, "wipeonfork": 18}  # fmt: skip
GUARD_INSTALL, GUARD_REMOVE = 102, 103
PR_SET_VMA, ANON_NAME, DROPPABLE = 0x53564D41, 0, 8
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.syscall.restype = ctypes.c_long
SIZE = 4 * PAGE


def scenario() -> Iterator[victim.Damage]:
    plain = area("plain")
    for name, advice in MADV.items():
        if call_madvise(area(name), advice):
            _without.append(f"madvise {name}")
    lock_and_name()
    guarded = guard()
    sealed = seal()
    droppable = drop()
    key = protect()
    before = flags()
    print("without:", ", ".join(_without) or "nothing", flush=True)
    yield lambda: call_madvise(plain, MADV["dontfork"])
    victim.equal(flags(), before, "the flags of the mappings")
    if guarded:
        judge_guard(guarded)
    if sealed:
        address = ctypes.c_void_p(sealed)
        victim.equal(libc.munmap(address, ctypes.c_size_t(SIZE)), -1, "unmapping what is sealed")
        victim.equal(ctypes.string_at(sealed, 5), b"touch", "what is sealed")
    if droppable:
        ctypes.memmove(droppable, b"again", 5)
        victim.equal(ctypes.string_at(droppable, 5), b"again", "droppable memory")
    if key:
        victim.equal(victim.dies(lambda: ctypes.string_at(key, 1)), signal.SIGSEGV, "reading what the key forbids")
    judge_fork()


_areas: dict[str, int] = {}
_without: list[str] = []


def new(size: int = SIZE, kind: int = mmap.MAP_PRIVATE) -> int:
    """A mapping between two closed pages, so that it merges with nothing."""
    closed = libc.mmap(None, size + 2 * PAGE, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    fixed = 0x10
    at = libc.mmap(closed + PAGE, size, 3, kind | mmap.MAP_ANONYMOUS | fixed, -1, 0)
    if at == closed + PAGE:
        ctypes.memmove(at, b"touch", 5)
    return int(at)


def area(name: str) -> int:
    _areas[name] = new()
    return _areas[name]


def call_madvise(at: int, advice: int, size: int = SIZE) -> int:
    return int(libc.madvise(ctypes.c_void_p(at), ctypes.c_size_t(size), advice))


def raw(name: str, *args: int) -> int:
    return int(libc.syscall(NUMBERS[name][COLUMN], *map(ctypes.c_long, args)))


def lock_and_name() -> None:
    if libc.mlock(ctypes.c_void_p(area("locked")), ctypes.c_size_t(SIZE)):
        _without.append("mlock")
    if raw("mlock2", area("on fault"), SIZE, 1):
        _without.append("mlock2")
    _areas["shared name"] = new(kind=mmap.MAP_SHARED)
    for at in (area("name"), _areas["shared name"]):
        if libc.prctl(PR_SET_VMA, ANON_NAME, ctypes.c_ulong(at), ctypes.c_ulong(SIZE), b"a name: with blanks"):
            _without.append("names")


def guard() -> int:
    """The third page is a guard."""
    at = area("guard")
    if call_madvise(at + 2 * PAGE, GUARD_INSTALL, PAGE):
        _without.append("guard pages")
        return 0
    if kernel() < (6, 15):
        call_madvise(at + 2 * PAGE, GUARD_REMOVE, PAGE)
        _without.append("guard pages (not visible)")
        return 0
    return at


def kernel() -> tuple[int, int]:
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int(minor)


def judge_guard(at: int) -> None:
    for page, ends in ((1, 0), (2, signal.SIGSEGV), (3, 0)):
        there = at + page * PAGE
        ended = victim.dies(lambda there=there: ctypes.memset(there, 1, 1))
        victim.equal(ended, ends, f"writing to page {page} of a guarded area")
    call_madvise(at + 2 * PAGE, GUARD_REMOVE, PAGE)
    victim.equal(ctypes.string_at(at + 2 * PAGE, 2), b"\0\0", "a guard page without its guard")


def seal() -> int:
    at = area("sealed")
    if raw("mseal", at, SIZE, 0):
        _without.append("seals")
        return 0
    return at


def drop() -> int:
    at = new(kind=DROPPABLE)
    if at == -1 or at >> 47:
        _without.append("droppable memory")
        return 0
    _areas["droppable"] = at
    return at


def protect() -> int:
    """The second of two keys, which forbids reading; the first is given back."""
    keys = [raw("pkey_alloc", 0, 0), raw("pkey_alloc", 0, 1)]
    if keys[1] < 0:
        _without.append("protection keys")
        return 0
    at = area("key")
    victim.equal(raw("pkey_mprotect", at, SIZE, 3, keys[1]), 0, "pkey_mprotect")
    return at


def flags() -> dict[str, list[str]]:
    """Name and VmFlags of each area, with its protection key."""
    found: dict[str, list[str]] = {}
    names = {f"{at:x}": name for name, at in _areas.items()}
    current = ""
    with open("/proc/self/smaps", encoding="utf-8") as smaps:
        for line in smaps:
            words = line.split()
            if "-" in words[0]:
                current = names.get(words[0].split("-")[0], "")
                if current:
                    found[current] = [words[1], " ".join(words[5:])]
            elif current and words[0] in ("VmFlags:", "ProtectionKey:"):
                found[current] += [word for word in words if word != "sd"]
    return found


def judge_fork() -> None:
    """What a child gets of an area that is wiped, and of one that it is not given."""
    wiped, kept_back = _areas["wipeonfork"], _areas["dontfork"]
    wrong = 3

    def look() -> None:
        if ctypes.string_at(wiped, 5) != bytes(5):
            os._exit(wrong)
        ctypes.string_at(kept_back, 5)

    victim.equal(victim.dies(look), signal.SIGSEGV, "a child that looks for an area that it is not given")


victim.play(scenario)
