# SPDX-License-Identifier: GPL-2.0-only
"""Images of pycriu's own that hold notes: for an object's number, bytes under names. What CRIU has no fields for.

Lines of ASCII, `number name hex`, in any order. Names are known beforehand, each at most once per number; whatever else
a file says is an ImageError.
"""

from __future__ import annotations

import os

from pycriu.errors import ImageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from pycriu.images.store import ImagesDir, NewCheckpoint

    Notes = dict[int, dict[str, bytes]]  # object → name → value

MAX_SIZE = 1 << 26  # bytes
_MAX_NUMBER = 1 << 32


def write(new: NewCheckpoint, name: str, notes: Notes) -> None:
    """Write the image `name`; none at all where there are no notes."""
    lines = [f"{number} {key} {value.hex()}\n" for number, one in notes.items() for key, value in one.items()]
    if lines:
        new.write_raw(name, "".join(lines).encode("ascii"))


def read(images: ImagesDir, name: str, known: Collection[str]) -> Notes:
    """The notes of an image, none where there is no such image."""
    if not images.exists(name):
        return {}
    with images.raw(name) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_SIZE:
            raise ImageError(f"{name}: {size} bytes; notes have {MAX_SIZE} at most")
        data = file.read(size) or b""
    return parse(data, name, known)


def parse(data: bytes, name: str, known: Collection[str]) -> Notes:
    """The notes in the bytes of an image; `name` is for errors, which tell the line."""
    notes: Notes = {}
    for place, line in enumerate(data.split(b"\n")[:-1], 1):
        words = line.split(b" ")
        try:
            number, key, value = int(words[0]), words[1].decode("ascii"), bytes.fromhex(words[2].decode("ascii"))
        except (ValueError, IndexError):
            raise ImageError(f"{name}: line {place} is no note") from None
        if len(words) != 3 or not 0 <= number < _MAX_NUMBER or key not in known or key in notes.get(number, ()):
            raise ImageError(f"{name}: line {place} says what it should not")
        notes.setdefault(number, {})[key] = value
    if data and not data.endswith(b"\n"):
        raise ImageError(f"{name}: cut short")
    return notes
