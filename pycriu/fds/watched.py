# SPDX-License-Identifier: GPL-2.0-only
"""What inotify and fanotify watch: by inode and handle in fdinfo, by path in an image.

The kernel keeps no path. A handle leads back to the object where its file system can resolve one; where it cannot, as
on overlayfs, the paths are searched, the likely ones first.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat

from pycriu.errors import ImageError, KernelError, Unsupported, UserError
from pycriu.fds.openfile import OpenFile
from pycriu.images import messages as m
from pycriu.kernel import libc, procfs
from pycriu.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HANDLE_WORDS = 16  # fh_entry_sizes.min_entries: as many as CRIU writes, and reads
MAX_HANDLE = 128  # bytes, MAX_HANDLE_SZ
# Where programs watch files most often: their configuration, their spool, what they log.
LIKELY = ("/etc", "/run", "/var/spool", "/var/log", "/usr/share/dbus-1", "/usr/share/polkit-1", "/lib/udev")
BUDGET = 100_000  # names looked at, without --force-irmap
_NO_HANDLE = 0


@record
class Target:
    """An object of a file system as fdinfo names it."""

    device: int  # the kernel's number, major << 20 | minor
    inode: int
    handle_type: int = _NO_HANDLE
    handle: bytes = b""


@record
class Mount:
    """A line of /proc/self/mountinfo."""

    id: int
    device: int
    root: str
    point: str


def fields(line: str) -> dict[str, str]:
    """`inotify wd:1 ino:2` → wd, ino."""
    return {name: value for name, _, value in (word.partition(":") for word in line.split()[1:])}


def target(words: dict[str, str]) -> Target:
    """The object of a line of fdinfo; all numbers are hexadecimal (fs/notify/fdinfo.c)."""
    handle = bytes.fromhex(words.get("f_handle", ""))[: int(words.get("fhandle-bytes", "0"), 16)]
    handle_type = int(words.get("fhandle-type", "0"), 16)
    return Target(int(words["sdev"], 16), int(words["ino"], 16), handle_type, handle)


def mounts() -> list[Mount]:
    """All mounts, in the order in which they hide each other."""
    found = []
    for line in procfs.text("self", "mountinfo").split("\n"):
        words = line.split(" ")
        if len(words) > 4:
            major, _, minor = words[2].partition(":")
            root, point = (_unescaped(word) for word in words[3:5])
            found.append(Mount(int(words[0]), int(major) << 20 | int(minor), root, point))
    return found


def _unescaped(word: str) -> str:
    head, *rest = word.split("\\")
    return head + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest)


def unread(file: OpenFile) -> int:
    """Bytes of events that nobody has read yet (FIONREAD)."""
    fd = file.borrow()
    try:
        return libc.unread(fd)
    finally:
        os.close(fd)


def refuse_unread(file: OpenFile) -> None:
    """Unsupported where there are events that nobody could give back."""
    size = unread(file)
    if size:
        raise Unsupported(
            f"{file.name} has {size} bytes of events that nobody has read, and no call can put them back",
            "let the task read them, then dump again",
        )


class Paths:
    """Paths of watched objects, each looked up once: at the survey, so that nobody has to wait for it when stopped."""

    def __init__(self, options: Any) -> None:
        self._everywhere: bool = getattr(options, "force_irmap", False)
        self._first: tuple[str, ...] = getattr(options, "irmap_scan_path", ())
        self._known: dict[Target, tuple[str, int]] = {}  # path, device as stat(2) shows it

    def of(self, file: OpenFile, wanted: Target) -> str:
        """The path of what `file` watches; Unsupported where it has none any more, or where it cannot be found."""
        known = self._known.get(wanted)
        if known is None or not _leads_to(known[0], wanted, known[1]):
            known = self._known[wanted] = self._find(file, wanted)
        return known[0]

    def _find(self, file: OpenFile, wanted: Target) -> tuple[str, int]:
        what = f"{file.name} watches inode {wanted.inode} of device {wanted.device >> 20}:{wanted.device & 0xFFFFF}"
        there = [mount for mount in mounts() if mount.device == wanted.device]
        if not there:
            raise Unsupported(f"{what}, which is not mounted here", "let the task end that watch")
        found = _by_handle(there, wanted, what) or self._by_search(file.pid, there, wanted)
        if found is None:
            hint = (
                "let the task end that watch" if self._everywhere else "--force-irmap searches all of its file system"
            )
            raise Unsupported(f"{what}, whose path cannot be found", hint)
        if not procfs.is_utf8(found[0]):
            raise Unsupported(f"{what}: its path is not UTF-8 ({found[0]!a}), which no image can hold", "rename it")
        return found

    def _by_search(self, pid: int, there: list[Mount], wanted: Target) -> tuple[str, int] | None:
        roots = [procfs.link(pid, "cwd"), os.path.dirname(procfs.link(pid, "exe")), *LIKELY]
        roots += [mount.point for mount in there]
        for root in self._first:
            path, _ = search(root, wanted, None)
            if found := _found(path):
                return found
        budget = None if self._everywhere else BUDGET
        for root in roots:
            path, budget = search(root, wanted, budget)
            if found := _found(path):
                return found
        return None


def _found(path: str) -> tuple[str, int] | None:
    try:
        return (path, os.lstat(path).st_dev) if path else None
    except FileNotFoundError:  # it has gone meanwhile
        return None


def _by_handle(there: list[Mount], wanted: Target, what: str) -> tuple[str, int] | None:
    fd = open_handle(there, wanted)
    if fd < 0:
        return None
    try:
        path, status = os.readlink(f"/proc/self/fd/{fd}"), os.fstat(fd)
    finally:
        os.close(fd)
    if not status.st_nlink:
        raise Unsupported(f"{what}, which has been deleted ({path})", "let the task end that watch")
    here = path.startswith("/") and _leads_to(path, wanted, status.st_dev)
    return (path, status.st_dev) if here else None  # an object that nobody has looked up by name shows a path of /


def open_handle(there: list[Mount], wanted: Target) -> int:
    """An O_PATH descriptor by handle, on any of these mounts; -1 where the handle does not lead anywhere."""
    if wanted.handle_type == _NO_HANDLE or not wanted.handle:
        return -1
    raw = len(wanted.handle).to_bytes(4, "little") + wanted.handle_type.to_bytes(4, "little") + wanted.handle
    handle = ctypes.create_string_buffer(raw)
    for mount in sorted(there, key=lambda one: one.root != "/"):
        try:
            base = os.open(mount.point, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            return libc.call("open_by_handle_at", base, ctypes.addressof(handle), os.O_PATH | os.O_CLOEXEC)
        except KernelError:
            continue  # stale, or of a file system that makes handles and does not read them
        finally:
            os.close(base)
    return -1


def _leads_to(path: str, wanted: Target, device: int) -> bool:
    """Whether the object is there; `device` as stat(2) shows it: on btrfs and overlayfs fdinfo shows another."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == (device, wanted.inode)


