# SPDX-License-Identifier: GPL-2.0-only
"""The pages that a checkpoint of a core must have: what differs from zeros, or from the file that is mapped there."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from pycriu.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pycriu.corefile.space import Region, Space

_PIECE = 1 << 20


class Writer:
    """Pages, written one behind the other as they come, and the runs of addresses that they make.

    `patches` has bytes that are to be other than in the core, by address; they do not cross pages.
    """

    def __init__(self, out: int, page_size: int, patches: dict[int, bytes] | None = None) -> None:
        self._out, self._size = out, page_size
        self._patches: dict[int, list[tuple[int, bytes]]] = {}
        for address, data in (patches or {}).items():
            page = address - address % page_size
            self._patches.setdefault(page, []).append((address - page, data))
        self.runs: list[tuple[int, int]] = []
        self.written = 0

    def take(self, space: Space) -> None:
        """All private memory of a core; what is shared, is in its file."""
        for region in space.regions:
            if region.vvar or region.shared:
                continue
            for address, data in _content(space, region):
                base = self._base(region, address, len(data))
                self._differing(address, data, base, always=region.vdso or region.always)

    def _base(self, region: Region, address: int, size: int) -> bytes:
        """What is there without any page."""
        if not region.path:
            return bytes(size)
        with open(region.path, "rb", opener=lambda p, flags: os.open(p, flags | os.O_NONBLOCK)) as file:
            return os.pread(file.fileno(), size, region.offset + address - region.start).ljust(size, b"\0")

    def _differing(self, address: int, data: bytes, base: bytes, *, always: bool) -> None:
        if data == base and not always and not self._patches:
            return
        for at in range(0, len(data), self._size):
            page = data[at : at + self._size]
            if patches := self._patches.get(address + at):
                changed = bytearray(page)
                for start, new in patches:
                    changed[start : start + len(new)] = new
                page = bytes(changed)
            if always or page != base[at : at + self._size]:
                self._put(address + at, page)

    def _put(self, address: int, page: bytes) -> None:
        view = memoryview(page)
        while view:
            view = view[os.write(self._out, view) :]
        self.written += len(page)
        start, pages = self.runs[-1] if self.runs else (0, 0)
        if pages and start + pages * self._size == address:
            self.runs[-1] = start, pages + 1
        else:
            self.runs.append((address, 1))


def _content(space: Space, region: Region) -> Iterator[tuple[int, bytes]]:
    """What the core has of a mapping, in pieces. Holes of the file in anonymous memory are left out: they are zeros."""
    fd = space.core.fd
    for address, length, offset in region.stored:
        at = 0
        while at < length:
            if not region.path:
                at = _next_data(fd, offset + at) - offset
                at -= at % space.core.page_size
                if at >= length:
                    break
            data = os.pread(fd, min(_PIECE, length - at), offset + at)
            if not data:
                raise ImageError(f"{space.core.path} has become shorter while it was read")
            data = (
                data[: len(data) - len(data) % space.core.page_size] if len(data) < min(_PIECE, length - at) else data
            )
            if not data:
                break
            yield address + at, data.ljust(-(-len(data) // space.core.page_size) * space.core.page_size, b"\0")
            at += len(data)


def _next_data(fd: int, at: int) -> int:
    try:
        return os.lseek(fd, at, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return 1 << 62
        raise
