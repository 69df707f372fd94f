# SPDX-License-Identifier: GPL-2.0-only
"""Bytes of an image file <-> entries. Pure: bytes in, values out, ImageError for what cannot be.

All words are little-endian u32.

    inventory   INVENTORY magic                 entries
    common      IMG_COMMON   magic of the kind  entries     (img_version 2)
    service     IMG_SERVICE  magic of the kind  entries
    version 1   magic of the kind               entries     (read only)
    raw         bytes

    entry       u32 size   message   [payload, its length told by the message]

The format has no checksum, no count and no end mark: a file cut at the border of two entries looks whole.
"""

from __future__ import annotations

from pycriu.errors import ImageError
from pycriu.images import catalogue, payloads, schema

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from google.protobuf.message import Message

    from pycriu.images.catalogue import Kind

# A message of pycriu's or CRIU's is some kilobytes; one vma is 60 bytes and a process has 65530 at most.
MAX_MESSAGE = 64 << 20

_FIRST_WORD = {catalogue.COMMON: catalogue.IMG_COMMON_MAGIC, catalogue.SERVICE: catalogue.IMG_SERVICE_MAGIC}


def word(data: memoryview | bytes, at: int, file: str) -> int:
    """The u32 at an offset; ImageError beyond the end."""
    if at < 0 or len(data) - at < 4:
        raise damaged(file, at, f"ends in the middle of a word ({len(data)} bytes in all)")
    return int.from_bytes(data[at : at + 4], "little")


def damaged(file: str, at: int, what: str) -> ImageError:
    """The error for a file that says something impossible at an offset."""
    return ImageError(f"{file}: offset {at}: {what}", hint="the image is damaged or of another kind; take a new dump")


def header(kind: Kind, version: int = 2) -> bytes:
    """The words in front of the entries, in a version of the format (inventory_entry.img_version)."""
    first = _FIRST_WORD.get(kind.framing) if version > 1 or kind.framing != catalogue.COMMON else None
    words = (kind.magic,) if first is None else (first, kind.magic)
    return b"".join(value.to_bytes(4, "little") for value in words)


HEAD_ROOM = 1 << 16  # bytes in which the first entry of every kind ends that is read by `head`


def entries_start(kind: Kind, data: memoryview | bytes, file: str) -> int:
    """Check the words in front of the entries; the offset behind them. Version 1 files are accepted."""
    first = word(data, 0, file)
    if first == kind.magic:  # the inventory, and every kind of version 1
        return 4
    if first != _FIRST_WORD.get(kind.framing):
        raise damaged(file, 0, f"magic 0x{first:08x} is not that of a {kind.stem} image")
    second = word(data, 4, file)
    if second != kind.magic:
        raise damaged(file, 4, f"magic 0x{second:08x} is not that of a {kind.stem} image (0x{kind.magic:08x})")
    return 8


def entries(
    kind: Kind, data: memoryview | bytes, file: str, *, any_text: bool = False
) -> Iterator[tuple[Message, int, int]]:
    """Every entry as (message, offset and length of its payload), in file order.

    A kind with one entry has exactly one; a kind with a head has at least that. `any_text`: for who must
    not lose anything, strings need not be UTF-8, and fields need not be known.
    """
    view = memoryview(data)
    at = entries_start(kind, view, file)
    rule = payloads.RULES[kind.payload] if kind.payload else None
    count = 0
    while at < len(view):
        if count and not kind.many:
            raise damaged(file, at, f"{len(view) - at} bytes behind the only entry")
        message, at = _message(kind.head if kind.head and not count else kind.message, view, at, file, any_text)
        if kind.own and not any_text:
            _refuse_unknown(message, file)
        length = rule(message, view, at) if rule else 0
        if not 0 <= length <= len(view) - at:
            raise damaged(file, at, f"a payload of {length} bytes where {len(view) - at} are left")
        yield message, at, length
        at += length
        count += 1
    if not count and (kind.head or not kind.many):
        raise damaged(file, at, "no entry")


def head(kind: Kind, data: memoryview | bytes, file: str) -> tuple[Message, int]:
    """The first entry and the offset behind it, in what may be only the beginning of a file (HEAD_ROOM bytes)."""
    view = memoryview(data)
    return _message(kind.head or kind.message, view, entries_start(kind, view, file), file)


def _message(name: str, view: memoryview, at: int, file: str, any_text: bool = False) -> tuple[Message, int]:
    size = word(view, at, file)
    start = at + 4
    if size > len(view) - start:
        raise damaged(file, at, f"an entry of {size} bytes where {len(view) - start} are left")
    if size > MAX_MESSAGE:
        raise damaged(file, at, f"an entry of {size} bytes; none is larger than {MAX_MESSAGE}")
    try:
        message = schema.message(name).FromString(bytes(view[start : start + size]))
    except schema.parse_errors() as error:
        raise damaged(file, start, f"no {name}: {error}") from None
    if not message.IsInitialized():
        raise damaged(file, start, f"no {name}: a required field is missing")
    if not any_text and (field := schema.not_text(message)) is not None:
        raise damaged(file, start, f"no {name}: {field} is not UTF-8")
    return message, start + size


def _refuse_unknown(message: Message, file: str) -> None:
    size = message.ByteSize()
    message.DiscardUnknownFields()
    if message.ByteSize() != size:
        raise ImageError(
            f"{file}: {message.DESCRIPTOR.name} has a field that is not known",
            hint="restore it with the pycriu that wrote it",
        )


def serialize(message: Message, file: str) -> bytes:
    """One entry: size and bytes. A required field that is not set is an error of the caller."""
    try:
        body: bytes = message.SerializeToString()
    except schema.encode_errors() as error:
        raise ImageError(f"{file}: entry {message.DESCRIPTOR.name} cannot be written: {error}") from None
    return len(body).to_bytes(4, "little") + body


def build(
    kind: Kind, messages: Iterable[Message | tuple[Message, bytes]], file: str, version: int = 2
) -> Iterator[bytes]:
    """The file in pieces: header, then each entry; an entry with a payload is given as a pair."""
    yield header(kind, version)
    for item in messages:
        message, payload = item if isinstance(item, tuple) else (item, b"")
        expected = (kind.message, kind.head) if kind.head else (kind.message,)
        if message.DESCRIPTOR.name not in expected:
            raise ImageError(f"{file} holds {' and '.join(expected)}, not {message.DESCRIPTOR.name}")
        yield serialize(message, file)
        if payload:
            yield payload
