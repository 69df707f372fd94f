# SPDX-License-Identifier: GPL-2.0-only
"""Images of pycriu's own that hold records of one fixed size: what CRIU's messages have no field for."""

from __future__ import annotations

import os

from pycriu.errors import ImageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import struct
    from collections.abc import Iterable
    from typing import Any

    from pycriu.images.store import ImagesDir, NewCheckpoint

MAX_SIZE = 1 << 24  # bytes


def write(new: NewCheckpoint, name: str, layout: struct.Struct, rows: Iterable[tuple[Any, ...]]) -> None:
    """Write the image `name` with one record per row; none at all where there are no rows."""
    data = b"".join(layout.pack(*row) for row in rows)
    if data:
        new.write_raw(name, data)


def read(images: ImagesDir, name: str, layout: struct.Struct) -> list[tuple[Any, ...]]:
    """The records of an image, none where there is no such image; ImageError where it does not hold whole records."""
    if not images.exists(name):
        return []
    with images.raw(name) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_SIZE or size % layout.size:
            raise ImageError(f"{name}: {size} bytes are no records of {layout.size} bytes each")
        data = file.read(size) or b""
    if len(data) != size:
        raise ImageError(f"{name}: cut short while it was read")
    return list(layout.iter_unpack(data))
