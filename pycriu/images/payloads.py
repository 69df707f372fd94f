# SPDX-License-Identifier: GPL-2.0-only
"""How many bytes follow an entry: one rule per kind that has any.

A rule gets the message, the whole file and the offset behind the message; it answers with a length that the caller
checks against what is left. Rules that must look into the payload to know check each step themselves and answer -1 for
what cannot be.
"""

from __future__ import annotations

from pycriu.images import schema

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any  # a message of the kind that the rule is for

    Rule = Callable[[Any, memoryview, int], int]

IMPOSSIBLE = -1


def _round(size: int, unit: int) -> int:
    return (size + unit - 1) // unit * unit


def _ghost(entry: Any, data: memoryview, at: int) -> int:
    if not entry.chunks:
        return len(data) - at
    start = at
    while at < len(data):  # pairs of chunk entry and bytes, up to the end
        chunk, at = nested("ghost_chunk_entry", data, at)
        if chunk is None or chunk.len > len(data) - at:
            return IMPOSSIBLE
        at += chunk.len
    return at - start


def _ipc_msg(entry: Any, data: memoryview, at: int) -> int:
    start = at
    for _ in range(entry.qnum):  # each step needs four bytes at least, so a false count ends with the data
        head, at = nested("ipc_msg", data, at)
        if head is None or _round(head.msize, 8) > len(data) - at:
            return IMPOSSIBLE
        at += _round(head.msize, 8)
    return at - start


def nested(name: str, data: memoryview, at: int) -> tuple[Any, int]:
    """A sized message inside a payload and the offset behind it; (None, at) for what cannot be."""
    size = int.from_bytes(data[at : at + 4], "little")
    if len(data) - at < 4 or size > len(data) - at - 4:
        return None, at
    try:
        message = schema.message(name).FromString(bytes(data[at + 4 : at + 4 + size]))
    except schema.parse_errors():
        return None, at
    return (message, at + 4 + size) if message.IsInitialized() else (None, at)


RULES: dict[str, Rule] = {
    "pipe": lambda entry, _data, _at: entry.bytes,
    "packet": lambda entry, _data, _at: entry.length,
    "tcp": lambda entry, _data, _at: entry.inq_len + entry.outq_len,
    "bpfmap": lambda entry, _data, _at: entry.keys_bytes + entry.values_bytes,
    "ipc-shm": lambda entry, _data, _at: 0 if entry.in_pagemaps else _round(entry.size, 4),
    "ipc-sem": lambda entry, _data, _at: _round(2 * entry.nsems, 8),
    "ipc-msg": _ipc_msg,
    "ghost": _ghost,
}
