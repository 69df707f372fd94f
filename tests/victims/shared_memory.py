# SPDX-License-Identifier: GPL-2.0-only
"""Shared anonymous memory (and /dev/zero) between relatives: one object, at other offsets, sizes and rights in each.

Missing: shared anonymous memory that a process outside the tree has mapped too.
"""

import ctypes
import mmap
import os
from collections.abc import Callable, Iterator

import victim

PAGE = mmap.PAGESIZE
SIZE = 64
MADV_DONTNEED, MAP_FIXED = 4, 0x10
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.mremap.restype = ctypes.c_void_p


def scenario() -> Iterator[victim.Damage]:
    shared = mmap.mmap(-1, SIZE * PAGE)
    start = address(shared)
    for page in range(0, SIZE, 3):
        shared[page * PAGE : page * PAGE + 8] = page.to_bytes(8, "little")
    with open("/dev/zero", "r+b", buffering=0) as zero:
        from_zero = mmap.mmap(zero.fileno(), 4 * PAGE)
    from_zero[PAGE : PAGE + 4] = b"zero"
    other = mmap.mmap(-1, PAGE)
    kept = content(shared), content(from_zero)
    before = lines()
    answers = [ask(work) for work in (narrow(start), reader(start), same(shared, from_zero, other))]
    # Nobody has page 60 mapped any more: it is there when somebody maps it again.
    hidden = bytes(shared[60 * PAGE : 61 * PAGE])
    libc.munmap(start + 60 * PAGE, 4 * PAGE)
    yield lambda: damage(shared)
    victim.equal(libc.mremap(ctypes.c_void_p(start), 60 * PAGE, 64 * PAGE, 0), start, "mapping the rest again")
    victim.equal(ctypes.string_at(start + 60 * PAGE, PAGE), hidden, "a page that nobody had mapped")
    victim.equal((content(shared), content(from_zero)), kept, "the contents")
    victim.equal(lines(), before, "how they are mapped")
    for page in (7, 0, 31):
        shared[page * PAGE + 100 : page * PAGE + 105] = b"fresh"
    from_zero[0:5] = b"fresh"
    for go, pid in answers:
        os.write(go, b"g")
        victim.join(pid, "a child")
    victim.equal(bytes(shared[9 * PAGE + 200 : 9 * PAGE + 205]), b"child", "what a child writes")
    victim.equal(bytes(other[:5]), b"child", "what a child writes into another object")
    victim.check(not shared[10 * PAGE : 11 * PAGE].strip(b"\0"), "a page that nobody wrote is zero")


def damage(shared: mmap.mmap) -> None:
    """Replace the middle by memory that is not shared, with the same content."""
    was = shared[: SIZE // 2 * PAGE]
    libc.mmap(address(shared), SIZE // 2 * PAGE, 3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_FIXED, -1, 0)
    shared[: SIZE // 2 * PAGE] = was


def ask(work: Callable[[], None]) -> tuple[int, int]:
    """A child that does something, and the pipe that lets it go on; it has done its preparation when this returns."""
    heard, go = os.pipe()
    ready, tell = os.pipe()

    def run() -> None:
        os.close(go)
        prepared = work()
        os.write(tell, b"r")
        os.read(heard, 1)
        prepared()  # type: ignore[misc]

    pid = victim.child(run)
    os.read(ready, 1)
    for fd in (heard, ready, tell):
        os.close(fd)
    return go, pid


def narrow(start: int) -> Callable[[], object]:
    """A child with eight pages of the middle only, at another address."""

    def prepare() -> Callable[[], None]:
        there = libc.mremap(ctypes.c_void_p(start + 30 * PAGE), 8 * PAGE, 8 * PAGE, 3, ctypes.c_void_p(0x10000000000))
        victim.equal(there, 0x10000000000, "moving a part")
        libc.munmap(start, SIZE * PAGE)
        return lambda: victim.equal(ctypes.string_at(there + PAGE + 100, 5), b"fresh", "seen through a part")

    return prepare


def reader(start: int) -> Callable[[], object]:
    """A child that may only read, and has the second half closed."""

    def prepare() -> Callable[[], None]:
        libc.mprotect(start, SIZE // 2 * PAGE, mmap.PROT_READ)
        libc.mprotect(start + SIZE // 2 * PAGE, SIZE // 2 * PAGE, 0)
        layout = lines()

        def later() -> None:
            victim.equal(lines(), layout, "rights")
            victim.equal(ctypes.string_at(start + 7 * PAGE + 100, 5), b"fresh", "seen by one who only reads")

        return later

    return prepare


def same(shared: mmap.mmap, from_zero: mmap.mmap, other: mmap.mmap) -> Callable[[], object]:
    """A child that has what its parent has, and writes."""

    def prepare() -> Callable[[], None]:
        def later() -> None:
            victim.equal(bytes(from_zero[:5]), b"fresh", "seen through /dev/zero")
            shared[9 * PAGE + 200 : 9 * PAGE + 205] = b"child"
            other[:5] = b"child"

        return later

    return prepare


def address(area: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(area))


def content(area: mmap.mmap) -> bytes:
    """The first 60 pages."""
    return bytes(area[: 60 * PAGE])


def lines() -> list[str]:
    """The lines of maps of such memory, without the numbers of inodes."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        return [" ".join(line.split()[:3]) for line in maps if "/dev/zero (deleted)" in line]


victim.play(scenario)
