# SPDX-License-Identifier: GPL-2.0-only
"""Groups of marks on files, mounts and file systems, with what they ignore, and how they were made.

Missing: groups that decide who may open files, events that nobody has read yet (both refused).
"""

import ctypes
import os
import struct
from collections.abc import Iterator

import victim

ADD, REMOVE, MOUNT, FILESYSTEM, IGNORED_MASK, SURVIVES = 1, 2, 0x10, 0x100, 0x20, 0x40
MODIFY, CLOSE_WRITE, OPEN, OPEN_EXEC, ON_CHILD = 0x2, 0x8, 0x20, 0x1000, 0x08000000
CLOEXEC, NONBLOCK, REPORT_TID = 1, 2, 0x100
libc = ctypes.CDLL(None, use_errno=True)
MARK = [ctypes.c_int, ctypes.c_uint, ctypes.c_uint64, ctypes.c_int, ctypes.c_char_p]


def scenario() -> Iterator[victim.Damage]:
    try:
        libc.fanotify_mark.argtypes = MARK
        fd = libc.fanotify_init(CLOEXEC | NONBLOCK | REPORT_TID, os.O_RDONLY | os.O_CLOEXEC)
    except AttributeError:
        fd = -1
    if fd < 0:
        victim.skip(f"fanotify_init: {os.strerror(ctypes.get_errno())}")
    os.mkdir("folder")
    touch("file")
    mark(fd, 0, MODIFY | CLOSE_WRITE | ON_CHILD, "folder")
    mark(fd, 0, OPEN | MODIFY, "file")
    mark(fd, IGNORED_MASK | SURVIVES, OPEN, "file")
    mark(fd, MOUNT, OPEN_EXEC, "/proc")
    mark(fd, FILESYSTEM, OPEN_EXEC, "/proc")
    before = info(fd)
    yield lambda: mark(fd, ADD | REMOVE, MODIFY, "file")
    victim.equal(victim.unread(fd), 0, "bytes of events that nobody made")
    victim.equal(info(fd), before, "the marks")
    victim.check(not os.get_blocking(fd), "O_NONBLOCK was lost")
    touch("folder/new")
    victim.equal(events(fd), [("new", MODIFY | CLOSE_WRITE, os.getpid())], "the events of the folder")
    touch("file")
    victim.equal(events(fd), [("file", MODIFY, os.getpid())], "the events of the file")


def touch(name: str) -> None:
    with open(name, "a", encoding="ascii") as file:
        file.write("x")


def mark(fd: int, flags: int, mask: int, name: str) -> None:
    done = libc.fanotify_mark(fd, flags ^ ADD, mask, -100, name.encode())
    victim.equal(done, 0, f"fanotify_mark({name}): {os.strerror(ctypes.get_errno())}")


def events(fd: int) -> list[tuple[str, int, int]]:
    """The last word of the path, mask and thread of what has happened."""
    found = []
    data = os.read(fd, 1 << 16) if victim.unread(fd) else b""
    while data:
        size, _, _, _, mask, opened, who = struct.unpack_from("=IBBHQii", data)
        found.append((os.path.basename(os.readlink(f"/proc/self/fd/{opened}")), mask, who))
        os.close(opened)
        data = data[size:]
    return found


def info(fd: int) -> list[str]:
    """Every line about the group and its marks, without numbers of mounts."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
        return sorted(line for line in file if line.startswith("fanotify "))


victim.play(scenario)
