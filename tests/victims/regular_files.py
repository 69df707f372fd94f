# SPDX-License-Identifier: GPL-2.0-only
"""Regular files: position, flags, O_APPEND, a description shared by dup and by fork, a second one of the same file.

Kept: regular files, directories, null zero full random urandom: position, flags, sharing
Missing: the content of files is not copied
"""

import fcntl
import os
from collections.abc import Iterator

import victim


def scenario() -> Iterator[victim.Damage]:
    with open("text", "wb") as made:
        made.write(bytes(range(100)))
    plain = os.open("text", os.O_RDWR)
    os.lseek(plain, 10, os.SEEK_SET)
    twin = os.dup(plain)
    other = os.open("text", os.O_RDONLY)
    append = os.open("appended", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(append, b"one\n")
    os.set_inheritable(twin, True)
    flags = (os.O_SYNC, os.O_DSYNC, os.O_NONBLOCK, os.O_NOFOLLOW | os.O_PATH, os.O_DIRECT, os.O_NOATIME)
    with_flags = [fd for flag in flags if (fd := opened(flag)) >= 0]
    told = [fcntl.fcntl(fd, fcntl.F_GETFL) for fd in with_flags]
    turn, my_turn = os.pipe()
    reader = victim.child(lambda: read_shared(turn, my_turn, twin))
    os.close(turn)
    yield lambda: os.lseek(plain, 0, os.SEEK_SET)
    os.write(my_turn, b"x")
    victim.join(reader, "the child that shares the position")
    victim.equal(os.read(plain, 3), bytes([15, 16, 17]), "what the shared position reads after the child read 5")
    victim.equal(os.lseek(twin, 0, os.SEEK_CUR), 18, "the position seen through the duplicate")
    victim.equal([fcntl.fcntl(fd, fcntl.F_GETFL) for fd in with_flags], told, "the flags of files with flags")
    victim.equal(os.lseek(other, 0, os.SEEK_CUR), 0, "the position of the other description")
    victim.check(os.get_inheritable(twin) and not os.get_inheritable(plain), "close-on-exec changed")
    os.lseek(append, 0, os.SEEK_SET)
    os.write(append, b"two\n")
    with open("appended", "rb") as appended:
        victim.equal(appended.read(), b"one\ntwo\n", "what was appended")


def opened(flag: int) -> int:
    try:
        return os.open("text", os.O_RDONLY | flag)
    except OSError:  # O_DIRECT, O_NOATIME: not on every file system, not for everybody
        return -1


def read_shared(turn: int, my_turn: int, fd: int) -> None:
    os.close(my_turn)
    os.read(turn, 1)
    victim.equal(os.read(fd, 5), bytes(range(10, 15)), "what the child reads at the shared position")


victim.play(scenario)
