# SPDX-License-Identifier: GPL-2.0-only
"""Images that need no directory: for what reads them."""

from __future__ import annotations

import io
import random
from typing import Any

from pycriu.errors import ImageError
from pycriu.images import framing, hints, schema, store, values


class InMemory(store.Images):
    """Images by name: entries (pairs of entry and payload where there is one), or bytes as they are in the file."""

    def __init__(self, images: dict[str, Any] | None = None) -> None:
        self.path = "here"
        self.images = images or {}

    def names(self) -> list[str]:
        return sorted(self.images)

    def exists(self, name: str) -> bool:
        store.kind_of(name)
        return name in self.images

    def raw(self, name: str) -> Any:
        if name not in self.images:
            raise ImageError(f"{name}: not here")
        content = self.images[name]
        return io.BytesIO(content if isinstance(content, bytes) else framed(name, content))


def framed(name: str, entries: list[Any]) -> bytes:
    """An image file with these entries."""
    return b"".join(framing.build(store.kind_of(name), entries, name))


ADDRESSES = [name for name, way in hints.OF.items() if way == hints.ADDRESS]
_MESSAGE, _ENUM, _BOOL, _STRING, _BYTES = 11, 14, 8, 9, 12  # FieldDescriptor.TYPE_*
_BITS = {3: 63, 4: 64, 5: 31, 6: 64, 7: 32, 13: 32, 15: 31, 16: 63, 17: 31, 18: 63}  # of the numbers
_SIGNED = (3, 5, 15, 16, 17, 18)


def example(name: str, dice: random.Random, *, full: bool, depth: int = 0) -> Any:
    """A message with random values in all fields, or in those only that are required."""
    message = schema.message(name)()
    for field in message.DESCRIPTOR.fields:
        if not full and not values.is_repeated(field) and not _is_required(field):
            continue
        if values.is_repeated(field):
            count = 2 if full and depth < 3 else 0
            # an address has one word or four
            count *= 2 if f"{message.DESCRIPTOR.name}.{field.name}" in ADDRESSES else 1
            for _ in range(count):
                _put(getattr(message, field.name), field, dice, full, depth)
        elif field.type == _MESSAGE:
            if _is_required(field) or depth < 3:
                nested = example(field.message_type.full_name, dice, full=full, depth=depth + 1)
                getattr(message, field.name).CopyFrom(nested)
        else:
            setattr(message, field.name, _value(field, dice))
    return message


def least(kind: str, /, **changes: Any) -> Any:
    """A message with the fields that are required, some of them, or of the others, as told; always the same."""
    message = example(kind, random.Random(kind), full=False)
    for key, value in changes.items():
        target = getattr(message, key)
        if hasattr(target, "extend"):
            target.extend(value)
        elif hasattr(target, "CopyFrom"):
            target.CopyFrom(value)
        else:
            setattr(message, key, value)
    return message


def _put(target: Any, field: Any, dice: random.Random, full: bool, depth: int) -> None:
    if field.type == _MESSAGE:
        target.add().CopyFrom(example(field.message_type.full_name, dice, full=full, depth=depth + 1))
    else:
        target.append(_value(field, dice))


def _is_required(field: Any) -> bool:
    return bool(field.is_required if hasattr(field, "is_required") else field.label == 2)


def _value(field: Any, dice: random.Random) -> Any:
    if field.type == _ENUM:
        return dice.choice(field.enum_type.values).number
    if field.type == _BOOL:
        return dice.random() < 0.5
    if field.type == _STRING:
        return "".join(dice.choices('aé/ \n"\\☃', k=dice.randrange(12)))
    if field.type == _BYTES:
        return dice.randbytes(dice.choice([0, 1, 57, 200]))
    bits = dice.randrange(_BITS[field.type] + 1)
    number = dice.getrandbits(bits) if bits else 0
    return -number if field.type in _SIGNED and dice.random() < 0.5 else number
