# SPDX-License-Identifier: GPL-2.0-only
"""The images in one file: a tar archive, the inventory last, so that what was cut short is seen to be so.

What is read may come from anywhere: only images are taken, by their plain names, and no more than the disk has room
for. Compressed archives are read, too.
"""

from __future__ import annotations

import errno
import json
import os
import tarfile
import zlib

from pycriu.errors import ImageError, UserError
from pycriu.images import catalogue, commit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Any

META = "blcr.json"  # beside the images, first in the archive
_PIECE = 1 << 20
_SPARE = 64 << 20  # bytes that unpacking leaves free on the disk
_MOST = 1 << 20  # members


def pack(images: str, out: IO[bytes]) -> None:
    """Write the images of a directory, as a stream."""
    names = [name for name in sorted(os.listdir(images)) if commit.is_image(name) and name != commit.INVENTORY]
    with tarfile.TarFile(fileobj=_Written(out), mode="w", copybufsize=_PIECE) as tar:  # type: ignore[arg-type]
        for name in (META, *names, commit.INVENTORY):
            _add(tar, images, name)


class _Written:
    """A file without a buffer that knows where it is. (tarfile's own streams go on writing when they are given up.)"""

    def __init__(self, out: IO[bytes]) -> None:
        self._out, self._at = out, 0

    def write(self, data: bytes) -> int:
        """All of it."""
        view = memoryview(data)
        while view:
            view = view[self._out.write(view) :]
        self._at += len(data)
        return len(data)

    def tell(self) -> int:
        """How much has been written."""
        return self._at


def write_meta(images: str, meta: dict[str, Any]) -> None:
    """What no image has a field for."""
    with open(os.path.join(images, META), "w") as file:
        json.dump(meta, file)
        file.write("\n")


def _add(tar: tarfile.TarFile, images: str, name: str) -> None:
    status = os.stat(os.path.join(images, name))
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = status.st_size, 0o600, int(status.st_mtime)
    with open(os.path.join(images, name), "rb") as file:
        tar.addfile(member, file)


def unpack(name: str, stream: IO[bytes], images: str) -> None:
    """Read the images into a directory; ImageError, UserError or OSError, which says `name`, for what cannot be."""
    seen: set[str] = set()
    damaged: tuple[type[Exception], ...] = (
        tarfile.TarError,
        EOFError,
        ValueError,
        OverflowError,
        zlib.error,
        *_of_xz(),
    )
    try:
        with tarfile.open(fileobj=stream, mode="r|*", bufsize=_PIECE) as tar:
            for member in tar:
                known = _checked(name, member, seen)
                with open(os.open(os.path.join(images, known), _NEW, 0o600), "wb", buffering=0) as out:
                    _copy(name, tar, member, out)
                seen.add(known)
    except damaged as error:
        raise ImageError(f"{name}: not a context file, or cut short: {error}") from None
    if commit.INVENTORY not in seen:
        raise ImageError(f"{name}: the context is not whole, {commit.INVENTORY} is missing")


def _of_xz() -> tuple[type[Exception], ...]:
    """What its reader raises on damaged files, where this Python has one."""
    try:
        import lzma
    except ImportError:
        return ()
    return (lzma.LZMAError,)


_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def _checked(name: str, member: tarfile.TarInfo, seen: set[str]) -> str:
    """The plain name of a member that may be taken."""
    plain = member.name.removeprefix("./")
    kind = catalogue.lookup(plain) if "/" not in plain else None
    if not member.isreg() or member.issparse() or (kind is None and plain != META):
        raise ImageError(f"{name}: {member.name!r} is no image", "unpack the archive, and use cr_restart --dir")
    if plain in seen or len(seen) > _MOST:
        raise ImageError(f"{name}: {plain} is there twice, or there are too many images")
    return plain


def _copy(name: str, tar: tarfile.TarFile, member: tarfile.TarInfo, out: IO[bytes]) -> None:
    source = tar.extractfile(member)
    assert source is not None  # it is a regular file
    left = member.size
    while left:
        disk = os.fstatvfs(out.fileno())
        if min(left, _PIECE) + _SPARE > disk.f_bavail * disk.f_frsize:
            raise UserError(
                f"{name}: the disk for temporary files has no room for its {member.size >> 20} MiB of {member.name}",
                "let TMPDIR name a directory on another disk",
            ) from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        piece = source.read(min(left, _PIECE))
        if not piece:
            raise EOFError(f"{member.name} ends too early")
        left -= len(piece)
        view = memoryview(piece)
        while view:
            view = view[out.write(view) :]


def meta(images: str) -> dict[str, Any]:
    """What cr_checkpoint has written beside the images; nothing where those are of another command."""
    try:
        with open(os.path.join(images, META), "rb") as file:
            found = json.loads(file.read(1 << 16))
    except FileNotFoundError:
        return {}
    except ValueError:
        raise ImageError(f"{META}: not JSON") from None
    if not isinstance(found, dict):
        raise ImageError(f"{META}: not what cr_checkpoint writes")
    return found
