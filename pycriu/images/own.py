# SPDX-License-Identifier: GPL-2.0-only
"""The entries of pycriu's own images (`pycriu.proto`) as the values that a dump and a restore work with."""

from __future__ import annotations

from pycriu.errors import ImageError
from pycriu.images import messages as m

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from typing import Any

    from pycriu.images.store import Images

Numbers = tuple[int, ...]
Facts = dict[int, dict[str, Numbers]]
"""Thread id or address → name of a field → its numbers: one, several, bytes; none of a flag, which is there or not."""

Notes = dict[int, dict[str, bytes]]
"""Id → name → value."""


def task_entries(facts: Mapping[int, Mapping[str, Numbers]]) -> list[Any]:
    """pycriu-task-PID.img: an entry for each thread of which anything is to be said."""
    return [_fill(m.pycriu_task_entry(tid=tid), one) for tid, one in facts.items() if one]


def mapping_entries(facts: Mapping[int, Mapping[str, Numbers]]) -> list[Any]:
    """pycriu-memory-PID.img: an entry for each mapping of which anything is to be said."""
    return [_fill(m.pycriu_mapping_entry(start=start), one) for start, one in facts.items() if one]


def _fill(entry: Any, facts: Mapping[str, Numbers]) -> Any:
    for name, numbers in facts.items():
        field = getattr(entry, name)
        if hasattr(field, "extend"):
            field.extend(numbers)
        else:
            setattr(entry, name, bytes(numbers) if isinstance(field, bytes) else numbers[0] if numbers else True)
    return entry


def facts(entries: list[Any], key: str, name: str) -> Facts:
    """What such entries say; `key` is the field that tells of whom, `name` that of the image, for errors."""
    found: Facts = {}
    for entry in entries:
        of = getattr(entry, key)
        if of in found:
            raise ImageError(f"{name}: two entries say something of {of}")
        found[of] = {field.name: _numbers(value) for field, value in entry.ListFields() if field.name != key}
    return found


def _numbers(value: Any) -> Numbers:
    if isinstance(value, bool):
        return ()
    return (value,) if isinstance(value, int) else tuple(value)


def socket_entries(notes: Notes) -> list[Any]:
    """An entry for each socket of which anything is to be said."""
    return [
        m.pycriu_socket_entry(id=number, option=[m.pycriu_option(name=key, value=value) for key, value in one.items()])
        for number, one in notes.items()
        if one
    ]


def socket_notes(images: Images, name: str, known: Collection[str]) -> Notes:
    """The options of each socket by name; ImageError for one that is not among those known, or is there twice."""
    notes: Notes = {}
    entries: list[Any] = images.read_if_there(name)
    for entry in entries:
        one = {option.name: option.value for option in entry.option}
        if notes.setdefault(entry.id, one) is not one or len(one) != len(entry.option) or not one.keys() <= set(known):
            raise ImageError(
                f"{name}: of {entry.id} something is said twice, or has a name that is not known",
                "restore it with the pycriu that wrote it",
            )
    return notes
