# SPDX-License-Identifier: GPL-2.0-only
"""Shared memory without a path: memfd_create(2), shared anonymous mappings, and both of huge pages.

To the kernel they are one thing, an unnamed file in a file system that nobody sees, and so they are in images: CRIU
writes a shared anonymous mapping as a memfd of the name /dev/zero. The content goes once into pagemap-shmem and pages
images, with its holes. Refused: memfd_secret(2), file locks.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat

from pycriu.errors import ImageError, KernelError, Unsupported, UserError
from pycriu.fds.kind import Kind
from pycriu.fds.openfile import OpenFile, no_owner
from pycriu.images import messages as m
from pycriu.kernel import libc, procfs
from pycriu.kernel.pagemap import PAGE_SIZE
from pycriu.pages.imagefiles import Content, Numbers, Saved, save

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pycriu.fds.opening import Opening
    from pycriu.fds.saving import Saving
    from pycriu.images.store import ImagesDir, NewCheckpoint

MFD_CLOEXEC, MFD_ALLOW_SEALING, MFD_HUGETLB, MFD_EXEC = 1, 2, 4, 0x10
HUGE_SHIFT, _HUGE_MASK = 26, 0x3F << 26  # the logarithm of the size of huge pages, in flags of memfd_create and mmap
MAP_SHARED, MAP_ANONYMOUS, MAP_NORESERVE, MAP_HUGETLB = 1, 0x20, 0x4000, 0x40000
F_ADD_SEALS, F_GET_SEALS, F_SEAL_SEAL = 1033, 1034, 1

_MEMFD, _GONE = "/memfd:", " (deleted)"
_ANONYMOUS, _ANONYMOUS_HUGE = "/dev/zero", "/anon_hugepage"  # mm/shmem.c, mm/hugetlb.c
PREFIXES = (_MEMFD, _ANONYMOUS, _ANONYMOUS_HUGE)
SECRET = "/secretmem (deleted)"  # where the link of a memfd_secret(2) leads
_HUGE_PAGES = "/sys/kernel/mm/hugepages"
_KEPT_FLAGS = os.O_ACCMODE | os.O_APPEND | os.O_NONBLOCK | os.O_PATH | os.O_NOATIME | os.O_SYNC | os.O_DSYNC

_devices: dict[int, int] = {}


def devices() -> dict[int, int]:
    """st_dev of the file systems that hold such files → memfd_create's flags for pages of their size."""
    if not _devices:
        _devices[_device(0)] = 0
        sizes = os.listdir(_HUGE_PAGES) if os.path.isdir(_HUGE_PAGES) else []
        for name in sizes:
            flags = MFD_HUGETLB | (int(name[10:-2]).bit_length() + 9) << HUGE_SHIFT  # hugepages-2048kB
            _devices[_device(flags)] = flags
    return _devices


def secret(name: str) -> Unsupported:
    """The refusal of what has this name and a link that is SECRET."""
    return Unsupported(
        f"{name} is secret memory (memfd_secret), which cannot be saved", "nobody but its owner can read it"
    )


def _device(flags: int) -> int:
    fd = os.memfd_create("", MFD_CLOEXEC | flags)
    try:
        return os.fstat(fd).st_dev
    finally:
        os.close(fd)


def is_one(link: str, status: os.stat_result) -> bool:
    """Whether what a link in /proc leads to is such a file."""
    return (
        link.endswith(_GONE)
        and link.startswith(PREFIXES)
        and stat.S_ISREG(status.st_mode)
        and status.st_dev in devices()
    )


