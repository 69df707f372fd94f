# SPDX-License-Identifier: GPL-2.0-only
"""Which sets of images build upon one: a symbolic link in it for each, `.pycriu-child-DEVICE-INODE`, to its directory.

The set that builds upon another says so by its own link, `parent`; this is the way back, for `pycriu gc`. What it leads
to may have been removed, replaced or moved since, and devices are numbered anew at each boot: what is found is a place
to look for such a `parent`, no more. Sets of CRIU are not noted.
"""

from __future__ import annotations

import errno
import os
import stat

PREFIX = ".pycriu-child-"
_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)  # what a link may say that leads to nothing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pycriu.log import Log


def note(parent: str, child: str, log: Log) -> None:
    """Write down that the set in the directory `child` builds upon that in `parent`; told where that cannot be."""
    try:
        status, target = os.stat(child), os.path.realpath(child)
        link = os.path.join(parent, f"{PREFIX}{status.st_dev:x}-{status.st_ino:x}")
        if os.path.lexists(link):
            os.unlink(link)
        os.symlink(target, link)
    except OSError as error:
        said = "%s cannot be told that %s builds upon it (%s): pycriu gc knows if it is given both"
        log.warn(said, parent, child, error.strerror)


def noted(path: str) -> Iterator[tuple[str, str | None]]:
    """For each note of a set: where the other one was, and where that directory is; None where it is not found.

    OSError where one cannot be looked at. A set that is removed meanwhile has none.
    """
    for name in sorted(_names(path)):
        if name.startswith(PREFIX) and (was := _target(os.path.join(path, name))) is not None:
            yield was, _find(was, name[len(PREFIX) :])


def _names(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except FileNotFoundError:
        return []


def _target(link: str) -> str | None:
    """Of a symbolic link; None for what is none, or is there no more."""
    try:
        return os.readlink(link)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return None


def is_note(name: str) -> bool:
    """Whether a file beside images is one."""
    return name.startswith(PREFIX)


def _find(was: str, identity: str) -> str | None:
    """It, at its place, or beside that under another name; or else whatever directory has its place."""
    inode = identity.rpartition("-")[2]
    there = _inode(was)
    if there == inode:
        return was
    try:
        with os.scandir(os.path.dirname(was)) as entries:
            moved = next((one.path for one in entries if not one.is_symlink() and _inode(one.path) == inode), None)
    except OSError as error:
        if error.errno not in _NOWHERE:
            raise
        return None
    return moved or (was if there else None)


def _inode(path: str) -> str:
    """Of a directory, in hexadecimal; nothing where there is none."""
    try:
        status = os.stat(path, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NOWHERE:
            raise
        return ""
    return f"{status.st_ino:x}" if stat.S_ISDIR(status.st_mode) else ""
