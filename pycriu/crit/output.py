# SPDX-License-Identifier: GPL-2.0-only
"""Files that are written: there whole or not at all, and for nobody else, since what is in images may be secret."""

from __future__ import annotations

import os
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
    path = os.path.realpath(path) if chosen else path
    special = chosen and os.path.exists(path) and not os.path.isfile(path)
    fresh = path if special else f"{path}.crit-{os.getpid()}"
    flags = os.O_WRONLY | os.O_CLOEXEC | (0 if special else os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW)
    try:
        with open(os.open(fresh, flags, 0o600), "wb") as file:
            yield file
        if not special:
            os.replace(fresh, path)
    except BaseException as error:
        if not special and not isinstance(error, FileExistsError):
            with suppress(FileNotFoundError):
                os.unlink(fresh)
        if isinstance(error, OSError):
            raise UserError(f"{path}: {os.strerror(error.errno or 0)}", hint) from None
        raise
