# SPDX-License-Identifier: GPL-2.0-only
"""Files that are open and have no path any more: deleted ("ghosts"), or deleted under the name by which they were
opened while they have other names (kept by a hard link beside it, with --link-remap). Regular files, directories, FIFOs
and symbolic links.

Kept of a ghost: content with its holes, owner, mode, times, extended attributes. A restore makes it again for everybody
who had it open, under its old path where that is free, and deletes it at once; `deleted` has that dangerous minute.
"""

from __future__ import annotations

import errno
import os
import stat

from pycriu.errors import ImageError, Unsupported, UserError
from pycriu.fds import deleted
from pycriu.images import messages as m
from pycriu.images import store
from pycriu.kernel import procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import FileIO
    from typing import Any

    from pycriu.fds.saving import Saving
    from pycriu.images.store import ImagesDir, NewCheckpoint
    from pycriu.options import DumpOptions

LINKED, GHOST, PROCFS = 0, 1, 2  # remap_type
SUFFIX = " (deleted)"
LINK_NAME = "link_remap."
_KINDS = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFIFO, stat.S_IFLNK)
_CHUNK_ROOM = 64  # bytes: no ghost_chunk_entry is as long
_WHOLE = 1 << 30
OWN = "pycriu-ghosts.img"
_ATTRIBUTES = ("user.", "trusted.", "security.capability", "system.posix_acl_")


def inspect(path: str, status: os.stat_result, name: str, options: DumpOptions) -> bool:
    """Whether a path leads to its file; Unsupported where it does not and the file cannot be kept without one."""
    if not procfs.is_utf8(path):
        raise Unsupported(f"{name!a}: its path is not UTF-8, which no image can hold", "rename the file")
    if leads_to(path, status):
        return True
    _inspect_deleted(path, status, name, options)
    return False


def leads_to(path: str, status: os.stat_result) -> bool:
    """Whether a path leads to the file of `status`."""
    try:
        there = os.stat(path, follow_symlinks=not stat.S_ISLNK(status.st_mode))
    except (OSError, ValueError):
        return False
    return (there.st_dev, there.st_ino) == (status.st_dev, status.st_ino)


def _inspect_deleted(path: str, status: os.stat_result, name: str, options: DumpOptions) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if not path.endswith(SUFFIX):
        raise Unsupported(
            f"{name} is hidden: its path leads to another file",
            "unmount what was mounted over it, or let the task close it",
        )
    if kind not in _KINDS:
        raise Unsupported(f"{name} has been deleted, and a deleted device or socket cannot be made again")
    if status.st_nlink and kind != stat.S_IFDIR:
        if not options.link_remap:
            raise Unsupported(
                f"{name} has been deleted, but has {status.st_nlink} other name(s), which nothing tells",
                f"--link-remap makes one more beside the old path, {LINK_NAME}N, until the restore",
            )
        return
    size = min(status.st_size, status.st_blocks * 512)
    if kind == stat.S_IFREG and size > options.ghost_limit:
        raise Unsupported(
            f"{name} has been deleted and holds {size} bytes, more than the limit of {options.ghost_limit}",
            f"--ghost-limit {-(-size >> 20)}M stores it in the images",
        )


def original(path: str) -> str:
    """The path under which a deleted file was opened."""
    return path.removesuffix(SUFFIX)


