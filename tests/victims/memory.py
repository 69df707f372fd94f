# SPDX-License-Identifier: GPL-2.0-only
"""Memory: anonymous pages, a private file mapping partly modified, a read-only file mapping, a hole, a guard page.

Kept: private anonymous memory, private and shared file mappings, stack, heap, holes
"""

import ctypes
import hashlib
import mmap
import os
from collections.abc import Iterator

import victim

PAGE = mmap.PAGESIZE
PROT_NONE = 0


def scenario() -> Iterator[victim.Damage]:
    anonymous = mmap.mmap(-1, 64 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for page in range(0, 64, 3):  # pages between stay untouched
        anonymous[page * PAGE : (page + 1) * PAGE] = os.urandom(PAGE)
    with open("mapped", "wb") as made:
        made.write(os.urandom(8 * PAGE))
    with open("mapped", "r+b") as file:
        private = mmap.mmap(file.fileno(), 8 * PAGE, flags=mmap.MAP_PRIVATE)
        text = mmap.mmap(file.fileno(), 8 * PAGE, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC)
    private[2 * PAGE : 2 * PAGE + 5] = b"mine!"
    heap = [os.urandom(1000) for _ in range(500)]
    guard = guard_page()
    before = digest(anonymous, private, text, heap), layout()
    yield lambda: anonymous.write(b"other")
    victim.equal(digest(anonymous, private, text, heap), before[0], "the contents")
    victim.equal(layout(), before[1], "the mappings that are not the kernel's")
    victim.check(guard in [line.split("-")[0] for line in layout()], "the guard page is gone")
    # A private page that nobody touched still shows the file; the one that was written does not.
    with open("mapped", "r+b") as file:
        file.seek(5 * PAGE)
        file.write(b"news")
        file.seek(2 * PAGE)
        file.write(b"lost?")
    victim.equal(bytes(text[5 * PAGE : 5 * PAGE + 4]), b"news", "an untouched page of the file mapping")
    victim.equal(bytes(private[2 * PAGE : 2 * PAGE + 5]), b"mine!", "the modified page")
    anonymous[1 * PAGE : 1 * PAGE + 1] = b"x"  # still writable, and fresh pages are zero
    victim.equal(bytes(anonymous[4 * PAGE : 5 * PAGE]), bytes(PAGE), "a page never touched")


def guard_page() -> str:
    """Three pages, the middle one closed; its address as maps spells it."""
    area = mmap.mmap(-1, 3 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    _kept.append(area)
    address = ctypes.addressof(ctypes.c_char.from_buffer(area)) + PAGE
    libc = ctypes.CDLL(None, use_errno=True)
    victim.equal(libc.mprotect(ctypes.c_void_p(address), PAGE, PROT_NONE), 0, "mprotect")
    return f"{address:x}"


_kept: list[mmap.mmap] = []


def digest(*parts: mmap.mmap | list[bytes]) -> str:
    total = hashlib.sha256()
    for part in parts:
        for piece in part if isinstance(part, list) else [part[:]]:
            total.update(piece)
    return total.hexdigest()


def layout() -> list[str]:
    """Start, end, rights and name of what the program mapped itself around this scenario, and of its files."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        lines = [line.split() for line in maps]
    shown = [(f"{line[0]} {line[1]}", line[5] if len(line) > 5 else "") for line in lines]
    kept = [f"{span} {name}" for span, name in shown if name.startswith("/") or "---p" in span]
    return merged(kept)


def merged(lines: list[str]) -> list[str]:
    """Neighbours with the same rights and name as one: whether the kernel merges them depends on their history."""
    done: list[str] = []
    for line in lines:
        span, rest = line.split(" ", 1)
        before, before_rest = done[-1].split(" ", 1) if done else ("-", "")
        if before_rest == rest and before.split("-")[1] == span.split("-")[0]:
            done[-1] = f"{before.split('-')[0]}-{span.split('-')[1]} {rest}"
        else:
            done.append(line)
    return done


victim.play(scenario)