class _Inode:
    """One object of a dump."""

    def __init__(self, file: OpenFile, number: int) -> None:
        self.number, self.status = number, file.status
        self.huge = devices()[file.status.st_dev]
        self.name = file.link.removesuffix(_GONE).removeprefix(_MEMFD)
        try:
            self.fd = os.open(f"/proc/{file.pid}/fd/{file.fd}", os.O_RDONLY | os.O_CLOEXEC)
            self.seals = fcntl.fcntl(self.fd, F_GET_SEALS)
        except OSError as error:
            raise KernelError("open", error.errno or 0, file.name) from None
        self.saved: Saved | None = None

    @property
    def page_size(self) -> int:
        return 1 << (self.huge >> HUGE_SHIFT) if self.huge else PAGE_SIZE

    def entry(self) -> Any:
        entry = m.memfd_inode_entry(
            name=self.name, uid=self.status.st_uid, gid=self.status.st_gid, size=self.status.st_size,
            shmid=self.saved.shmid if self.saved else 0, seals=self.seals, inode_id=self.number,
            mode=self.status.st_mode,
        )  # fmt: skip
        if self.huge:
            entry.hugetlb_flag = self.huge
        return entry


class _Restored:
    """One object of a restore: what the image says of it and, once it is made, our descriptor that may write."""

    def __init__(self, entry: Any, images: ImagesDir) -> None:
        self.entry = entry
        self.huge = entry.hugetlb_flag & (MFD_HUGETLB | _HUGE_MASK)
        self.fd = -1
        if entry.size >> 63:
            raise ImageError(f"memfd.img: object {entry.inode_id} has {entry.size} bytes")
        self.content = Content(images, entry.shmid, entry.size)

    def open(self) -> int:
        if self.fd < 0:
            try:
                self._make()
            except (KernelError, OSError, ValueError) as error:
                raise self._refusal(error) from None
        return self.fd

    def _make(self) -> None:
        entry = self.entry
        if entry.name in (_ANONYMOUS, _ANONYMOUS_HUGE):
            self.fd = _make_anonymous(entry.size, self.huge)
        else:
            sealing = 0 if entry.seals == F_SEAL_SEAL else MFD_ALLOW_SEALING
            self.fd = _memfd_create(entry.name, MFD_CLOEXEC | sealing | self.huge)
            os.ftruncate(self.fd, entry.size)
        if self.huge and not self.content.empty:
            with mmap.mmap(self.fd, entry.size) as area, memoryview(area) as view:
                self.content.fill_mapped(view)
        else:
            self.content.fill(self.fd, entry.size)
        os.fchown(self.fd, entry.uid, entry.gid)
        if entry.HasField("mode"):
            os.fchmod(self.fd, stat.S_IMODE(entry.mode))

    def _refusal(self, error: Exception) -> Exception:
        what = f"the shared memory {self.entry.name!r} of {self.entry.size} bytes cannot be made"
        if isinstance(error, OSError) and error.errno in (errno.ENOMEM, errno.ENOSPC):
            hint = f"free some memory, or raise {_HUGE_PAGES}/*/nr_hugepages" if self.huge else "free some memory"
            return UserError(f"{what}: {os.strerror(error.errno)}", hint)
        return ImageError(f"{what}: {error}")

    def seal(self) -> None:
        """Last of all: seals forbid what has been done to it until now."""
        if self.fd >= 0 and self.entry.seals != F_SEAL_SEAL and self.entry.seals:
            try:
                fcntl.fcntl(self.fd, F_ADD_SEALS, self.entry.seals)
            except OSError as error:
                seals = f"{self.entry.seals:#x}"
                raise ImageError(
                    f"the memfd {self.entry.name!r} cannot be sealed ({seals}): {error.strerror}"
                ) from None

    def close(self) -> None:
        self.content.close()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _memfd_create(name: str, flags: int) -> int:
    try:
        return os.memfd_create(name, flags | MFD_EXEC)  # executable, as all were before Linux 6.3; the mode decides
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.memfd_create(name, flags)