class Ghosts:
    """The dumping half: every ghost once, and which files lead to it."""

    def __init__(self) -> None:
        self._ids: dict[tuple[int, int], int] = {}
        self._sources: list[tuple[int, os.stat_result, int, str]] = []  # id, status, descriptor of ours, link's target
        self._links: list[tuple[int, str, int]] = []  # id of the entry for the link, its path, descriptor of ours
        self._remaps: list[Any] = []
        self._attributes: dict[int, list[tuple[str, bytes]]] = {}  # of ghosts, by id
        self._promise: deleted.Promise | None = None

    def take(self, number: int, path: str, status: os.stat_result, link: str, saving: Saving) -> None:
        """Keep what is open as `link`, a magic link in /proc, and which the images call `number`."""
        key = status.st_dev, status.st_ino
        linked = bool(status.st_nlink) and not stat.S_ISDIR(status.st_mode)
        if key not in self._ids:
            if linked:
                self._ids[key] = saving.fresh()
                self._links.append(
                    (self._ids[key], _free_link_path(path, self._ids[key]), os.open(link, os.O_PATH | os.O_CLOEXEC))
                )
            else:
                self._ids[key] = len(self._sources) + 1
                self._sources.append((self._ids[key], status, *_source(link, status, saving)))
                if found := _attributes(link):
                    self._attributes[self._ids[key]] = found
        remap = m.remap_file_path_entry(orig_id=number, remap_id=self._ids[key], remap_type=LINKED if linked else GHOST)
        self._remaps.append(remap)

    def link_paths(self) -> list[tuple[int, str]]:
        """Id and path of every hard link that `write` makes."""
        return [(number, path) for number, path, _ in self._links]

    def write(self, new: NewCheckpoint) -> None:
        """remap-fpath.img, the ghosts, and the links, which go away again unless the checkpoint is committed."""
        if self._remaps:
            new.write("remap-fpath.img", self._remaps)
        new.write_any(OWN, [own_entry(number, found) for number, found in self._attributes.items()])
        for number, status, fd, target in self._sources:
            _write_ghost(new, f"ghost-file-{number:x}.img", status, fd, target)
        if self._links:
            self._promise = deleted.Promise([path for _, path, _ in self._links])
            new.before_commit(self._promise.keep)
        for _, path, fd in self._links:
            _link(fd, path)
            new.unless_committed(deleted.remove, path)

    def close(self) -> None:
        """Close our descriptors. Links go away, if the checkpoint is not committed."""
        if self._promise is not None:
            self._promise.drop()
        for _, _, fd, _ in self._sources:
            if fd >= 0:
                os.close(fd)
        for _, _, fd in self._links:
            os.close(fd)
        self._sources, self._links = [], []


def _source(link: str, status: os.stat_result, saving: Saving) -> tuple[int, str]:
    """A descriptor for the content, which the tasks cannot change any more, or -1; and a symbolic link's target."""
    if stat.S_ISLNK(status.st_mode):
        fd = os.open(link, os.O_PATH | os.O_CLOEXEC)
        try:
            return -1, os.readlink("", dir_fd=fd)
        finally:
            os.close(fd)
    if not stat.S_ISREG(status.st_mode):
        return -1, ""
    fd = os.open(link, os.O_RDONLY | os.O_NOATIME | os.O_NONBLOCK | os.O_CLOEXEC)
    if not saving.kinds.regular.options.leave_running:
        return fd, ""  # they stand still until the images are written
    try:
        copy = os.memfd_create("pycriu-ghost")
        for start, length in extents(fd, status.st_size):
            os.lseek(copy, start, os.SEEK_SET)
            _send(fd, start, length, copy)
        os.ftruncate(copy, status.st_size)
        return copy, ""
    finally:
        os.close(fd)


def _attributes(link: str) -> list[tuple[str, bytes]]:
    """The extended attributes that are part of a file and no label of a security module: names and values."""
    try:
        names = os.listxattr(link)
    except OSError:  # a file system without them
        return []
    return [(name, os.getxattr(link, name)) for name in names if name.startswith(_ATTRIBUTES)]


def own_entry(number: int, attributes: list[tuple[str, bytes]]) -> Any:
    """Our own entry of a ghost."""
    some = [m.pycriu_attribute(name=os.fsencode(name), value=value) for name, value in attributes]
    return m.pycriu_ghost_entry(id=number, xattr=some)


