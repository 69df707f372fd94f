# SPDX-License-Identifier: GPL-2.0-only
"""Watches on directories, files, links, and files that have moved: their numbers, masks, one-shot and no-follow ones.

Missing: events that nobody has read yet and watches on deleted files (refused); nobody is told of changes while away.
"""

import ctypes
import os
import struct
from collections.abc import Iterator

import victim

MODIFY, CREATE, MOVED_TO, CLOSE_WRITE, ONESHOT, DONT_FOLLOW, EXCL_UNLINK, IGNORED = (
    0x2, 0x100, 0x80, 0x8, 0x80000000, 0x02000000, 0x04000000, 0x8000,
)  # fmt: skip
libc = ctypes.CDLL(None, use_errno=True)
libc.inotify_add_watch.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32]


def scenario() -> Iterator[victim.Damage]:
    fd, second = libc.inotify_init1(os.O_NONBLOCK), libc.inotify_init1(0)
    victim.check(fd >= 0, "inotify_init1")
    os.mkdir("folder")
    for name in ("file", "once", "moving", "gone"):
        touch(name)
    os.symlink("folder", "link")
    folder, gone, file = watch(fd, "folder", 0xFFF), watch(fd, "gone", MODIFY), watch(fd, "file", MODIFY)
    once, link = watch(fd, "once", MODIFY | ONESHOT), watch(fd, "link", 0xFFF | DONT_FOLLOW)
    moving = watch(fd, "moving", MODIFY | CLOSE_WRITE | EXCL_UNLINK)
    other = watch(second, "file", CLOSE_WRITE)
    os.rename("moving", "folder/moved")
    victim.equal(libc.inotify_rm_watch(fd, gone), 0, "inotify_rm_watch")
    events(fd)
    before = watches(fd), watches(second)
    yield lambda: libc.inotify_rm_watch(fd, file)
    victim.equal(victim.unread(fd), 0, "bytes of events that nobody made")
    victim.equal((watches(fd), watches(second)), before, "the watches")
    victim.check(not os.get_blocking(fd) and os.get_blocking(second), "O_NONBLOCK")
    touch("folder/new")
    got = events(fd)
    victim.check(
        (folder, CREATE, b"new") in got and (folder, CLOSE_WRITE, b"new") in got, f"events of the folder: {got}"
    )
    touch("file")
    victim.equal(events(fd), [(file, MODIFY, b"")], "the events of the file")
    victim.equal([number for number, _, _ in events(second)], [other], "the events of the second set")
    touch("once")
    touch("once")
    victim.equal(events(fd), [(once, MODIFY, b""), (once, IGNORED, b"")], "the events of the watch for one event")
    touch("folder/moved")
    victim.check((moving, CLOSE_WRITE, b"") in events(fd), "the file that has moved is not watched any more")
    os.unlink("link")
    victim.check(any(number == link for number, _, _ in events(fd)), "the link is not watched any more")
    victim.check(watch(fd, "gone", MODIFY) > moving, "a new watch has the number of an old one")


def touch(name: str) -> None:
    with open(name, "a", encoding="ascii") as file:
        file.write("x")


def watch(fd: int, name: str, mask: int) -> int:
    number: int = libc.inotify_add_watch(fd, name.encode(), mask)
    victim.check(number > 0, f"inotify_add_watch({name})")
    return number


def events(fd: int) -> list[tuple[int, int, bytes]]:
    """Watch, mask and name of what has happened."""
    found = []
    data = os.read(fd, 1 << 16) if victim.unread(fd) else b""
    while data:
        number, mask, _, size = struct.unpack_from("=iIII", data)
        found.append((number, mask, data[16 : 16 + size].rstrip(b"\0")))
        data = data[16 + size :]
    return found


def watches(fd: int) -> list[list[str]]:
    """Number, inode, device and mask of every watch."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as info:
        return sorted(line.split()[1:5] for line in info if line.startswith("inotify "))


victim.play(scenario)
