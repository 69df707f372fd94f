# SPDX-License-Identifier: GPL-2.0-only
"""How a new checkpoint takes the place of an old one: what is on disk at each moment, and who finishes it.

D is the images directory. It holds one whole checkpoint or none, the old one until the new one is whole; a power cut, a
kill or a full disk at any moment changes nothing about that.

    state  D/*.img            beside them                     the checkpoint is   who goes on
    S0     old, or none       -                               the old one         -
    S1     old                .pycriu-new/     growing        the old one         the next dump removes it
    S2     old                .pycriu-new/     whole, synced  the old one         the next dump removes it
    S3     old                .pycriu-whole/   <- commit      the new one         whoever opens D next
    S4     fewer and fewer    .pycriu-whole/                  the new one         whoever opens D next
    S5     none               .pycriu-moving/                 the new one         whoever opens D next
    S6     new, all but       .pycriu-moving/  inventory.img  the new one         whoever opens D next
           inventory.img
    S7     new                -                               the new one         -

The commit is one rename(2) of a directory, and the only one that is synced: from there on every state leads to S7, and
file systems that keep the order of renames and removals (all with a journal or copy on write do) show no other. Where D
holds no images, S2 becomes S5 at once. From S3 on, readers that may not write (a read-only disk) find the new one in
place. CRIU, which knows nothing of this, sees the old checkpoint up to S3, no inventory from S4 to S6 and refuses, and
the new checkpoint from S7.

Files in D that are no images (a log, a pidfile) stay as they are. Everything happens under flock(2) on D.
"""

from __future__ import annotations

import errno
import fcntl
import os

from pycriu.errors import ImageError, UserError
from pycriu.images import catalogue

NEW, WHOLE, MOVING = ".pycriu-new", ".pycriu-whole", ".pycriu-moving"
INVENTORY = "inventory.img"
PARENT = "parent"  # symlink to the images of an earlier dump; comes and goes with the images

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def is_image(name: str) -> bool:
    """Whether a file in D belongs to a checkpoint. Service files (statistics) belong to the run, not to it."""
    kind = catalogue.lookup(name)
    return name == PARENT or (kind is not None and kind.framing != catalogue.SERVICE)


def open_directory(path: str) -> int:
    """A descriptor of D; UserError if there is no such directory."""
    try:
        return os.open(path, _DIRECTORY)
    except OSError as error:
        raise UserError(
            f"{path}: {os.strerror(error.errno or 0)}",
            hint="-D names the directory of the images; it must exist: mkdir -p",
        ) from None


def lock(directory: int, path: str, *, exclusive: bool) -> None:
    """Lock D against other runs for as long as the descriptor is open; UserError if another one has it."""
    try:
        fcntl.flock(directory, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"{path}: another dump or restore is at work in this directory", hint="wait for it, or take another -D"
        ) from None


def subdirectory(directory: int, name: str) -> int | None:
    """A descriptor of a directory in D that is really in D; None if there is none."""
    try:
        return os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        raise ImageError(f"{name}: not a directory", hint="move it away; who put it there?") from None


def begin(directory: int) -> int:
    """S0 -> S1: an empty place for the new images; what an interrupted dump left is removed."""
    remove(directory)
    os.mkdir(NEW, 0o700, dir_fd=directory)
    return os.open(NEW, _DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)


def remove(directory: int) -> None:
    """S1 or S2 -> S0."""
    place = subdirectory(directory, NEW)
    if place is None:
        return
    try:
        for name in os.listdir(place):
            os.unlink(name, dir_fd=place)
    finally:
        os.close(place)
    os.rmdir(NEW, dir_fd=directory)


def publish(directory: int) -> None:
    """S2 -> S7. The files of the new checkpoint, and the directory that they are in, are synced already."""
    os.rename(NEW, WHOLE if _images(directory) else MOVING, src_dir_fd=directory, dst_dir_fd=directory)
    os.fsync(directory)
    finish(directory)


def unfinished(directory: int) -> str | None:
    """Which of WHOLE and MOVING is there: the new checkpoint is in it."""
    for name in (WHOLE, MOVING):
        place = subdirectory(directory, name)
        if place is not None:
            os.close(place)
            return name
    return None


def finish(directory: int) -> None:
    """S3, S4, S5 or S6 -> S7, wherever it stopped; nothing to do in S0, S1, S2 and S7."""
    if unfinished(directory) == WHOLE:
        for name in sorted(_images(directory), key=lambda name: name != INVENTORY):  # first, so that none looks whole
            os.unlink(name, dir_fd=directory)
        os.rename(WHOLE, MOVING, src_dir_fd=directory, dst_dir_fd=directory)
    place = subdirectory(directory, MOVING)
    if place is None:
        return
    try:
        _move(place, directory)
    finally:
        os.close(place)
    os.rmdir(MOVING, dir_fd=directory)


def _move(place: int, directory: int) -> None:
    names = os.listdir(place)
    for name in names:
        if not is_image(name):
            raise ImageError(f"{MOVING}/{name}: no image has this name", hint="move it away; who put it there?")
        if name != INVENTORY:
            os.rename(name, name, src_dir_fd=place, dst_dir_fd=directory)
    if INVENTORY in names:
        os.rename(INVENTORY, INVENTORY, src_dir_fd=place, dst_dir_fd=directory)


def _images(directory: int) -> list[str]:
    return [name for name in os.listdir(directory) if is_image(name)]