def _free_link_path(path: str, number: int) -> str:
    """Beside a deleted file; the links of other checkpoints stay."""
    while os.path.lexists(where := f"{os.path.dirname(path)}/{LINK_NAME}{number}"):
        number += 1
    return where


def _link(fd: int, path: str) -> None:
    try:
        os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd)  # linkat(2), which follows the magic link; link(2) does not
    except OSError as error:
        raise UserError(
            f"--link-remap: {path} cannot be made: {os.strerror(error.errno or 0)}",
            "let the task close the deleted file",
        ) from None


def extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Start and length of every stretch of a file that is no hole, in bytes."""
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a hole up to the end
                return
            raise
        at = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        if start < at:
            yield start, at - start


def _send(source: int, start: int, length: int, target: int) -> int:
    """Copy to the target's position; how much there was."""
    done = 0
    while done < length and (sent := os.sendfile(target, source, start + done, min(length - done, _WHOLE))):
        done += sent
    return done


def _write_ghost(new: NewCheckpoint, name: str, status: os.stat_result, fd: int, target: str) -> None:
    device = os.major(status.st_dev) << 20 | os.minor(status.st_dev)  # as the kernel keeps it
    entry: Any = m.ghost_file_entry(
        uid=status.st_uid, gid=status.st_gid, mode=status.st_mode, dev=device & 0xFFFFFFFF, ino=status.st_ino,
        atim=_timeval(status.st_atime_ns), mtim=_timeval(status.st_mtime_ns),
    )  # fmt: skip
    if target:
        entry.symlnk_target = target
    stretches = list(extents(fd, status.st_size)) if fd >= 0 else []
    whole = stretches in ([], [(0, status.st_size)]) and not (status.st_size and not stretches)
    if fd >= 0 and not whole:
        entry.chunks, entry.size = True, status.st_size
    file = new.stream(name, entry)
    for start, length in stretches:
        if not whole:
            new.stream_on(file, name, m.ghost_chunk_entry(len=length, off=start))
        if _copied(new, name, fd, start, length, file) != length:
            raise UserError(f"{name}: the deleted file became shorter while it was written")


