# SPDX-License-Identifier: GPL-2.0-only
"""Images as dictionaries, by the functions of CRIU's Python bindings: `pycriu.images.load(file)` and its like.

with open("checkpoint/pstree.img", "rb") as file:
    image = pycriu.images.load(file)
print(image["entries"][0]["pid"])

with open("pstree.img", "wb") as file:
    pycriu.images.dump(image, file)
"""

from __future__ import annotations

from pycriu.images import catalogue, decoded, magics

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO

    Image = dict[str, Any]  # "magic": name; "entries": list of dictionaries


class MagicException(Exception):
    """The file begins with no magic of an image; `magic` is what it begins with."""

    def __init__(self, magic: int) -> None:
        super().__init__(f"{magic:#x} is the magic of no image")
        self.magic = magic


def load(f: BinaryIO, pretty: bool = False, no_payload: bool = False) -> Image:
    """The image in an open file. `pretty`: numbers as people write them; `no_payload`: only sizes of what is binary.

    MagicException for what is no image, ImageError for one that is damaged.
    """
    return decoded.load(_read(f), _name(f), pretty=pretty, payload=not no_payload)


def loads(s: bytes, pretty: bool = False) -> Image:
    """The image in these bytes."""
    return decoded.load(_checked(s), "the image", pretty=pretty)


def dump(img: Image, f: BinaryIO) -> None:
    """Write an image to an open file; nothing is written of one that cannot be. ImageError says what is wrong."""
    f.write(decoded.dump(img, _name(f)))


def dumps(img: Image) -> bytes:
    """An image as bytes."""
    return decoded.dump(img, "the image")


def info(f: BinaryIO) -> Image:
    """Magic and number of entries of the image in an open file."""
    return decoded.info(_read(f), _name(f))


def _read(f: BinaryIO) -> bytes:
    return _checked(f.read())


def _checked(data: bytes) -> bytes:
    first, second = (int.from_bytes(data[at : at + 4], "little") for at in (0, 4))
    magic = second if first in (catalogue.IMG_COMMON_MAGIC, catalogue.IMG_SERVICE_MAGIC) else first
    if magic not in magics.BY_VALUE:
        raise MagicException(magic)
    return data


def _name(f: BinaryIO) -> str:
    return str(getattr(f, "name", "the image"))
