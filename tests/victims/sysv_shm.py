# SPDX-License-Identifier: GPL-2.0-only
"""System V shared memory that is attached: id, key, owner, rights, content, marked for destruction, parts of a segment.

Missing: semaphores and message queues, and segments that nobody has attached: they are the system's and stay there.
"""

import ctypes
import mmap
import os
import struct
from collections.abc import Iterator

import victim

PAGE = mmap.PAGESIZE
IPC_CREAT, IPC_EXCL, IPC_RMID, IPC_SET, IPC_STAT = 0o1000, 0o2000, 0, 1, 2
SHM_RDONLY = 0o10000
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
libc.shmat.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
libc.shmdt.argtypes = [ctypes.c_void_p]
DS = struct.Struct("<6I24xQ32xQ16x")  # key uid gid cuid cgid mode, size, attachments


def scenario() -> Iterator[victim.Damage]:
    key = 0x70000000 | os.getpid()
    victim.undo_by(f"ipcrm -M {key:#x} 2>/dev/null || true")
    kept = libc.shmget(key, 5 * PAGE + 10, IPC_CREAT | IPC_EXCL | 0o640)
    victim.check(kept >= 0, "shmget; is CONFIG_SYSVIPC missing?")
    try:
        yield from with_segments(kept)
    finally:
        libc.shmctl(kept, IPC_RMID, None)


def with_segments(kept: int) -> Iterator[victim.Damage]:
    doomed = libc.shmget(0, 4 * PAGE, IPC_CREAT | 0o600)
    owner = ctypes.create_string_buffer(DS.pack(0, 12, 34, 0, 0, 0o660, 0, 0))
    victim.equal(libc.shmctl(doomed, IPC_SET, owner), 0, "IPC_SET")
    whole, reader, part = attach(kept), attach(kept, SHM_RDONLY), attach(doomed)
    libc.shmctl(doomed, IPC_RMID, None)
    ctypes.memmove(whole, b"kept", 4)
    ctypes.memmove(part + 2 * PAGE, b"doomed", 6)
    ctypes.memmove(part + 3 * PAGE, b"hidden", 6)
    libc.munmap(ctypes.c_void_p(part), ctypes.c_size_t(PAGE))
    libc.munmap(ctypes.c_void_p(part + 3 * PAGE), ctypes.c_size_t(PAGE))
    libc.mprotect(ctypes.c_void_p(whole + 4 * PAGE), ctypes.c_size_t(PAGE), 0)
    before = tell(kept, doomed, whole, part), lines()
    own = stat(kept)[-1]
    pid = victim.child(lambda: child(kept, doomed, whole))
    victim.wait_until(lambda: stat(kept)[-1] == 2 * own + 1, "the child has all segments")
    attached = [stat(shmid)[-1] for shmid in (kept, doomed)]
    yield lambda: ctypes.memmove(part + PAGE, b"other", 5)
    victim.equal((tell(kept, doomed, whole, part), lines()), before, "the segments")
    victim.equal([stat(shmid)[-1] for shmid in (kept, doomed)], attached, "how often they are attached")
    ctypes.memmove(whole + 100, b"fresh", 5)
    victim.equal(ctypes.string_at(reader + 100, 5), b"fresh", "seen by the one that only reads")
    with open("asked", "w", encoding="utf-8"):
        victim.join(pid, "the child")
    victim.equal(ctypes.string_at(part + 2 * PAGE + 50, 5), b"child", "what a child writes")
    victim.equal(libc.shmdt(reader), 0, "letting go of a whole segment")
    again = attach(doomed)
    victim.equal(ctypes.string_at(again + 3 * PAGE, 6), b"hidden", "a page that nobody had mapped")
    victim.equal((libc.shmdt(again), libc.shmdt(part)), (0, 0), "letting go")


def attach(shmid: int, flags: int = 0) -> int:
    """Where it is attached."""
    address = libc.shmat(shmid, None, flags)
    victim.check(address not in (None, ctypes.c_void_p(-1).value), f"shmat: errno {ctypes.get_errno()}")
    return int(address)


def stat(shmid: int) -> tuple[int, ...]:
    data = ctypes.create_string_buffer(DS.size)
    victim.equal(libc.shmctl(shmid, IPC_STAT, data), 0, f"the segment {shmid}")
    return DS.unpack(data.raw)


def tell(kept: int, doomed: int, whole: int, part: int) -> list[object]:
    content = [ctypes.string_at(whole, 4 * PAGE), ctypes.string_at(part + PAGE, 2 * PAGE)]
    return [stat(kept)[:-1], stat(doomed)[:-1], content]


def lines() -> list[str]:
    """What is mapped of them: here the number of the inode is the segment's id."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        return [" ".join([*line.split()[:3], *line.split()[4:]]) for line in maps if "/SYSV" in line]


def child(kept: int, doomed: int, whole: int) -> None:
    """Inherits all, and attaches one more."""
    attach(kept)
    victim.await_file("asked")
    victim.equal(ctypes.string_at(whole + 100, 5), b"fresh", "seen by the child")
    mine = attach(doomed)
    ctypes.memmove(mine + 2 * PAGE + 50, b"child", 5)


victim.play(scenario)
