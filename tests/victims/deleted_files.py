# SPDX-License-Identifier: GPL-2.0-only
"""Deleted files: content with holes, position, flags, owner, mode, times, extended attributes, the name in
/proc; one shared by two open
files, one of a child, a replaced one, one without a name (O_TMPFILE), a deleted directory with a file in it.

Missing: more than --ghost-limit (1 MiB).
"""

import contextlib
import os
import stat
from collections.abc import Iterator

import victim

HOLE = 300_000
WHEN = (1_000_000_000_000_000_000, 1_100_000_000_123_456_000)


def scenario() -> Iterator[victim.Damage]:
    plain = sparse_file("gone")
    again = os.open(f"/proc/self/fd/{plain}", os.O_RDONLY)
    os.lseek(again, 3, os.SEEK_SET)
    replaced = replaced_file()
    nameless = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600)
    os.write(nameless, b"nameless")
    folder, inner = deleted_folder()
    turn, my_turn = os.pipe()
    os.set_inheritable(plain, True)
    reader = victim.child(lambda: read_and_write(turn, my_turn, plain))
    os.close(turn)
    before = told(plain, again, replaced, nameless, folder, inner)
    yield lambda: os.pwrite(plain, b"damage", 0)
    for now, then in zip(told(plain, again, replaced, nameless, folder, inner), before, strict=True):
        victim.equal(now, then, "what fstat and /proc tell")
    left = [name for name in os.listdir(".") if name.startswith((".pycriu", "gone", "above", "#"))]
    victim.equal(left, [], "names that a restore has left")
    victim.equal(os.stat(plain).st_blocks * 512 < HOLE, True, "the hole is one")
    victim.equal(os.read(again, 5), b"34567", "what the second open file reads")
    os.write(my_turn, b"x")
    victim.join(reader, "the child that shares the file")
    victim.equal(os.pread(again, 13, HOLE), b"end and child", "what the child wrote, seen by the other open file")
    victim.equal(os.pread(replaced, 10, 0), b"the old on", "the replaced file")
    with open("replaced", "rb") as new:
        victim.equal(new.read(), b"the new one", "the file in its place")
    victim.equal(os.pread(inner, 10, 0), b"inner", "the file in the deleted directory")
    victim.equal(os.listdir(folder), [], "the deleted directory")
    os.link(f"/proc/self/fd/{nameless}", "named", src_dir_fd=nameless)  # linkat(2), which follows the magic link
    with open("named", "rb") as named:
        victim.equal(named.read(), b"nameless", "the file that had no name")


def sparse_file(name: str) -> int:
    fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(fd, b"0123456789")
    os.truncate(fd, HOLE)
    os.write(fd, b"end")
    os.fchmod(fd, 0o2640)
    if os.geteuid() == 0:
        os.fchown(fd, 12, 34)
        os.fchmod(fd, 0o2640)
    with contextlib.suppress(OSError):  # not every file system has them
        os.setxattr(fd, "user.victim", b"attribute")
    os.utime(fd, ns=WHEN)
    os.unlink(name)
    return fd


def replaced_file() -> int:
    for name, content in (("replaced", b"the old one"), ("new", b"the new one")):
        with open(name, "wb") as file:
            file.write(content)
    fd = os.open("replaced", os.O_RDONLY)
    os.rename("new", "replaced")
    return fd


def deleted_folder() -> tuple[int, int]:
    os.makedirs("above/folder")
    folder = os.open("above/folder", os.O_RDONLY | os.O_DIRECTORY)
    inner = os.open("above/folder/inner", os.O_RDWR | os.O_CREAT, 0o600)
    os.write(inner, b"inner")
    os.unlink("above/folder/inner")
    os.rmdir("above/folder")
    os.rmdir("above")
    return folder, inner


def told(*fds: int) -> list[object]:
    found: list[object] = []
    for fd in fds:
        status = os.fstat(fd)
        link = os.readlink(f"/proc/self/fd/{fd}")
        what = [
            stat.filemode(status.st_mode),
            status.st_nlink,
            status.st_uid,
            status.st_gid,
            status.st_mtime_ns // 1000,
        ]
        # Who has no name is called by his inode, which is another each time; whose name is taken gets another.
        kept = os.path.dirname(link) if "/#" in link or "/replaced" in link or "/.pycriu" in link else link
        found.append([*what, kept, os.lseek(fd, 0, os.SEEK_CUR), attributes(fd)])
    return found


def attributes(fd: int) -> list[str]:
    try:
        return [name for name in os.listxattr(fd) if name.startswith("user.")]
    except OSError:
        return []


def read_and_write(turn: int, my_turn: int, fd: int) -> None:
    os.close(my_turn)
    os.read(turn, 1)
    victim.equal(os.pread(fd, 4, 0), b"0123", "what the child reads")
    os.write(fd, b" and child")  # O_APPEND


victim.play(scenario)