def _timeval(ns: int) -> Any:
    return m.timeval(tv_sec=ns // 10**9, tv_usec=ns % 10**9 // 1000)


def _copied(new: NewCheckpoint, name: str, fd: int, start: int, length: int, file: FileIO) -> int:
    try:
        return _send(fd, start, length, file.fileno())
    except OSError as error:
        raise store.refusal(error, f"{new.path}/{name}") from None


# ---------------------------------------------------------------------------------------------------------- restore


class Remaps:
    """The restoring half: which files of an image are not opened by their path, and what is opened in their place."""

    def __init__(self) -> None:
        self._ghosts: dict[int, tuple[str, Any, FileIO, int]] = {}  # id → entry, image, where its content begins
        self._wanted: dict[tuple[int, int], list[Any]] = {}  # remap type and id → the files that lead there
        self._links: dict[int, Any] = {}
        self._remapped: set[int] = set()
        self._opened: dict[int, int] = {}
        self._attributes: dict[int, list[tuple[str, bytes]]] = {}

    def read(self, images: ImagesDir, regs: dict[int, Any]) -> None:
        """remap-fpath.img and the heads of the ghosts, held against the files `regs` of the image."""
        if not images.exists("remap-fpath.img"):
            return
        own: list[Any] = images.read_if_there(OWN)
        self._attributes = {one.id: attributes_of(one) for one in own}
        remap: Any
        for remap in images.read("remap-fpath.img"):
            if remap.remap_type == PROCFS:
                raise ImageError(
                    f"file {remap.orig_id} is in /proc and of a process that has ended", "restore it with criu"
                )
            if remap.orig_id not in regs or remap.orig_id in self._remapped:
                raise ImageError(f"remap-fpath.img: file {remap.orig_id} is unknown, or named twice")
            self._remapped.add(remap.orig_id)
            reg = regs[remap.orig_id]
            check_path(reg)
            self._wanted.setdefault((remap.remap_type, remap.remap_id), []).append(reg)
            if remap.remap_type == LINKED:
                self._links[remap.remap_id] = _checked_link(remap.remap_id, regs, reg)
            elif remap.remap_id not in self._ghosts:
                self._ghosts[remap.remap_id] = _read_ghost(images, remap.remap_id)

    def has(self, number: int) -> bool:
        """Whether a file is opened otherwise than by its path."""
        return number in self._remapped

    def rehearse(self, reg: Any) -> None:
        """UserError where a deleted file could not be made again, or the name that holds it has gone."""
        folder = os.path.dirname(reg.name) or "/"
        if not os.access(folder, os.W_OK | os.X_OK):
            what = "may not be written to" if os.path.isdir(folder) else "is not there"
            raise UserError(f"the folder of the deleted file {reg.name} {what}", "a file is made there for a moment")
        for (kind, number), users in self._wanted.items():
            link = self._links[number].name if kind == LINKED else None
            if link and reg in users and not os.path.lexists(link):
                raise UserError(f"{link}, which holds the deleted file {reg.name}, has gone", "put it back")

    def is_link(self, number: int) -> bool:
        """Whether this is the entry of a hard link that holds a file for others."""
        return number in self._links

    def open(self, number: int) -> int:
        """Our descriptor for the file, without its position. The first call makes everything that is deleted."""
        if self._wanted and not self._opened:
            self._opened = self._make()
        return self._opened.pop(number)

    def _make(self) -> dict[int, int]:
        plans = self._link_plans()
        for (kind, number), regs in self._wanted.items():
            users = tuple((reg.id, reg.flags) for reg in regs)
            if kind != LINKED:
                entry = self._ghosts[number][1]
                plans.append(
                    deleted.Plan(regs[0].name, entry.mode, users, symbolic_link=entry.symlnk_target, ghost=number)
                )
        made = deleted.make(plans)
        try:
            for number, fd in made.ghosts.items():
                _fill(fd, *self._ghosts[number], self._attributes.get(number, []))
        finally:
            for fd in made.ghosts.values():
                os.close(fd)
        return made.users

    def _link_plans(self) -> list[deleted.Plan]:
        """One for each name that a file had: CRIU makes a hard link for each open file, be it the same as another's."""
        found: dict[tuple[str, object], tuple[str, list[Any]]] = {}
        for (kind, number), regs in self._wanted.items():
            if kind == LINKED:
                path = self._links[number].name
                same = found.setdefault((regs[0].name, _identity(path)), (path, []))
                same[1].extend(regs)
        return [
            deleted.Plan(name, stat.S_IFREG, tuple((reg.id, reg.flags) for reg in regs), hard_link=path)
            for (name, _), (path, regs) in found.items()
        ]

    def has_links(self) -> bool:
        """Whether there are hard links that are to go away when the tasks run."""
        return bool(self._links)

    def remove_links(self) -> None:
        """The tasks run: they have what they need."""
        for reg in self._links.values():
            deleted.remove(reg.name)

    def close(self) -> None:
        """Give back what is left."""
        for fd in self._opened.values():
            os.close(fd)
        for _, _, image, _ in self._ghosts.values():
            image.close()
        self._opened, self._ghosts = {}, {}


def check_path(reg: Any) -> None:
    """ImageError unless the path of a reg_file_entry is one that the kernel could have told."""
    parts = reg.name.split("/")
    if not reg.name.startswith("/") or "\0" in reg.name or any(part in ("", ".", "..") for part in parts[1:]):
        raise ImageError(f"the path {reg.name!r} of file {reg.id} is not absolute, or not plain")


def _identity(path: str) -> object:
    """What tells a file from others; its path where it is not there, which will be said when it is opened."""
    try:
        status = os.stat(path, follow_symlinks=False)
    except OSError:
        return path
    return status.st_dev, status.st_ino


def _checked_link(number: int, regs: dict[int, Any], reg: Any) -> Any:
    link = regs.get(number)
    if link is None:
        raise ImageError(f"remap-fpath.img: file {reg.id} leads to file {number}, which is not in the files image")
    check_path(link)
    name = os.path.basename(link.name)
    if not name.startswith(LINK_NAME) or not name.removeprefix(LINK_NAME).isdigit():  # it will be removed
        raise ImageError(
            f"remap-fpath.img: file {reg.id} leads to {link.name!r}, which is no link that a dump has made"
        )
    return link


def _read_ghost(images: ImagesDir, number: int) -> tuple[str, Any, FileIO, int]:
    name = f"ghost-file-{number:x}.img"
    found, file, at = images.head(name)
    entry: Any = found
    kind = stat.S_IFMT(entry.mode)
    wrong = "a kind that is not known" if kind not in _KINDS else ""
    if kind == stat.S_IFLNK and (not entry.symlnk_target or "\0" in entry.symlnk_target):
        wrong = "a symbolic link to nowhere"
    if kind == stat.S_IFREG and entry.chunks and entry.size >= 1 << 62:
        wrong = f"{entry.size} bytes"
    if wrong:
        file.close()
        raise ImageError(f"{name}: the deleted file is {wrong} (mode {entry.mode:o})")
    return name, entry, file, at


def attributes_of(entry: Any) -> list[tuple[str, bytes]]:
    """Names and values of extended attributes; ImageError for what is none of those that are kept."""
    for one in entry.xattr:
        if not one.name.startswith(tuple(known.encode() for known in _ATTRIBUTES)) or b"\0" in one.name:
            raise ImageError(f"{OWN}: {one.name!r} is no extended attribute that a dump keeps")
    return [(os.fsdecode(one.name), one.value) for one in entry.xattr]


def _fill(fd: int, name: str, entry: Any, image: FileIO, at: int, attributes: list[tuple[str, bytes]]) -> None:
    """Content, owner, mode and times of a ghost, which `fd` has open for writing if it has content."""
    try:
        if stat.S_ISREG(entry.mode):
            _fill_content(fd, name, entry, image, at)
        path = f"/proc/self/fd/{fd}"
        os.chown(path, entry.uid, entry.gid)
        if not stat.S_ISLNK(entry.mode):
            os.chmod(path, stat.S_IMODE(entry.mode))
        for key, value in attributes:
            os.setxattr(path, key, value)
        if entry.HasField("atim") and entry.HasField("mtim"):
            times = [at.tv_sec * 10**9 + at.tv_usec * 1000 for at in (entry.atim, entry.mtim)]
            os.utime(path, ns=(times[0], times[1]))
    except (OSError, OverflowError) as error:
        said = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise UserError(f"the deleted file of {name} cannot be made again: {said}") from None


def _fill_content(fd: int, name: str, entry: Any, image: FileIO, at: int) -> None:
    source, end = image.fileno(), os.fstat(image.fileno()).st_size
    if not entry.chunks:
        if _send(source, at, end - at, fd) != end - at:
            raise ImageError(f"{name}: the content is cut short")
        return
    while at < end:
        chunk: Any
        chunk, length = store.nested("ghost_chunk_entry", os.pread(source, _CHUNK_ROOM, at), name)
        at += length
        if chunk.len > end - at or chunk.off > entry.size or chunk.len > entry.size - chunk.off:
            raise ImageError(f"{name}: a chunk of {chunk.len} bytes at {chunk.off} is out of bounds")
        os.lseek(fd, chunk.off, os.SEEK_SET)
        if _send(source, at, chunk.len, fd) != chunk.len:
            raise ImageError(f"{name}: the content is cut short")
        at += chunk.len
    os.ftruncate(fd, entry.size)
