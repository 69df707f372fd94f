# SPDX-License-Identifier: GPL-2.0-only
"""System V shared memory that a tree has attached.

A segment is the system's, not the tree's, and may outlive both dump and tree. So at a restore

- one that is still there, with the same id, key, size and owner, is attached again. Where other processes are attached
  to it, it keeps what it has by now; where none is, it gets the content of the dump, as all other memory does;
- one that is gone is made again, with its id (/proc/sys/kernel/shm_next_id), key, owner, creator, rights and content;
- where id or key have come to somebody else, the restore is refused.

Segments that are marked for destruction (IPC_RMID) are made and marked again. Not kept: the times and the PIDs of the
last operations; segments that nobody of the tree has attached; semaphores and message queues, which are the system's.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from pycriu.errors import About, ImageError, KernelError, UserError
from pycriu.images import messages as m
from pycriu.images.catalogue import SYSVIPC
from pycriu.kernel import libc
from pycriu.kernel.pagemap import PAGE_SIZE
from pycriu.pages.imagefiles import Content, Numbers, Saved, save
from pycriu.record import record
from pycriu.resources.memory.layout import free_span
from pycriu.resources.memory.mappings import MAP_HUGE_SHIFT, PROT_EXEC, PROT_WRITE, Mapping
from pycriu.tracing.tracee import Row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pycriu.images.store import ImagesDir, NewCheckpoint
    from pycriu.resources.memory.plan import Plan

IPC_RMID, IPC_SET, IPC_STAT, SHM_LOCK = 0, 1, 2, 11
IPC_CREAT, IPC_EXCL, SHM_HUGETLB = 0o1000, 0o2000, 0o4000
SHM_RDONLY, SHM_EXEC = 0o10000, 0o100000
SHM_DEST, SHM_LOCKED = 0o1000, 0o2000  # in the mode
MREMAP_MAYMOVE_FIXED = 3
_LOWEST = 1 << 20  # address
_HUGE = SHM_HUGETLB | 0x3F << MAP_HUGE_SHIFT
_GONE = (errno.EINVAL, errno.EIDRM)
_NEXT_ID = "/proc/sys/kernel/shm_next_id"
# struct shmid64_ds, include/uapi/asm-generic/{ipcbuf,shmbuf}.h: key, uid, gid, cuid, cgid, mode, size, users.
_DS = struct.Struct("<6I24xQ32xQ16x")


class Segment:
    """A segment as the kernel shows it; `size` in bytes, `users` is how many attachments it has."""

    __slots__ = ("cgid", "cuid", "gid", "key", "mode", "size", "uid", "users")

    def __init__(self, shmid: int) -> None:
        data = ctypes.create_string_buffer(_DS.size)
        libc.call("shmctl", shmid, IPC_STAT, ctypes.addressof(data), what=f"System V segment {shmid}")
        (self.key, self.uid, self.gid, self.cuid, self.cgid, self.mode, self.size, self.users) = _DS.unpack(data.raw)


class Attached:
    """The segments that a stopped tree has attached."""

    def __init__(self) -> None:
        self._links: dict[int, tuple[str, int]] = {}
        self._segments: dict[int, tuple[Segment, int]] = {}
        self._saved: list[Saved] = []

    def take(self, mappings: list[Mapping]) -> None:
        """Those of one task."""
        for mapping in mappings:
            if mapping.status & SYSVIPC and mapping.file is not None:
                page_size = mapping.line.page_size if "ht" in mapping.line.flags else PAGE_SIZE
                self._links.setdefault(mapping.line.inode, (mapping.file.link, page_size))

    def copy(self, new: NewCheckpoint, numbers: Numbers) -> None:
        """Their contents."""
        for shmid, (link, page_size) in self._links.items():
            self._segments[shmid] = Segment(shmid), page_size
            fd = os.open(link, os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._saved.append(save(new, numbers, fd, numbers.shmem(shmid), page_size))
            finally:
                os.close(fd)

    def write(self, new: NewCheckpoint, namespace: int) -> None:
        """Their images; `namespace` is the id of the IPC namespace, which is ours."""
        for saved in self._saved:
            saved.write(new)
        if self._segments:
            new.write(f"ipcns-shm-{namespace}.img", [_entry(shmid, *one) for shmid, one in self._segments.items()])


def _entry(shmid: int, segment: Segment, page_size: int) -> Any:
    desc = m.ipc_desc_entry(
        key=segment.key, uid=segment.uid, gid=segment.gid, cuid=segment.cuid, cgid=segment.cgid, mode=segment.mode,
        id=shmid,
    )  # fmt: skip
    entry = m.ipc_shm_entry(desc=desc, size=segment.size, in_pagemaps=True)
    if page_size != PAGE_SIZE:
        entry.hugetlb_flag = SHM_HUGETLB | (page_size.bit_length() - 1) << MAP_HUGE_SHIFT
    return entry


# ---------------------------------------------------------------------------------------------------------- restore


def _refuse_other(shmid: int, entry: Any, there: Segment) -> None:
    desc = entry.desc
    if (there.key, there.size, there.uid, there.gid) != (desc.key, entry.size, desc.uid, desc.gid):
        raise UserError(
            f"System V segment {shmid} is another by now: key {there.key:#x}, {there.size} bytes, of {there.uid}",
            f"the tree had key {desc.key:#x}, {entry.size} bytes, of {desc.uid}; see ipcs -m, remove it with ipcrm",
        )


class Segments:
    """The segments of an image. A scope: if it ends with an error, those that were made are removed.

    Those that are marked for destruction are marked as soon as they are made, and live because we are attached to them:
    should we be killed, they go. The others are found again, and used, by the next restore.
    """

    def __init__(self, images: ImagesDir, plans: list[Plan]) -> None:
        wanted = {vma.shmid for plan in plans for vma in plan.vmas if vma.status & SYSVIPC}
        self._entries: dict[int, Any] = {}
        self._contents: dict[int, Content | bytes] = {}
        self._made: list[int] = []
        self._held: list[int] = []  # where we are attached to some
        names = [name for name in images.names() if name.startswith("ipcns-shm-")] if wanted else []
        for entry, payload in (pair for name in names for pair in images.read_with_payloads(name)):
            found: Any = entry
            shmid = found.desc.id
            if shmid in wanted:
                self._entries[shmid] = found
                self._contents[shmid] = Content(images, shmid, found.size) if found.in_pagemaps else payload
        if missing := sorted(wanted - self._entries.keys()):
            raise ImageError(f"System V segment {missing[0]} is attached, but ipcns-shm-N.img does not have it")
        for plan in plans:
            for vma in plan.vmas:
                if vma.status & SYSVIPC and vma.pgoff + vma.end - vma.start > _rounded(self._entries[vma.shmid]):
                    raise ImageError(f"the mapping {vma.start:x}-{vma.end:x} reaches beyond segment {vma.shmid}")

    def __enter__(self) -> Segments:
        try:
            for shmid, entry in self._entries.items():
                self._provide(shmid, entry)
        except BaseException:
            self._remove()
            self._let_go()
            raise
        return self

    def rehearse(self) -> None:
        """Dry run: UserError for a segment that is another's by now."""
        for shmid, entry in self._entries.items():
            with About():
                try:
                    _refuse_other(shmid, entry, Segment(shmid))
                except KernelError as error:
                    if error.errno not in _GONE:
                        raise

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is not None:
            self._remove()
        self._let_go()
        for content in self._contents.values():
            if isinstance(content, Content):
                content.close()

    def _remove(self) -> None:
        for shmid in self._made:
            try:
                libc.call("shmctl", shmid, IPC_RMID, 0, what=f"System V segment {shmid}")
            except KernelError as error:
                if error.errno not in _GONE:
                    raise

    def _let_go(self) -> None:
        for address in self._held:
            libc.call("shmdt", address)
        self._held = []

    def finish(self) -> None:
        """Every task has attached what it had."""
        for shmid, entry in self._entries.items():
            if entry.desc.mode & SHM_LOCKED:
                libc.call("shmctl", shmid, SHM_LOCK, 0, what=f"locking System V segment {shmid}")
        self._let_go()

    def rows(self, plan: Plan, busy: list[tuple[int, int]], highest: int) -> list[Row]:
        """Attach what one task had, between its other mappings, whose spans and others to be left alone are `busy`."""
        return [
            row
            for vma in plan.vmas
            if vma.status & SYSVIPC
            for row in attach_rows(vma, _rounded(self._entries[vma.shmid]), busy, highest)
        ]

    def _provide(self, shmid: int, entry: Any) -> None:
        try:
            there = Segment(shmid)
        except KernelError as error:
            if error.errno not in _GONE:
                raise
            self._make(shmid, entry)
            if entry.desc.mode & SHM_DEST:
                self._held.append(libc.call("shmat", shmid, 0, 0, what=f"System V segment {shmid}"))
                libc.call("shmctl", shmid, IPC_RMID, 0, what=f"System V segment {shmid}")
            self._fill(shmid, entry)
            return
        _refuse_other(shmid, entry, there)
        if not there.users:
            self._fill(shmid, entry)

    def _make(self, shmid: int, entry: Any) -> None:
        desc = entry.desc
        key = 0 if desc.mode & SHM_DEST else desc.key
        flags = IPC_CREAT | IPC_EXCL | desc.mode & 0o777 | entry.hugetlb_flag & _HUGE
        what = f"System V segment {shmid} of {entry.size} bytes"
        got = -1
        try:
            with open(_NEXT_ID, "wb", buffering=0) as file:
                file.write(b"%d" % shmid)
            uid, gid = os.geteuid(), os.getegid()
            os.setegid(desc.cgid)
            os.seteuid(desc.cuid)  # the creator is whoever calls
            try:
                got = libc.call("shmget", key, entry.size, flags, what=what)
            finally:
                os.seteuid(uid)
                os.setegid(gid)
        except KernelError as error:
            _use_up_id()
            if error.errno == errno.EEXIST:
                raise UserError(f"{what}: its key {key:#x} has come to another", "see ipcs -m") from None
            raise UserError(f"{what} cannot be made: {os.strerror(error.errno)}", "see ipcs -lm for limits") from None
        except (OSError, OverflowError) as error:
            raise UserError(f"{what} cannot be made: {error}", "needs CONFIG_CHECKPOINT_RESTORE and root") from None
        self._made.append(got)
        if got != shmid:
            raise UserError(f"{what} cannot have its id back, the kernel gave {got}", "see ipcs -m")
        data = _DS.pack(0, desc.uid, desc.gid, 0, 0, desc.mode & 0o777, 0, 0)
        buffer = ctypes.create_string_buffer(data, len(data))
        libc.call("shmctl", shmid, IPC_SET, ctypes.addressof(buffer), what=what)

    def _fill(self, shmid: int, entry: Any) -> None:
        content = self._contents[shmid]
        address = libc.call("shmat", shmid, 0, 0, what=f"System V segment {shmid}")
        try:
            area = memoryview((ctypes.c_char * _rounded(entry)).from_address(address)).cast("B")
            if isinstance(content, Content):
                content.fill_mapped(area)
            else:
                area[: entry.size] = content[: entry.size]
        finally:
            libc.call("shmdt", address)


