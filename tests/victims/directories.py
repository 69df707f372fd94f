# SPDX-License-Identifier: GPL-2.0-only
"""Open directories: position in the middle and at the end of a listing, O_PATH descriptors of directories, files and
symbolic links, and what is opened relative to them.
"""

import ctypes
import os
from collections.abc import Iterator

import victim

LIBC = ctypes.CDLL(None, use_errno=True)
GETDENTS64 = {"x86_64": 217}.get(os.uname().machine, 61)
FILES = 400


def scenario() -> Iterator[victim.Damage]:
    os.mkdir("many")
    for number in range(FILES):
        with open(f"many/file-{number}", "w", encoding="ascii"):
            pass
    os.symlink("nowhere", "link")
    half = os.open("many", os.O_RDONLY | os.O_DIRECTORY)
    first = listed(half, once=True)
    ended = os.open("many", os.O_RDONLY | os.O_DIRECTORY)
    listed(ended)
    path = os.open("many", os.O_PATH)
    link = os.open("link", os.O_PATH | os.O_NOFOLLOW)
    file = os.open("many/file-7", os.O_PATH)
    yield lambda: os.lseek(half, 0, os.SEEK_SET)
    rest = listed(half)
    victim.equal(sorted(first + rest), sorted([".", "..", *(f"file-{n}" for n in range(FILES))]), "the whole listing")
    victim.equal(listed(ended), [], "what comes after the end")
    victim.check(os.path.samestat(os.stat("file-9", dir_fd=path), os.stat("many/file-9")), "the O_PATH directory")
    victim.equal(os.readlink("", dir_fd=link), "nowhere", "the O_PATH symbolic link")
    victim.check(os.path.samestat(os.fstat(file), os.stat("many/file-7")), "the O_PATH file")
    try:
        os.read(file, 1)
    except OSError as error:
        victim.equal(error.errno, 9, "the error of read(2) on an O_PATH descriptor")
    else:
        victim.check(False, "an O_PATH descriptor can be read")


def listed(fd: int, *, once: bool = False) -> list[str]:
    """Names from the present position on, by the system call itself: opendir(3) would read ahead."""
    buffer = ctypes.create_string_buffer(2048)
    names = []
    while (size := LIBC.syscall(GETDENTS64, fd, buffer, ctypes.c_long(len(buffer)))) > 0:
        at = 0
        while at < size:
            length = int.from_bytes(buffer.raw[at + 16 : at + 18], "little")
            names.append(buffer.raw[at + 19 : at + length].partition(b"\0")[0].decode())
            at += length
        if once:
            return names
    victim.equal(size, 0, "the result of getdents64(2)")
    return names


victim.play(scenario)
