# SPDX-License-Identifier: GPL-2.0-only
"""Files that are written: there whole or not at all, and for nobody else, since what is in images may be secret."""

from __future__ import annotations

import os
import secrets
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO

from pycriu.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def replaced(path: str, hint: str | None = None, *, chosen: bool = False) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when the block has ended well; UserError where that is not possible.

    Whatever was there goes, unless the user has `chosen` the very name: then a link stays one, and a device or a pipe
    is written to as it is.
    """
    try:
        path = os.path.realpath(path) if chosen else path
        special = chosen and os.path.exists(path) and not os.path.isfile(path)
        fd, fresh = (os.open(path, os.O_WRONLY | os.O_CLOEXEC), "") if special else _fresh(path)
    except OSError as error:
        raise _refused(path, error, hint) from None
    try:
        with open(fd, "wb") as file:
            yield file
        if fresh:
            os.replace(fresh, path)
    except BaseException as error:
        if fresh:
            with suppress(OSError):  # what has failed before is what is told
                os.unlink(fresh)
        if isinstance(error, OSError):
            raise _refused(path, error, hint) from None
        raise


def _fresh(path: str) -> tuple[int, str]:
    """A new file beside it, and its name. One of that name may be there: of somebody who was killed and had our PID, as
    everybody has in a container, or of another container's.
    """
    flags = os.O_WRONLY | os.O_CLOEXEC | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    name = f"{path}.crit-{os.getpid()}"
    while True:
        try:
            return os.open(name, flags, 0o600), name
        except FileExistsError:
            name = f"{path}.crit-{os.getpid()}-{secrets.token_hex(4)}"


def _refused(path: str, error: OSError, hint: str | None) -> UserError:
    return UserError(f"{path}: {error.strerror or error}", hint)
