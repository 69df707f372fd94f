# SPDX-License-Identifier: GPL-2.0-only
"""memfd: content with holes, name, mode, size, seals; several open files; mapped shared, private, without descriptor.

Missing: memfd_secret; a memfd that a process outside the tree has open too.
"""

import ctypes
import fcntl
import mmap
import os
from collections.abc import Iterator

import victim

PAGE = mmap.PAGESIZE
libc = ctypes.CDLL(None, use_errno=True)


def scenario() -> Iterator[victim.Damage]:
    plain = os.memfd_create("plain", os.MFD_CLOEXEC)
    os.ftruncate(plain, 40 * PAGE + 100)
    os.pwrite(plain, b"begin", 0)
    os.pwrite(plain, b"end", 40 * PAGE + 97)
    os.lseek(plain, 5, os.SEEK_SET)
    again = os.dup(plain)
    reader = os.open(f"/proc/self/fd/{plain}", os.O_RDONLY)
    os.lseek(reader, 3, os.SEEK_SET)
    appender = os.open(f"/proc/self/fd/{plain}", os.O_WRONLY | os.O_APPEND)
    os.fchmod(plain, 0o640)
    sealed = make_sealed()
    future, window = make_future()
    shared = mmap.mmap(plain, 2 * PAGE)
    private = mmap.mmap(plain, 2 * PAGE, flags=mmap.MAP_PRIVATE)
    private[1:3] = b"XX"
    nameless = make_without_descriptor()
    before = tell(plain, again, reader, appender, sealed, future), lines()
    pid = victim.child(lambda: child(shared, nameless))
    yield lambda: os.pwrite(plain, b"other", 8 * PAGE)
    victim.equal((tell(plain, again, reader, appender, sealed, future), lines()), before, "the files")
    judge_sharing(plain, again, reader, appender, shared, private)
    judge_seals(sealed, future, window)
    with open("asked", "w", encoding="utf-8"):
        victim.join(pid, "the child")
    victim.equal(bytes(nameless[10:15]), b"child", "what a child writes")


def make_sealed() -> int:
    fd = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
    os.write(fd, b"never to change")
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    _kept.append(mmap.mmap(fd, 15, prot=mmap.PROT_READ))
    return fd


def make_future() -> tuple[int, mmap.mmap]:
    """Sealed against new writers; the mapping from before still writes."""
    fd = os.memfd_create("future", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, PAGE)
    window = mmap.mmap(fd, PAGE)
    future_write = 0x10
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, future_write)
    return fd, window


def make_without_descriptor() -> mmap.mmap:
    fd = os.memfd_create("only mapped")
    os.ftruncate(fd, 3 * PAGE)
    area = mmap.mmap(fd, 3 * PAGE)
    os.close(fd)
    # Python keeps a duplicate of the descriptor with the mapping.
    for number in map(int, os.listdir("/proc/self/fd")):
        try:
            if "only mapped" in os.readlink(f"/proc/self/fd/{number}"):
                os.close(number)
        except FileNotFoundError:
            continue
    area[2 * PAGE : 2 * PAGE + 4] = b"here"
    return area


_kept: list[mmap.mmap] = []


def tell(*fds: int) -> list[object]:
    """Everything that can be seen of them."""
    found: list[object] = []
    for fd in fds:
        status = os.fstat(fd)
        found.append(
            (
                os.readlink(f"/proc/self/fd/{fd}"), status.st_size, status.st_mode, status.st_uid, status.st_blocks,
                os.lseek(fd, 0, os.SEEK_CUR), fcntl.fcntl(fd, fcntl.F_GETFL), fcntl.fcntl(fd, fcntl.F_GETFD),
                fcntl.fcntl(fd, fcntl.F_GET_SEALS), os.pread(fd, 1 << 20, 0) if readable(fd) else None,
            )
        )  # fmt: skip
    return found


def readable(fd: int) -> bool:
    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_WRONLY


def lines() -> list[str]:
    """What is mapped of them, without the numbers of inodes."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        return [" ".join([*line.split()[:3], *line.split()[5:]]) for line in maps if "/memfd:" in line]


def child(shared: mmap.mmap, nameless: mmap.mmap) -> None:
    victim.await_file("asked")
    victim.equal(bytes(shared[20:25]), b"fresh", "seen by the child")
    victim.equal(bytes(nameless[2 * PAGE : 2 * PAGE + 4]), b"here", "of a memfd without descriptor")
    nameless[10:15] = b"child"


def judge_sharing(plain: int, again: int, reader: int, appender: int, shared: mmap.mmap, private: mmap.mmap) -> None:
    os.lseek(plain, 20, os.SEEK_SET)
    victim.equal(os.lseek(again, 0, os.SEEK_CUR), 20, "the position of a duplicate")
    victim.equal(os.lseek(reader, 0, os.SEEK_CUR), 3, "the position of another open file")
    os.write(again, b"fresh")
    victim.equal(bytes(shared[20:25]), b"fresh", "the shared mapping")
    victim.equal(bytes(private[:5]), b"bXXin", "the private mapping")
    victim.equal(os.pread(reader, 5, 20), b"fresh", "the other open file")
    os.write(appender, b"!")
    victim.equal(os.fstat(plain).st_size, 40 * PAGE + 101, "the size after appending")


def judge_seals(sealed: int, future: int, window: mmap.mmap) -> None:
    for fd in (sealed, future):
        try:
            os.pwrite(fd, b"x", 0)
        except PermissionError:
            continue
        raise victim.Failed(f"a sealed memfd can be written to: {os.readlink(f'/proc/self/fd/{fd}')}")
    window[:5] = b"still"
    victim.equal(os.pread(future, 5, 0), b"still", "written through the mapping from before the seal")


victim.play(scenario)
