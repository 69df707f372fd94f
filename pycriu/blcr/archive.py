# SPDX-License-Identifier: GPL-2.0-only
"""The images in one file: a tar archive, the inventory last, so that what was cut short is seen to be so.

Before it stands what cr_checkpoint has to say, with a checksum of all images: what has been spoiled on its way must
not run. What is read may come from anywhere: only images are taken, by their plain names, and no more than the disk
has room for. Compressed archives are read, too.
"""

from __future__ import annotations

import errno
import json
import os
import select
import tarfile
import zlib

from pycriu.errors import ImageError, UserError
from pycriu.images import catalogue, commit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Any

META = "blcr.json"  # beside the images, last but one in the archive
SUM = "sum"  # in META: the sums of all images, one upon the other
_PIECE = 1 << 20
_SPARE = 64 << 20  # bytes that unpacking leaves free on the disk
_MOST = 1 << 20  # members


def pack(images: str, out: IO[bytes]) -> None:
    """Write the images of a directory, as a stream."""
    names = [name for name in sorted(os.listdir(images)) if commit.is_image(name) and name != commit.INVENTORY]
    with tarfile.TarFile(fileobj=_Written(out), mode="w", copybufsize=_PIECE) as tar:  # type: ignore[arg-type]
        total = 0
        for name in names:
            total ^= _add(tar, images, name)
        with open(os.path.join(images, commit.INVENTORY), "rb") as file:
            total ^= zlib.crc32(file.read(), _begun(commit.INVENTORY))
        write_meta(images, meta(images) | {SUM: total})
        _add(tar, images, META)
        _add(tar, images, commit.INVENTORY)


def _begun(name: str) -> int:
    """The sum of an image of which nothing has been read."""
    return zlib.crc32(name.encode())


class _Written:
    """A file without a buffer that knows where it is. (tarfile's own streams go on writing when they are given up.)

    Who has given us a pipe may have set O_NONBLOCK, which it has in common with us.
    """

    def __init__(self, out: IO[bytes]) -> None:
        self._out, self._at = out, 0

    def write(self, data: bytes) -> int:
        """All of it."""
        view = memoryview(data)
        while view:
            written: int | None = self._out.write(view)
            if written is None:
                _wait_for(self._out, select.POLLOUT)
            view = view[written or 0 :]
        self._at += len(data)
        return len(data)

    def tell(self) -> int:
        """How much has been written."""
        return self._at


class _Read:
    """A file without a buffer that is read, likewise."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        """Some bytes; none at the end."""
        while True:
            data: bytes | None = self._file.read(size)
            if data is not None:
                return data
            _wait_for(self._file, select.POLLIN)


def _wait_for(file: IO[bytes], what: int) -> None:
    look = select.poll()
    look.register(file, what)
    look.poll()


def write_meta(images: str, meta: dict[str, Any]) -> None:
    """What no image has a field for."""
    with open(os.path.join(images, META), "w") as file:
        json.dump(meta, file)
        file.write("\n")


class _Summed:
    """A file that is read, with the sum of what has been."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file, self.sum = file, _begun(name)

    def read(self, size: int) -> bytes:
        """The next bytes."""
        data = self._file.read(size)
        self.sum = zlib.crc32(data, self.sum)
        return data


def _add(tar: tarfile.TarFile, images: str, name: str) -> int:
    """Its sum."""
    status = os.stat(os.path.join(images, name))
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = status.st_size, 0o600, int(status.st_mtime)
    with open(os.path.join(images, name), "rb", buffering=0) as file:
        summed = _Summed(file, name)
        tar.addfile(member, summed)  # type: ignore[arg-type]
    return summed.sum


def unpack(name: str, stream: IO[bytes], images: str) -> None:
    """Read the images into a directory; ImageError, UserError or OSError, which says `name`, for what cannot be."""
    seen: dict[str, int] = {}
    damaged: tuple[type[Exception], ...] = (
        tarfile.TarError,
        EOFError,
        ValueError,
        OverflowError,
        TypeError,  # of a compressed stream that ends within its header
        zlib.error,
        *_of_xz(),
    )
    try:
        with tarfile.open(fileobj=_Read(stream), mode="r|*", bufsize=_PIECE) as tar:  # type: ignore[call-overload]
            for member in tar:
                known = _checked(name, member, seen)
                with open(os.open(os.path.join(images, known), _NEW, 0o600), "wb", buffering=0) as out:
                    seen[known] = _copy(name, tar, member, out, known)
    except damaged as error:
        raise ImageError(f"{name}: not a context file, or cut short: {error}") from None
    if commit.INVENTORY not in seen:
        raise ImageError(f"{name}: the context is not whole, {commit.INVENTORY} is missing")
    _check_sum(name, meta(images), seen)


def _check_sum(name: str, made: dict[str, Any], seen: dict[str, int]) -> None:
    """ImageError where the images are others than cr_checkpoint has written."""
    total = 0
    for image, value in seen.items():
        total ^= value if image != META else 0
    if made.get(SUM, total) != total:
        raise ImageError(
            f"{name}: the context is damaged, its checksum does not match",
            "take another copy; cr_restart --dir takes images as they are",
        )


def _of_xz() -> tuple[type[Exception], ...]:
    """What its reader raises on damaged files, where this Python has one."""
    try:
        import lzma
    except ImportError:
        return ()
    return (lzma.LZMAError,)


_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def _checked(name: str, member: tarfile.TarInfo, seen: dict[str, int]) -> str:
    """The plain name of a member that may be taken."""
    plain = member.name.removeprefix("./")
    kind = catalogue.lookup(plain) if "/" not in plain else None
    if not member.isreg() or member.issparse() or (kind is None and plain != META):
        raise ImageError(f"{name}: {member.name!r} is no image", "unpack the archive, and use cr_restart --dir")
    if plain in seen or len(seen) > _MOST:
        raise ImageError(f"{name}: {plain} is there twice, or there are too many images")
    return plain


def _copy(name: str, tar: tarfile.TarFile, member: tarfile.TarInfo, out: IO[bytes], known: str) -> int:
    """Write what a member holds; its sum."""
    total = _begun(known)
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
        total = zlib.crc32(piece, total)
        view = memoryview(piece)
        while view:
            view = view[out.write(view) :]
    return total


def meta(images: str) -> dict[str, Any]:
    """What cr_checkpoint has written beside the images; nothing where those are of another command."""
    try:
        with open(os.path.join(images, META), "rb") as file:
            found = json.loads(file.read(1 << 16))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ImageError(f"{META}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ImageError(f"{META}: not JSON") from None
    if not isinstance(found, dict):
        raise ImageError(f"{META}: not what cr_checkpoint writes")
    return found
