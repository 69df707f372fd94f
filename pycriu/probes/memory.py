# SPDX-License-Identifier: GPL-2.0-only
"""Probes of what concerns memory: pagemap and its ioctl, dirty tracking, reading and writing a tracee's, its layout."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct

from pycriu.kernel import libc, procfs
from pycriu.probes.subject import Absent, Subject, called, in_child, prctl

PR_SET_MM, PR_SET_MM_MAP, PR_SET_MM_MAP_SIZE = 35, 14, 15
PAGEMAP_SCAN = 0xC0606610  # _IOWR('f', 16, struct pm_scan_arg)
PAGE_IS_PRESENT = 1 << 3
SOFT_DIRTY, PRESENT = 1 << 55, 1 << 63  # in a word of pagemap
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
        regions = ctypes.create_string_buffer(24)
        end = page.address + mmap.PAGESIZE
        argument = bytearray(struct.pack(
            "12Q", 96, 0, page.address, end, 0, ctypes.addressof(regions), 1, 0, 0, PAGE_IS_PRESENT, 0, PAGE_IS_PRESENT
        ))  # fmt: skip
        if fcntl.ioctl(file, PAGEMAP_SCAN, argument) != 1:
            raise Absent("PAGEMAP_SCAN does not show a page that is there")


def soft_dirty(_subject: Subject) -> None:
    """/proc/PID/clear_refs takes the soft-dirty bit away, a write brings it back."""
    with _Page() as page:
        with open("/proc/self/clear_refs", "wb", buffering=0) as file:
            file.write(b"4")
        clean = _pagemap_word(page.address) & SOFT_DIRTY
        page.write(b"x")
        if clean or not _pagemap_word(page.address) & SOFT_DIRTY:
            raise Absent("the soft-dirty bit of a page does not follow writes")


def userfaultfd(_subject: Subject) -> None:
    """userfaultfd(2) and its handshake."""
    fd = libc.call("userfaultfd", os.O_CLOEXEC | UFFD_USER_MODE_ONLY)
    try:
        fcntl.ioctl(fd, UFFDIO_API, bytearray(struct.pack("3Q", UFFD_API, 0, 0)))
    finally:
        os.close(fd)


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
