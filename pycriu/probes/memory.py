# SPDX-License-Identifier: GPL-2.0-only
"""Probes of what concerns memory: pagemap and its ioctl, dirty tracking, reading and writing a tracee's, its layout."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import signal
import struct

from pycriu.errors import KernelError
from pycriu.kernel import libc, procfs, softdirty
from pycriu.probes.subject import Absent, Subject, called, in_child, prctl

PR_SET_MM, PR_SET_MM_MAP, PR_SET_MM_MAP_SIZE = 35, 14, 15
PAGEMAP_SCAN = 0xC0606610  # _IOWR('f', 16, struct pm_scan_arg)
PAGE_IS_PRESENT, PAGE_IS_GUARD = 1 << 3, 1 << 8
MADV_GUARD_INSTALL, MADV_GUARD_REMOVE = 102, 103
MREMAP_MAYMOVE_FIXED = 3
PR_SET_VMA, PR_SET_VMA_ANON_NAME = 0x53564D41, 0
ARCH_MAP_VDSO_32, ARCH_MAP_VDSO_64 = 0x2002, 0x2003
UFFD_EVENTS = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 6  # fork, remap, remove, unmap
UFFD_WP_ASYNC = 1 << 13 | 1 << 15  # unpopulated pages, too
PRESENT = 1 << 63  # in a word of pagemap
MFD_HUGETLB = 4
UFFDIO_API, UFFD_API, UFFD_USER_MODE_ONLY = 0xC018AA3F, 0xAA, 1


def pagemap(_subject: Subject) -> None:
    """/proc/PID/pagemap tells a present page; /proc/PID/smaps exists."""
    with _Page() as page:
        if not _pagemap_word(page.address) & PRESENT:
            raise Absent("/proc/self/pagemap does not show a page that is there")
    os.stat("/proc/self/smaps")


def pagemap_scan(_subject: Subject) -> None:
    """The PAGEMAP_SCAN ioctl finds a present page."""
    with _Page() as page, open("/proc/self/pagemap", "rb", buffering=0) as file:
        if _scan(file.fileno(), page.address, PAGE_IS_PRESENT) != 1:
            raise Absent("PAGEMAP_SCAN does not show a page that is there")


def soft_dirty(_subject: Subject) -> None:
    """/proc/PID/clear_refs takes the soft-dirty bit away, a write brings it back."""
    if not softdirty.works():
        raise Absent("the soft-dirty bit of a page does not follow writes")


def userfaultfd(_subject: Subject) -> None:
    """userfaultfd(2) and its handshake."""
    fd = libc.call("userfaultfd", os.O_CLOEXEC | UFFD_USER_MODE_ONLY)
    try:
        fcntl.ioctl(fd, UFFDIO_API, bytearray(struct.pack("3Q", UFFD_API, 0, 0)))
    finally:
        os.close(fd)


def userfaultfd_events(_subject: Subject) -> None:
    """userfaultfd(2) tells of fork(2), mremap(2), munmap(2) and madvise(2)."""
    _demand_features(UFFD_EVENTS, "does not tell of fork, mremap, munmap and madvise")


def write_tracking(_subject: Subject) -> None:
    """userfaultfd(2) write-protects without waiting for anybody, what was never touched, too."""
    _demand_features(UFFD_WP_ASYNC, "has no asynchronous write protection")


def guard_pages(_subject: Subject) -> None:
    """PAGEMAP_SCAN finds a guard page that madvise(2) has made."""
    with _Page() as page, open("/proc/self/pagemap", "rb", buffering=0) as file:
        called("madvise", ctypes.c_size_t(page.address), ctypes.c_size_t(mmap.PAGESIZE), MADV_GUARD_INSTALL)
        if _scan(file.fileno(), page.address, PAGE_IS_GUARD) != 1:
            raise Absent("PAGEMAP_SCAN does not show a guard page")
        called("madvise", ctypes.c_size_t(page.address), ctypes.c_size_t(mmap.PAGESIZE), MADV_GUARD_REMOVE)


def move_ring(_subject: Subject) -> None:
    """A ring of asynchronous I/O goes on where mremap(2) has put it."""
    in_child(_move_ring, "mremap of a ring of io_setup")


def move_vdso(_subject: Subject) -> None:
    """A child moves its vDSO and vvar, and comes back from a signal."""
    in_child(_move_vdso, "mremap of the vDSO")


def map_vdso(request: int, _subject: Subject) -> None:
    """arch_prctl(2) maps a vDSO where it is wanted; it may say that there is one already."""

    def work() -> None:
        try:
            called("arch_prctl", request, ctypes.c_size_t(0))
        except KernelError as error:
            if error.errno != errno.EEXIST:
                raise

    in_child(work, "arch_prctl(ARCH_MAP_VDSO)")


def name_mapping(_subject: Subject) -> None:
    """prctl(PR_SET_VMA_ANON_NAME)."""
    name = ctypes.create_string_buffer(b"probe")
    with _Page() as page:
        prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, page.address, mmap.PAGESIZE, ctypes.addressof(name))


def write_memory(_subject: Subject) -> None:
    """/proc/PID/mem of a tracee takes bytes for a page that it may write."""
    _write_memory(mmap.PROT_READ | mmap.PROT_WRITE)


def write_read_only_memory(_subject: Subject) -> None:
    """/proc/PID/mem of a tracee takes bytes for a page that it may only read."""
    _write_memory(mmap.PROT_READ)


def read_memory(_subject: Subject) -> None:
    """process_vm_readv(2)."""
    with _Page() as page, Subject() as own:
        buffer = ctypes.create_string_buffer(8)
        remote = (libc.Iovec * 1)(libc.Iovec(page.address, 8))
        libc.process_vm_readv(own.pid, ctypes.addressof(buffer), remote, 1, 8)


def set_mm_map(_subject: Subject) -> None:
    """prctl(PR_SET_MM, PR_SET_MM_MAP) takes the values that a process has already."""
    size = ctypes.c_uint32(0)
    prctl(PR_SET_MM, PR_SET_MM_MAP_SIZE, ctypes.addressof(size))
    in_child(_set_own_mm_map, "prctl(PR_SET_MM_MAP)")


def madvise(_subject: Subject) -> None:
    """madvise(2)."""
    with mmap.mmap(-1, mmap.PAGESIZE) as page:
        page.madvise(mmap.MADV_DONTFORK)


def memfd_hugetlb(_subject: Subject) -> None:
    """memfd_create(2) with MFD_HUGETLB."""
    os.close(os.memfd_create("probe", MFD_HUGETLB))


class _Page:
    """A page of private anonymous memory that has been written to."""

    def __init__(self, protection: int = mmap.PROT_READ | mmap.PROT_WRITE) -> None:
        self._map = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._map[0] = 1
        self._view = ctypes.c_char.from_buffer(self._map)
        self.address = ctypes.addressof(self._view)
        called("mprotect", ctypes.c_size_t(self.address), ctypes.c_size_t(mmap.PAGESIZE), protection)

    def __enter__(self) -> _Page:
        return self

    def __exit__(self, *_: object) -> None:
        del self._view
        self._map.close()

    def write(self, data: bytes) -> None:
        self._map[: len(data)] = data


def _scan(pagemap: int, address: int, category: int) -> int:
    """How many regions of one page are of a category."""
    regions = ctypes.create_string_buffer(24)
    argument = bytearray(struct.pack(
        "12Q", 96, 0, address, address + mmap.PAGESIZE, 0, ctypes.addressof(regions), 1, 0, 0, category, 0, category
    ))  # fmt: skip
    found: int = fcntl.ioctl(pagemap, PAGEMAP_SCAN, argument)
    return found


def _demand_features(wanted: int, lack: str) -> None:
    """Of userfaultfd: the handshake tells all that there are."""
    fd = libc.call("userfaultfd", os.O_CLOEXEC | UFFD_USER_MODE_ONLY)
    try:
        told = bytearray(struct.pack("3Q", UFFD_API, 0, 0))
        fcntl.ioctl(fd, UFFDIO_API, told)
    finally:
        os.close(fd)
    if struct.unpack("3Q", told)[1] & wanted != wanted:
        raise Absent(f"userfaultfd {lack}")


def _lines_of_maps() -> list[tuple[int, int, str]]:
    return [(line.start, line.end, line.name) for line in procfs.parse_smaps(procfs.text("self", "maps"))]


def _move_ring() -> None:
    ring = ctypes.c_uint64(0)
    libc.call("io_setup", 16, ctypes.addressof(ring))
    start, end, _ = next(one for one in _lines_of_maps() if one[0] == ring.value)
    there = libc.call("mmap", 0, end - start, mmap.PROT_READ, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    libc.call("mremap", start, end - start, end - start, MREMAP_MAYMOVE_FIXED, there)
    libc.call("io_getevents", there, 0, 16, 0, 0)  # which knows the ring by its address


def _move_vdso() -> None:
    """From here on nothing may ask for the time: the C library knows where the vDSO was."""
    special = [one for one in _lines_of_maps() if one[2] in ("[vvar]", "[vvar_vclock]", "[vdso]", "[sigpage]")]
    if not special:
        return
    size = special[-1][1] - special[0][0]
    signal.signal(signal.SIGUSR1, lambda *_: None)
    there = libc.call("mmap", 0, size, mmap.PROT_READ, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    for start, end, _ in special:
        to = there + start - special[0][0]
        libc.call("mremap", start, end - start, end - start, MREMAP_MAYMOVE_FIXED, to)
    libc.call("kill", libc.call("getpid"), signal.SIGUSR1)


def _pagemap_word(address: int) -> int:
    with open("/proc/self/pagemap", "rb", buffering=0) as file:
        file.seek(address // mmap.PAGESIZE * 8)
        return int.from_bytes(file.read(8), "little")


def _write_memory(protection: int) -> None:
    with _Page(protection) as page, Subject() as own, open(f"/proc/{own.pid}/mem", "r+b", buffering=0) as memory:
        memory.seek(page.address)
        memory.write(b"probe")


def _set_own_mm_map() -> None:
    """struct prctl_mm_map: eleven addresses, auxv (none: unchanged), no new exe."""
    stat = procfs.stat(os.getpid())
    brk = libc.call("brk", 0)
    fields = (
        stat.startcode, stat.endcode, stat.start_data, stat.end_data, stat.start_brk, brk, stat.startstack,
        stat.arg_start, stat.arg_end, stat.env_start, stat.env_end, 0,
    )  # fmt: skip
    argument = ctypes.create_string_buffer(struct.pack("12Q2I", *fields, 0, 0xFFFFFFFF))
    prctl(PR_SET_MM, PR_SET_MM_MAP, ctypes.addressof(argument), struct.calcsize("12Q2I"), 0)
