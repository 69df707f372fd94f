# SPDX-License-Identifier: GPL-2.0-only
"""A whole image <-> `{"magic": …, "entries": [{…}, …]}`, in the form that CRIU's crit has given it.

What follows an entry stands in it as "extra": base64; of a TCP stream both queues, of semaphores a list of numbers,
of a message queue messages and contents by turns. The pieces of a deleted file with holes are entries of their own.

Image → values → image gives the same bytes. Where the values alone could not (fields in another order, names that are
not UTF-8, padding that is not zero), an entry holds the bytes themselves, too, and as long as nobody has changed it
they are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pycriu.errors import ImageError
from pycriu.images import catalogue, framing, magics, payloads, schema, values
from pycriu.images.catalogue import Kind
from pycriu.images.values import from_base64, to_base64

MAGIC, ENTRIES, EXTRA, VERSION = "magic", "entries", "extra", "img_version"
_MESSAGE, _PAYLOAD = "_message", "_extra"  # the bytes of an entry, and of what follows it
_SEMAPHORE = 2  # bytes


def load(data: bytes, label: str, *, pretty: bool = False, payload: bool = True) -> dict[str, Any]:
    """An image as values; `payload` False: of what follows the entries only the sizes. `label` is for errors."""
    kind = magics.kind_of(data, label)
    image: dict[str, Any] = {MAGIC: magics.name_of(kind)}
    if kind.framing != catalogue.INVENTORY and int.from_bytes(data[:4], "little") == kind.magic:
        image[VERSION] = 1
    image[ENTRIES] = list(_entries(kind, data, label, pretty, payload))
    return image


def info(data: bytes, label: str) -> dict[str, Any]:
    """Magic and number of entries; a pagemap's head does not count."""
    kind = magics.kind_of(data, label)
    count = sum(1 for _ in framing.entries(kind, data, label, any_text=True))
    return {MAGIC: magics.name_of(kind), "count": count - 1 if kind.head else count}


def _entries(kind: Kind, data: bytes, label: str, pretty: bool, payload: bool) -> Iterator[dict[str, Any]]:
    start = framing.entries_start(kind, data, label)
    message: Any
    for message, at, length in framing.entries(kind, data, label, any_text=True):
        raw, follows = data[start + 4 : at], data[at : at + length]
        entry = _entry(message, raw, pretty)
        yield entry
        if kind.payload == "ghost" and message.chunks:
            yield from _chunks(follows, pretty, payload)
        elif kind.payload:
            entry[EXTRA] = _extra(kind, message, follows, entry) if payload else f"... <{_human(length)}>"
        start = at + length


def _entry(message: Any, raw: bytes, pretty: bool) -> dict[str, Any]:
    entry = values.to_dict(message, pretty=pretty)
    try:
        same = values.fill(type(message)(), entry).SerializeToString() == raw
    except ImageError:  # a name that is not UTF-8
        same = False
    if not same:
        entry[_MESSAGE] = to_base64(raw)
    return entry


def _extra(kind: Kind, message: Any, follows: bytes, entry: dict[str, Any]) -> Any:
    show, build = _CODECS[kind.payload]
    extra = show(message, follows)
    if build(message, extra) != follows:
        entry[_PAYLOAD] = to_base64(follows)
    return extra


def _chunks(follows: bytes, pretty: bool, payload: bool) -> Iterator[dict[str, Any]]:
    """The pieces of a ghost file, each with its content."""
    at, view = 0, memoryview(follows)
    while at < len(view):
        chunk, end = payloads.nested("ghost_chunk_entry", view, at)
        entry = _entry(chunk, follows[at + 4 : end], pretty)
        if payload:
            entry[EXTRA] = to_base64(follows[end : end + chunk.len])
        yield entry
        at = end + chunk.len


def _human(size: float) -> str:
    for unit in ("", "K", "M", "G"):
        if size < 1024:
            return f"{size:.0f}{unit}B" if int(size) == size else f"{size:.1f}{unit}B"
        size /= 1024
    return f"{size:.1f}TB"


# --------------------------------------------------------------------------------------------------- values → an image


def dump(image: Any, label: str) -> bytes:
    """The image that the values describe; ImageError names the entry and the field that cannot be."""
    kind = _kind(image, label)
    entries = image.get(ENTRIES)
    if not isinstance(entries, list) or not set(image) <= {MAGIC, ENTRIES, VERSION}:
        raise ImageError(f'{label}: not {{"magic": …, "entries": […]}}')
    head = framing.header(kind) if image.get(VERSION) != 1 else kind.magic.to_bytes(4, "little")
    pieces = [head]
    for number, entry in enumerate(entries):
        try:
            pieces += _built(kind, number, entry)
        except ImageError as error:
            raise ImageError(f"{label}: entry {number}: {error.message}", error.hint) from None
    data = b"".join(pieces)
    for _ in framing.entries(kind, data, label, any_text=True):
        pass  # sizes that fields tell and contents that follow must agree
    return data


def _kind(image: Any, label: str) -> Kind:
    name = image.get(MAGIC) if isinstance(image, dict) else None
    kind = magics.BY_NAME.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ImageError(f"{label}: {f'unknown magic {name!r}' if name else 'no magic'}", "this is no decoded image")
    return kind