def search(root: str, wanted: Target, budget: int | None) -> tuple[str, int | None]:
    """Look for an inode at and below `root`, on its file system only; the path, and what is left of the budget."""
    try:
        home = os.lstat(root)
    except OSError:
        return "", budget
    if _device(home) != wanted.device:
        return "", budget
    if home.st_ino == wanted.inode:
        return root, budget
    waiting = [root] if stat.S_ISDIR(home.st_mode) else []
    while waiting and budget != 0:
        for entry in _entries(waiting.pop()):
            budget = budget if budget is None else max(budget - 1, 0)
            if entry.inode() == wanted.inode and _leads_to(entry.path, wanted, home.st_dev):
                return entry.path, budget
            if _is_folder_on(entry, home.st_dev):
                waiting.append(entry.path)
    return "", budget


def _is_folder_on(entry: os.DirEntry[str], device: int) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_dev == device
    except OSError:  # it has gone meanwhile
        return False


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        return list(os.scandir(folder))
    except OSError:
        return []


def _device(status: os.stat_result) -> int:
    return os.major(status.st_dev) << 20 | os.minor(status.st_dev)


_LIMITS = {
    "inotify_init1": "sysctl fs.inotify.max_user_instances",
    "inotify_add_watch": "sysctl fs.inotify.max_user_watches",
    "fanotify_init": "sysctl fs.fanotify.max_user_groups",
    "fanotify_mark": "sysctl fs.fanotify.max_user_marks",
}


def limited(name: str, *args: int, what: str) -> int:
    """A call that fails where somebody has too many of something already; then the error tells which limit it is."""
    try:
        return libc.call(name, *args, what=what)
    except KernelError as error:
        if error.errno in (errno.EMFILE, errno.ENOSPC):
            error.hint = f"raise the limit: {_LIMITS[name]}"
        raise


# ------------------------------------------------------------------------------------------------------------- images


def handle_entry(wanted: Target, path: str) -> Any:
    """fh_entry: the handle as words of 64 bits, as many as CRIU has."""
    data = wanted.handle.ljust(8 * HANDLE_WORDS, b"\0")
    words = [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8)]
    return m.fh_entry(bytes=len(wanted.handle), type=wanted.handle_type, handle=words, path=path)


def read_target(device: int, inode: int, handle: Any) -> Target:
    """The object that an image means; ImageError where it cannot be one."""
    data = b"".join(word.to_bytes(8, "little") for word in handle.handle[: MAX_HANDLE // 8])
    if handle.bytes > len(data):
        raise ImageError(f"the handle of inode {inode} has {handle.bytes} bytes, of which {len(data)} are there")
    if handle.path and (not handle.path.startswith("/") or "\0" in handle.path):
        raise ImageError(f"the path {handle.path!r} of a watch is not absolute")
    return Target(device, inode, handle.type & 0x7FFFFFFF, data[: handle.bytes])


def reopen(wanted: Target, path: str, who: str) -> int:
    """An O_PATH descriptor for what was watched, at its path or where it has moved to; UserError if it is gone.

    An object of the same inode wins; where there is none any more, whatever has taken its path.
    """
    at_path = -1
    if path:
        try:
            at_path = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            reason = error.strerror
        if at_path >= 0 and os.fstat(at_path).st_ino == wanted.inode:
            return at_path
    else:
        reason = "its path is not known"
    fd = open_handle([mount for mount in mounts() if mount.device == wanted.device], wanted)
    if fd >= 0 and os.fstat(fd).st_ino == wanted.inode:
        if at_path >= 0:
            os.close(at_path)
        return fd
    if fd >= 0:
        os.close(fd)
    if at_path < 0:
        raise UserError(
            f"{path or f'inode {wanted.inode}'}, which {who} watches, cannot be opened: {reason}",
            "put it back where it was",
        )
    return at_path