def _use_up_id() -> None:
    """No segment took the id that was asked for: whoever makes the next one must not get it."""
    libc.call("shmctl", libc.call("shmget", 0, 1, IPC_CREAT | 0o600), IPC_RMID, 0)


@record
class Sources:
    """What tasks map: descriptors by `Plan.file_key`, and the segments."""

    files: dict[tuple[int, int], int]
    segments: Segments


def _rounded(entry: Any) -> int:
    """The size of a segment in whole pages."""
    shift = entry.hugetlb_flag >> MAP_HUGE_SHIFT & 0x3F
    page = 1 << shift if shift else PAGE_SIZE
    return -(-int(entry.size) // page) * page


def attach_rows(vma: Any, whole: int, busy: list[tuple[int, int]], highest: int) -> list[Row]:
    """Attach a segment of `whole` bytes where the mapping was; a part of one by way of a place that is free."""
    write = vma.prot & PROT_WRITE or vma.fdflags & os.O_ACCMODE == os.O_RDWR
    flags = (0 if write else SHM_RDONLY) | (SHM_EXEC if vma.prot & PROT_EXEC else 0)
    size = vma.end - vma.start
    what = f"System V segment {vma.shmid} at {vma.start:x}"
    if vma.pgoff == 0 and size == whole:
        return [Row("shmat", vma.shmid, vma.start, flags, what=what)]
    aside = free_span(busy, whole, _LOWEST, highest)
    rows = [
        Row("shmat", vma.shmid, aside, flags, what=what),
        Row("mremap", aside + vma.pgoff, size, size, MREMAP_MAYMOVE_FIXED, vma.start, what=what),
    ]
    for start, end in ((0, vma.pgoff), (vma.pgoff + size, whole)):
        if start < end:
            rows.append(Row("munmap", aside + start, end - start, what=what))
    return rows
