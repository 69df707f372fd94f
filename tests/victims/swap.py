# SPDX-License-Identifier: GPL-2.0-only
"""Memory that has been swapped out: private and shared anonymous memory, a memfd, and what a parent and child share.

Kept: swapped pages: private and shared anonymous memory, memfd, pages shared since fork(2); holes among them stay holes
Missing: that they are in swap: they come back into memory
"""

import contextlib
import ctypes
import mmap
import os
import struct
import sys
from collections.abc import Iterator

import victim

PAGE = mmap.PAGESIZE
SIZE = 64 * PAGE
SWAP_SIZE = 8 << 20
MADV_PAGEOUT = 21
libc = ctypes.CDLL(None, use_errno=True)


def scenario() -> Iterator[victim.Damage]:
    swap_on()
    fd = os.memfd_create("swapped")
    os.ftruncate(fd, 2 * SIZE)
    areas = {
        "private": mmap.mmap(-1, 2 * SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS),
        "shared": mmap.mmap(-1, 2 * SIZE),
        "memfd": mmap.mmap(fd, 2 * SIZE),
    }
    content = {name: os.urandom(SIZE) for name in areas}
    for name, area in areas.items():
        area[:SIZE] = content[name]
    for name, area in areas.items():
        page_out(area, name)  # before somebody else has it, too: the kernel lets alone what two processes map
    inherited = areas["private"]
    pid = victim.child(lambda: child(inherited, content["private"]))
    yield lambda: areas["memfd"].write(b"not what it was")
    with open("asked", "w", encoding="utf-8"):
        victim.join(pid, "the child")
    victim.equal(os.fstat(fd).st_blocks * 512, SIZE, "what the memfd takes")
    for name, area in areas.items():
        victim.check(area[:SIZE] == content[name], f"the {name} memory is not what it was")
        victim.check(area[SIZE:] == bytes(SIZE), f"what was never touched of the {name} memory is not empty")


def child(inherited: mmap.mmap, content: bytes) -> None:
    victim.await_file("asked")
    victim.check(inherited[:SIZE] == content, "what the child has inherited is not what it was")


def page_out(area: mmap.mmap, name: str) -> None:
    """Until every page is in swap; a page that somebody looks at just now stays, so more than once."""
    start = ctypes.addressof(ctypes.c_char.from_buffer(area))

    def gone() -> bool:
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(SIZE), MADV_PAGEOUT)
        return swapped(start) == SIZE // PAGE

    with contextlib.suppress(victim.Failed):
        victim.wait_until(gone, name, 5)
    if not swapped(start):
        victim.skip(f"the kernel swaps no page of the {name} memory out (MADV_PAGEOUT)")


def swapped(start: int) -> int:
    """How many of the pages are in swap: bit 62 of /proc/PID/pagemap; of shared memory, which have no entry there."""
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        entries = os.pread(pagemap.fileno(), SIZE // PAGE * 8, start // PAGE * 8)
    return sum(1 for (entry,) in struct.iter_unpack("=Q", entries) if not entry >> 63)


def swap_on() -> None:
    """Give the machine a little swap of our own: a file here, or on the disk of the guest, where this is in memory."""
    for folder in (os.getcwd(), "/data"):
        path = f"{folder}/swap-of-a-victim"
        try:
            make_swap(path)
        except OSError:
            continue
        if not libc.swapon(path.encode(), 0):
            off = f"import ctypes, os; ctypes.CDLL(None).swapoff(b'{path}'); os.unlink('{path}')"
            victim.undo_by(f'{sys.executable} -c "{off}"')
            return
        os.unlink(path)
    victim.skip(f"swapon(2) of a file: {os.strerror(ctypes.get_errno())}")


def make_swap(path: str) -> None:
    """What mkswap(8) does: union swap_header, include/linux/swap.h."""
    with open(path, "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(bytes(SWAP_SIZE))  # no holes
        file.seek(1024)
        file.write(struct.pack("=III", 1, SWAP_SIZE // PAGE - 1, 0))
        file.seek(PAGE - 10)
        file.write(b"SWAPSPACE2")
        file.flush()
        os.fsync(file.fileno())


victim.play(scenario)
