# SPDX-License-Identifier: GPL-2.0-only
"""A message <-> a dictionary that JSON can hold, in the form that CRIU's crit has given it.

Numbers are numbers, enumerators their names, bytes base64 with its line ends, messages dictionaries, what is repeated a
list; a field that is not set is not there. `pretty` shows some numbers as a person reads them (`hints`); both forms are
read back. Fields that this program does not know are kept as bytes under `UNKNOWN`.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import os
import quopri
from typing import Any

from pycriu.errors import ImageError
from pycriu.images import hints

UNKNOWN = "_unknown"
_STRING, _MESSAGE, _BYTES, _ENUM, _BOOL = 9, 11, 12, 14, 8  # FieldDescriptor.TYPE_*
_REPEATED = 3  # FieldDescriptor.LABEL_REPEATED
_MINOR_BITS = 20


def is_repeated(field: Any) -> bool:
    """Whether a field is a list; versions of protobuf ask in different ways."""
    answer: bool = field.is_repeated if hasattr(field, "is_repeated") else field.label == _REPEATED
    return answer


def to_base64(data: bytes) -> str:
    """As crit writes bytes: lines of 76 characters, each ended."""
    return base64.encodebytes(data).decode("ascii")


def from_base64(value: Any) -> bytes:
    """Bytes out of JSON; ImageError for what is none."""
    if not isinstance(value, str):
        raise ImageError(f"{_brief(value)} is not base64")
    try:
        return base64.b64decode("".join(value.split()).encode(), validate=True)
    except (binascii.Error, ValueError):
        raise ImageError(f"{_brief(value)} is not base64") from None


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


# ---------------------------------------------------------------------------------------------------- message → values


def to_dict(message: Any, *, pretty: bool = False) -> dict[str, Any]:
    """The fields of a message that are set."""
    known = type(message)()
    known.CopyFrom(message)
    known.DiscardUnknownFields()
    return _to_dict(message, pretty, hexed=False, unknown=known.ByteSize() != message.ByteSize())


def _to_dict(message: Any, pretty: bool, *, hexed: bool, unknown: bool) -> dict[str, Any]:
    """`hexed`: all numbers in hex; `unknown`: there are unknown fields somewhere."""
    found: dict[str, Any] = {}
    for field, value in message.ListFields():
        way = hints.OF.get(f"{message.DESCRIPTOR.full_name}.{field.name}", "")
        hexes = hexed or way == hints.HEX
        if is_repeated(field):
            addressed = _address(value) if pretty and way == hints.ADDRESS else None
            found[field.name] = addressed or [_shown(field, way, one, pretty, hexes, unknown) for one in value]
        else:
            found[field.name] = _shown(field, way, value, pretty, hexes, unknown)
    if unknown and (data := _unknown_fields(message)):
        found[UNKNOWN] = to_base64(data)
    return found


def _unknown_fields(message: Any) -> bytes:
    """The fields of a message itself, not of those in it, that this program does not know."""
    rest = type(message)()
    rest.CopyFrom(message)
    for field, _ in message.ListFields():
        rest.ClearField(field.name)
    data: bytes = rest.SerializePartialToString()
    return data


def _shown(field: Any, way: str, value: Any, pretty: bool, hexed: bool, unknown: bool) -> Any:
    if field.type == _MESSAGE:
        return _to_dict(value, pretty, hexed=hexed, unknown=unknown)
    if field.type == _BYTES:
        return quopri.encodestring(value).decode("ascii") if way == hints.QUOTED else to_base64(value)
    if field.type == _ENUM:
        return field.enum_type.values_by_number[value].name
    if field.type == _STRING:
        return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
    if not pretty or field.type == _BOOL:
        return value
    return f"0x{value:x}" if hexed else _pretty(way, value)


def _pretty(way: str, value: int) -> int | str:
    if way == hints.OLD_DEVICE:
        return f"{os.major(value)}:{os.minor(value)}"
    if way == hints.DEVICE:
        return f"{value >> _MINOR_BITS}:{value & (1 << _MINOR_BITS) - 1}"
    if way in hints.FLAGS:
        names = [name for name, bit in hints.FLAGS[way].items() if value & bit]
        rest = value & ~sum(hints.FLAGS[way].values())
        return " | ".join([*names, f"0x{rest:x}"] if rest else names)
    return hints.WORDS.get(way, {}).get(value, value)


def _address(words: Any) -> list[str] | None:
    """An address of IPv4 or IPv6 out of words in the order of the network; None for what is none."""
    packed = b"".join(word.to_bytes(4, "little") for word in words)
    return [ipaddress.ip_address(packed).compressed] if len(packed) in (4, 16) else None


# ---------------------------------------------------------------------------------------------------- values → message


def fill(message: Any, values: Any) -> Any:
    """Set the fields of a message from a dictionary, and return it; ImageError names the field that cannot be."""
    name = message.DESCRIPTOR.name
    if not isinstance(values, dict):
        raise ImageError(f"{name}: {_brief(values)} is not a dictionary")
    fields = message.DESCRIPTOR.fields_by_name
    for key, value in values.items():
        if key == UNKNOWN:
            message.MergeFromString(from_base64(value))
            continue
        if key not in fields:
            raise ImageError(f"{name} has no field {key!r}", _resembling(key, fields))
        way = hints.OF.get(f"{message.DESCRIPTOR.full_name}.{key}", "")
        try:
            _set(message, fields[key], way, value)
        except ImageError as error:
            raise ImageError(f"{name}.{key}: {error.message}", error.hint) from None
        except (TypeError, ValueError, OverflowError) as error:
            raise ImageError(f"{name}.{key}: {_brief(value)} cannot be its value: {error}") from None
    return message


def _resembling(key: str, fields: Any) -> str | None:
    import difflib

    near = difflib.get_close_matches(key, list(fields), 1)
    return f"did you mean {near[0]!r}?" if near else None


def _set(message: Any, field: Any, way: str, value: Any) -> None:
    if is_repeated(field):
        if not isinstance(value, list):
            raise ImageError(f"{_brief(value)} is not a list")
        if way == hints.ADDRESS and len(value) == 1 and isinstance(value[0], str):
            value = _address_words(value[0])
        target = getattr(message, field.name)
        for one in value:
            if field.type == _MESSAGE:
                fill(target.add(), one)
            else:
                target.append(_meant(field, way, one))
    elif field.type == _MESSAGE:
        target = getattr(message, field.name)
        target.SetInParent()
        fill(target, value)
    else:
        setattr(message, field.name, _meant(field, way, value))


def _meant(field: Any, way: str, value: Any) -> Any:
    if field.type == _BYTES:
        return quopri.decodestring(value.encode("ascii")) if way == hints.QUOTED else from_base64(value)
    if field.type == _ENUM:
        known = field.enum_type.values_by_name
        if value not in known:
            raise ImageError(f"{_brief(value)} is none of {', '.join(known)}")
        return known[value].number
    wanted = {_STRING: str, _BOOL: bool}.get(field.type)
    if wanted is not None:
        if not isinstance(value, wanted):
            raise ImageError(f"{_brief(value)} is not a {wanted.__name__}")
        return value
    if isinstance(value, str):
        return _number(way, value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ImageError(f"{_brief(value)} is not a number")
    return value


def _number(way: str, text: str) -> int:
    if way in (hints.DEVICE, hints.OLD_DEVICE) and ":" in text:
        major, minor = (int(part) for part in text.split(":"))
        return os.makedev(major, minor) if way == hints.OLD_DEVICE else major << _MINOR_BITS | minor
    if way in hints.FLAGS:
        total = 0
        for word in filter(None, map(str.strip, text.split("|"))):
            total |= hints.FLAGS[way][word] if word in hints.FLAGS[way] else int(word, 0)
        return total
    for number, word in hints.WORDS.get(way, {}).items():
        if word == text:
            return number
    return int(text, 0)


def _address_words(text: str) -> list[int]:
    packed = ipaddress.ip_address(text).packed
    return [int.from_bytes(packed[at : at + 4], "little") for at in range(0, len(packed), 4)]