def _built(kind: Kind, number: int, entry: Any) -> list[bytes]:
    if not isinstance(entry, dict):
        raise ImageError("not a dictionary")
    name = kind.message
    if not number:
        name = kind.head or kind.message
    elif kind.payload == "ghost":
        name = "ghost_chunk_entry"
    fields = {key: value for key, value in entry.items() if key not in (EXTRA, _MESSAGE, _PAYLOAD)}
    message, raw = _message(name, fields, entry.get(_MESSAGE))
    return [len(raw).to_bytes(4, "little"), raw, _follows(kind, number, message, entry)]


def _message(name: str, fields: dict[str, Any], exact: Any) -> tuple[Any, bytes]:
    cls: Any = schema.message(name)
    if exact is not None:
        raw = from_base64(exact)
        try:
            message = cls.FromString(raw)
        except schema.parse_errors():
            raise ImageError(f"{_MESSAGE} is no {name}") from None
        if fields in (values.to_dict(message), values.to_dict(message, pretty=True)):
            return message, raw
    if name == "pagemap_entry" and "compat_nr_pages" not in fields and "nr_pages" in fields:
        # before CRIU 4.2 the field was called so
        fields = {("compat_nr_pages" if key == "nr_pages" else key): value for key, value in fields.items()}
    message = values.fill(cls(), fields)
    try:
        return message, message.SerializeToString()
    except schema.encode_errors() as error:
        raise ImageError(str(error)) from None


def _follows(kind: Kind, number: int, message: Any, entry: dict[str, Any]) -> bytes:
    if kind.payload == "ghost" and (number or not message.chunks):
        return from_base64(entry.get(EXTRA, ""))
    if kind.payload in ("", "ghost"):
        if EXTRA in entry:
            raise ImageError("has something extra, which such an entry cannot have")
        return b""
    show, build = _CODECS[kind.payload]
    extra = entry.get(EXTRA)
    if extra is None:
        raise ImageError('"extra" is missing: what follows the entry')
    exact = from_base64(entry[_PAYLOAD]) if _PAYLOAD in entry else None
    if exact is not None and show(message, exact) == extra:
        return exact
    return build(message, extra)


# ------------------------------------------------------------------------------------------------ what follows entries


def _padded(data: bytes, unit: int) -> bytes:
    return data + bytes(-len(data) % unit)


def _show_stream(message: Any, follows: bytes) -> Any:
    cut = message.inq_len
    return {"inq": to_base64(follows[:cut]), "outq": to_base64(follows[cut:])}


def _build_stream(_message: Any, extra: Any) -> bytes:
    if not isinstance(extra, dict) or set(extra) != {"inq", "outq"}:
        raise ImageError('"extra" has not inq and outq')
    return from_base64(extra["inq"]) + from_base64(extra["outq"])


def _show_semaphores(message: Any, follows: bytes) -> Any:
    return [int.from_bytes(follows[at : at + 2], "little") for at in range(0, _SEMAPHORE * message.nsems, _SEMAPHORE)]


def _build_semaphores(message: Any, extra: Any) -> bytes:
    if not isinstance(extra, list) or len(extra) != message.nsems:
        raise ImageError(f'"extra" has not the values of {message.nsems} semaphores')
    if not all(isinstance(one, int) and 0 <= one < 1 << 16 for one in extra):
        raise ImageError('"extra": a semaphore is a number of 16 bits')
    return _padded(b"".join(one.to_bytes(_SEMAPHORE, "little") for one in extra), 8)


def _show_messages(message: Any, follows: bytes) -> Any:
    found: list[Any] = []
    at, view = 0, memoryview(follows)
    for _ in range(message.qnum):
        one, at = payloads.nested("ipc_msg", view, at)
        if one is None:
            raise ImageError('"_extra" does not hold the messages of the queue')
        found += [values.to_dict(one), to_base64(follows[at : at + one.msize])]
        at += len(_padded(bytes(one.msize), 8))
    return found


def _build_messages(message: Any, extra: Any) -> bytes:
    if not isinstance(extra, list) or len(extra) != 2 * message.qnum:
        raise ImageError(f'"extra" has not {message.qnum} messages with their contents')
    pieces = []
    for fields, content in zip(extra[::2], extra[1::2], strict=True):
        one, raw = _message("ipc_msg", fields, None)
        data = from_base64(content)
        if len(data) != one.msize:
            raise ImageError(f"a message of {one.msize} bytes has {len(data)}")
        pieces += [len(raw).to_bytes(4, "little"), raw, _padded(data, 8)]
    return b"".join(pieces)


def _show_segment(message: Any, follows: bytes) -> str:
    return to_base64(follows[: message.size])


def _plain(_message: Any, follows: bytes) -> str:
    return to_base64(follows)


def _build_plain(_message: Any, extra: Any) -> bytes:
    return from_base64(extra)


# rule of `payloads` → what follows as values, and back
_CODECS: dict[str, tuple[Callable[[Any, bytes], Any], Callable[[Any, Any], bytes]]] = {
    "pipe": (_plain, _build_plain),
    "packet": (_plain, _build_plain),
    "bpfmap": (_plain, _build_plain),
    "ghost": (_plain, _build_plain),
    "tcp": (_show_stream, _build_stream),
    "ipc-shm": (_show_segment, lambda _message, extra: _padded(from_base64(extra), 4)),
    "ipc-sem": (_show_semaphores, _build_semaphores),
    "ipc-msg": (_show_messages, _build_messages),
}
