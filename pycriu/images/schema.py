# SPDX-License-Identifier: GPL-2.0-only
"""Message classes by name, made by the protobuf library from the compiled `.proto` files (`schema.binpb`).

Loaded on first use. protobuf's public modules cost 17 ms to import, more than half of what a whole restore may take;
its C extension alone costs 3 ms. So there are two ways to the same classes:

  light    the C extension and `google.protobuf.message`, nothing else
  public   `descriptor_pool` and `message_factory`, as documented

On making its first class the extension imports `internal.well_known_types` (and with it datetime, calendar, locale,
typing) to learn which classes get convenience methods (Timestamp, Any, ...). Images hold none of these, so a process
that is pycriu's own may answer that question with "none": `expect_no_well_known_types()`. The extension remembers the
answer for the life of the process, which is why nobody but `cli` calls it. Whatever the light way lacks in some version
of protobuf, the public way is taken instead.
"""

from __future__ import annotations

import _thread
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from google.protobuf.message import Message

    # How to make a class, and how to find the values of an enum, by name.
    Way = tuple[Callable[[str], type[Message]], Callable[[str], dict[str, int]]]

_WELL_KNOWN = "google.protobuf.internal.well_known_types"

# What the light way may raise where a version of protobuf is built differently; SystemError is the extension's own.
_NOT_THIS_WAY = (ImportError, AttributeError, TypeError, SystemError)

# Programs dump in several threads at once. Classes of two pools cannot be put into each other.
_making = _thread.RLock()
_loaded: Way | None = None
_classes: dict[str, type[Message]] = {}
_light = False


def expect_no_well_known_types() -> None:
    """Say that this process handles no messages but pycriu's, so that the light way may skip half of protobuf."""
    global _light  # noqa: PLW0603 - a property of the process, as is the extension's memory of the answer
    _light = True


def message(name: str) -> type[Message]:
    """The class of a message, for example `message("core_entry")`; KeyError if there is none of that name."""
    found = _classes.get(name)
    if found is None:
        with _making:
            found = _classes.get(name) or _load()[0](name)
            _classes[name] = found
    return found


def enum(name: str) -> dict[str, int]:
    """The values of an enum by name; a nested one is written `core_entry.march`."""
    with _making:
        return _load()[1](name)


def parse_errors() -> tuple[type[Exception], ...]:
    """What `FromString` raises on bytes that are no such message."""
    from google.protobuf.message import DecodeError

    return (DecodeError, UnicodeDecodeError)


def encode_errors() -> tuple[type[Exception], ...]:
    """What `SerializeToString` raises on a message that lacks a required field."""
    from google.protobuf.message import EncodeError

    return (EncodeError,)


_STRING, _MESSAGE = 9, 11  # FieldDescriptor.TYPE_*
_texts: dict[str, frozenset[str]] = {}  # class → fields that are strings, or messages with any
_complete: set[str] = set()  # those of which nothing is missing any more


def not_text(message: Message) -> str | None:
    """The name of a string that is not UTF-8, which protobuf does not refuse but gives as bytes; None: all are text."""
    texts = _texts_of(message.DESCRIPTOR)
    for field, value in message.ListFields() if texts else ():
        if field.name not in texts:
            continue
        for one in (value,) if isinstance(value, str | bytes) or hasattr(value, "ListFields") else value:
            found = field.name if isinstance(one, bytes) else None if isinstance(one, str) else not_text(one)
            if found:
                return found
    return None


def _texts_of(kind: Any) -> frozenset[str]:
    if kind.full_name not in _complete:
        with _making:
            _with_texts(kind)
            _complete.add(kind.full_name)
    return _texts[kind.full_name]


def _with_texts(kind: Any) -> frozenset[str]:
    if kind.full_name not in _texts:
        _texts[kind.full_name] = frozenset(("",))  # while we look: of a message within itself
        _texts[kind.full_name] = frozenset(
            field.name
            for field in kind.fields
            if field.type == _STRING or (field.type == _MESSAGE and _with_texts(field.message_type))
        )
    return _texts[kind.full_name]


def descriptor_files(data: bytes) -> Iterator[bytes]:
    """The serialized FileDescriptorProtos of a FileDescriptorSet (field 1, repeated), without parsing them."""
    at = 0
    while at < len(data):
        size, shift, at = 0, 0, at + 1  # one byte of tag: field 1, length-delimited
        while True:
            byte, at = data[at], at + 1
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        yield data[at : at + size]
        at += size


def compiled() -> bytes:
    """The descriptor set as it lies beside this module."""
    with open(os.path.join(os.path.dirname(__file__), "schema.binpb"), "rb", buffering=0) as file:
        return file.read()


def _load() -> Way:
    global _loaded  # noqa: PLW0603 - one pool per process, made on first use
    if _loaded is None:
        files = list(descriptor_files(compiled()))
        _loaded = (light_way(files) if _light else None) or public_way(files)
    return _loaded


def light_way(files: list[bytes]) -> Way | None:
    """The pool and the maker of classes from the C extension alone; None where this protobuf cannot do it.

    Changes the process for good: see the module's text. Never used when the environment asks for another
    implementation of protobuf, or when the whole of protobuf is loaded already.
    """
    if os.environ.get("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "upb") != "upb" or _WELL_KNOWN in sys.modules:
        return None
    try:
        from google._upb import _message
        from google.protobuf.message import Message

        pool = _message.DescriptorPool()
        for file in files:
            pool.AddSerializedFile(file)

        def make(name: str) -> type[Message]:
            members = {"DESCRIPTOR": pool.FindMessageTypeByName(name), "__module__": "pycriu.images.messages"}
            return _message.MessageMeta(name, (Message,), members)  # type: ignore[return-value]

        def values(name: str) -> dict[str, int]:
            return {value.name: value.number for value in pool.FindEnumTypeByName(name).values}

        with _NoWellKnownTypes():
            make("inventory_entry")
    except _NOT_THIS_WAY:
        return None
    return make, values


def public_way(files: list[bytes]) -> Way:
    """The same by protobuf's documented modules: slower to import, right for every implementation and version."""
    from google.protobuf import descriptor_pool, message_factory

    pool = descriptor_pool.DescriptorPool()
    for file in files:
        pool.AddSerializedFile(file)

    def make(name: str) -> type[Message]:
        return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))

    def values(name: str) -> dict[str, int]:
        return {value.name: value.number for value in pool.FindEnumTypeByName(name).values}

    return make, values


class _NoWellKnownTypes:
    """While it lasts, the module that lists the classes with convenience methods is one that lists none."""

    WKTBASES: dict[str, type] = {}  # noqa: RUF012 - the name and kind that the extension asks for

    def __enter__(self) -> None:
        sys.modules[_WELL_KNOWN] = self  # type: ignore[assignment]

    def __exit__(self, *_: object) -> None:
        sys.modules.pop(_WELL_KNOWN, None)