def _make_anonymous(size: int, huge: int) -> int:
    """What mmap(2) makes of MAP_SHARED | MAP_ANONYMOUS, by way of the link that leads to it from a mapping."""
    flags = MAP_SHARED | MAP_ANONYMOUS | (MAP_HUGETLB | huge & _HUGE_MASK if huge else 0)
    try:
        address = libc.call("mmap", 0, size, 0, flags, -1, 0)
    except KernelError as error:
        if error.errno != errno.ENOMEM or huge:
            raise
        address = libc.call("mmap", 0, size, 0, flags | MAP_NORESERVE, -1, 0)
    try:
        end = address + -(-size // PAGE_SIZE) * PAGE_SIZE
        return os.open(f"/proc/self/map_files/{address:x}-{end:x}", os.O_RDWR | os.O_CLOEXEC)
    finally:
        libc.call("munmap", address, size)


class Memfd(Kind):
    """Descriptors for shared memory, and mappings of it, for which `resources.memory` opens descriptors."""

    TYPE = 18  # fd_types.MEMFD

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._inodes: dict[tuple[int, int], _Inode] = {}
        self._restored: dict[int, _Restored] = {}

    def matches(self, file: OpenFile) -> bool:
        """By where its link leads."""
        if file.link == SECRET:
            raise secret(file.name)
        return is_one(file.link, file.status)

    def inspect(self, file: OpenFile) -> None:
        """Unsupported for a name that no image can hold."""
        if not procfs.is_utf8(file.link):
            raise Unsupported(f"{file.name!a}: its name is not UTF-8, which no image can hold")

    def gather(self, files: list[OpenFile], saving: Saving) -> None:
        """Which objects there are; their content is too much to be kept here."""
        for file in files:
            key = (file.status.st_dev, file.status.st_ino)
            if key not in self._inodes:
                self._inodes[key] = _Inode(file, len(self._inodes) + 1)

    def copy(self, new: NewCheckpoint, numbers: Numbers) -> None:
        """The content of every object."""
        for inode in self._inodes.values():
            inode.saved = save(new, numbers, inode.fd, numbers.shmem(inode.status.st_ino), inode.page_size)

    def thaw(self) -> None:
        """Let go of the objects."""
        for inode in self._inodes.values():
            if inode.fd >= 0:
                os.close(inode.fd)
                inode.fd = -1

    def dump(self, file: OpenFile, number: int, saving: Saving) -> Any:
        """The image of one open file."""
        inode = self._inodes[file.status.st_dev, file.status.st_ino]
        entry = m.memfd_file_entry(
            id=number, flags=file.flags, pos=file.position, fown=no_owner(), inode_id=inode.number
        )
        return m.file_entry(type=self.TYPE, id=number, memfd=entry)

    def write(self, new: NewCheckpoint) -> None:
        """The objects."""
        if self._inodes:
            new.write("memfd.img", [inode.entry() for inode in self._inodes.values()])
        for inode in self._inodes.values():
            if inode.saved is not None:
                inode.saved.write(new)

    def read(self, images: ImagesDir, entries: list[Any]) -> None:
        """The objects, and that every open file is of one of them."""
        if not entries:
            return
        inodes: list[Any] = images.read("memfd.img")
        for inode in inodes:
            self._restored[inode.inode_id] = _Restored(inode, images)
        for entry in entries:
            if entry.memfd.inode_id not in self._restored:
                raise ImageError(f"file {entry.id} is of memfd {entry.memfd.inode_id}, which memfd.img does not have")

    def open(self, entry: Any, opening: Opening) -> int:
        """Open an object, which is made when it is asked for first."""
        memfd = entry.memfd
        inode = self._restored[memfd.inode_id].open()
        fd = -1
        try:
            fd = os.open(f"/proc/self/fd/{inode}", memfd.flags & _KEPT_FLAGS | os.O_CLOEXEC)
            if memfd.pos and not memfd.flags & os.O_PATH:
                os.lseek(fd, memfd.pos, os.SEEK_SET)
        except (OSError, OverflowError) as error:
            if fd >= 0:
                os.close(fd)
            raise ImageError(f"file {entry.id}, a memfd, cannot be opened: {error}") from None
        return fd

    def name_of(self, entry: Any) -> str:
        """The name of the object behind a file_entry."""
        return str(self._restored[entry.memfd.inode_id].entry.name)

    def has(self, name: str) -> bool:
        """Whether there is an object of this name among those of the images."""
        return any(inode.entry.name == name for inode in self._restored.values())

    def finish(self, opening: Opening) -> None:
        """Everything is mapped that could not be once the object is sealed."""
        for inode in self._restored.values():
            inode.seal()

    def close(self) -> None:
        """Let go of the objects."""
        for inode in self._restored.values():
            inode.close()
