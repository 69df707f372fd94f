# SPDX-License-Identifier: GPL-2.0-only
"""Probes of what concerns mounts. They are made in a mount namespace of a child's, and go with it."""

from __future__ import annotations

import mmap
import os

from pycriu.probes.subject import CLONE_NEWNS, Absent, Subject, apart, called

MS_BIND, MS_REC, MS_PRIVATE, MS_SHARED = 0x1000, 0x4000, 0x40000, 0x100000
AT_FDCWD, MOVE_MOUNT_SET_GROUP = -100, 0x100
_PLACES = ("/tmp", "/mnt", "/dev", "/sys")


def own_folder() -> str:
    """In a mount namespace of our own: a folder on a file system that nobody else sees."""
    called("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    place = next(path for path in _PLACES if os.path.isdir(path))
    called("mount", b"pycriu", os.fsencode(place), b"tmpfs", 0, None)
    return place


def set_group(_subject: Subject) -> None:
    """move_mount(2) puts a mount into the group of another."""

    def work() -> None:
        folder = own_folder()
        one, other = (os.fsencode(f"{folder}/{name}") for name in ("one", "other"))
        for path in (one, other):
            os.mkdir(path)
        called("mount", b"pycriu", one, b"tmpfs", 0, None)
        called("mount", one, other, None, MS_BIND, None)
        called("mount", b"none", one, None, MS_SHARED, None)
        called("move_mount", AT_FDCWD, one, AT_FDCWD, other, MOVE_MOUNT_SET_GROUP)
        groups = [line.split(" - ")[0].split()[6:] for line in _mounts() if f" {folder}/o" in line]
        if len(groups) != 2 or groups[0] != groups[1]:
            raise Absent("the two mounts are not in one group afterwards")

    apart(CLONE_NEWNS, work, "move_mount")


def overlay_in_maps(_subject: Subject) -> None:
    """A mapped file of an overlay is the same in /proc/PID/maps and for stat(2)."""

    def work() -> None:
        folder = own_folder()
        for name in ("low", "lower", "all"):
            os.mkdir(f"{folder}/{name}")
        with open(f"{folder}/low/file", "wb") as file:
            file.write(bytes(mmap.PAGESIZE))
        below = os.fsencode(f"lowerdir={folder}/low:{folder}/lower")
        called("mount", b"pycriu", os.fsencode(f"{folder}/all"), b"overlay", 0, below)
        with open(f"{folder}/all/file", "rb") as file:
            status = os.fstat(file.fileno())
            wanted = f" {os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x} {status.st_ino} "
            with mmap.mmap(file.fileno(), mmap.PAGESIZE, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ):
                found = [line for line in _lines("/proc/self/maps") if "/all/file" in line]
        if not found or wanted not in found[0]:
            raise Absent("/proc/PID/maps shows the file of an overlay by the numbers of the one below it")

    apart(CLONE_NEWNS, work, "mount")


def autofs(_subject: Subject) -> None:
    """A mount of automounts tells the inode of its pipe."""

    def work() -> None:
        folder = own_folder()
        os.mkdir(f"{folder}/auto")
        _, writer = os.pipe()
        options = f"fd={writer},pgrp={os.getpgrp()},minproto=5,maxproto=5,direct"
        called("mount", b"pycriu", os.fsencode(f"{folder}/auto"), b"autofs", 0, options.encode())
        if not any(f" {folder}/auto " in line and "pipe_ino=" in line for line in _mounts()):
            raise Absent("/proc/PID/mountinfo does not tell the pipe of an autofs mount")

    apart(CLONE_NEWNS, work, "mount")


def _mounts() -> list[str]:
    return _lines("/proc/self/mountinfo")


def _lines(path: str) -> list[str]:
    with open(path) as file:
        return file.read().splitlines()
