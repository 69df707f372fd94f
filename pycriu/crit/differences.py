# SPDX-License-Identifier: GPL-2.0-only
"""What two messages, or two lists of entries, do not have in common: field by field, entries by their ids."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pycriu.images.values import is_repeated

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from google.protobuf.descriptor import FieldDescriptor
    from google.protobuf.message import Message

ADDED, REMOVED, CHANGED = "added", "removed", "changed"

# Message → the fields that tell its entries apart; where there are none, those of IDS that it has, else its position.
KEYS = {
    "pstree_entry": ("pid",),
    "fdinfo_entry": ("fd",),
    "vma_entry": ("start",),
    "memfd_inode_entry": ("inode_id",),
    "remap_file_path_entry": ("orig_id",),
    "pipe_data_entry": ("pipe_id",),
    "posix_timer_entry": ("it_id",),
    "mnt_entry": ("mnt_id",),
    "cg_member_entry": ("name",),
    "cgroup_prop_entry": ("name",),
    "cgroup_dir_entry": ("dir_name",),
    "inotify_wd_entry": ("wd",),
    "eventpoll_tfd_entry": ("tfd",),
    "pagemap_entry": ("vaddr",),
}
IDS = ("id", "pid", "fd", "ino", "name")

Entry = tuple["Message", bytes]
"""A message and its payload."""


class Change(NamedTuple):
    """One difference: where, of what kind, and what was there before and after."""

    path: str
    kind: str
    before: Any
    after: Any


def entries(before: Sequence[Entry], after: Sequence[Entry]) -> Iterator[Change]:
    """How one image became the other."""
    one = len(before) == len(after) == 1 and before[0][0].DESCRIPTOR.name not in KEYS
    for path, old, new in _paired(before, after, lambda entry: entry[0]):
        path = "" if one else path
        if old is None or new is None:
            yield _whole(path, old and old[0], new and new[0])
            continue
        yield from messages(old[0], new[0], path)
        if old[1] != new[1]:
            yield Change(f"{path}.payload".lstrip("."), CHANGED, f"{len(old[1])} bytes", f"{len(new[1])} bytes")


def messages(before: Message, after: Message, path: str = "") -> Iterator[Change]:
    """How one message became the other."""
    names = {field.name: field for message in (before, after) for field, _ in message.ListFields()}
    for field in sorted(names.values(), key=lambda one: one.number):
        yield from _field(before, after, field, f"{path}.{field.name}" if path else field.name)


def _field(before: Message, after: Message, field: FieldDescriptor, path: str) -> Iterator[Change]:
    old, new = (getattr(one, field.name) for one in (before, after))
    if is_repeated(field):
        if field.message_type is None:
            if list(old) != list(new):
                yield Change(path, CHANGED, plain_list(old, field), plain_list(new, field))
            return
        for key, one, other in _paired(list(old), list(new), lambda message: message):
            if one is None or other is None:
                yield _whole(path + key, one, other)
            else:
                yield from messages(one, other, path + key)
        return
    has = before.HasField(field.name), after.HasField(field.name)
    if has != (True, True):
        yield Change(
            path,
            ADDED if has[1] else REMOVED,
            *(_plain_if(there, one, field) for there, one in zip(has, (old, new), strict=True)),
        )
    elif field.message_type is not None:
        yield from messages(old, new, path)
    elif old != new:
        yield Change(path, CHANGED, plain_value(old, field), plain_value(new, field))


def _whole(path: str, old: Any, new: Any) -> Change:
    return Change(path, ADDED if old is None else REMOVED, old and plain(old), new and plain(new))


def _plain_if(there: bool, value: Any, field: FieldDescriptor) -> Any:
    return plain_value(value, field) if there else None


def _paired(before: Sequence[Any], after: Sequence[Any], message: Any) -> Iterator[tuple[str, Any, Any]]:
    """Entries that are the same one, each with a name such as `[pid=5]`; None where one side lacks it."""
    old, new = (dict(_named(side, message)) for side in (before, after))
    for name in [*old, *(name for name in new if name not in old)]:
        yield name, old.get(name), new.get(name)


def _named(side: Sequence[Any], message: Any) -> Iterator[tuple[str, Any]]:
    seen: dict[str, int] = {}
    for number, one in enumerate(side):
        keys = key_of(message(one))
        name = f"[{', '.join(keys)}]" if keys else f"[{number}]"
        seen[name] = seen.get(name, 0) + 1
        yield name if seen[name] == 1 else f"{name[:-1]}, again {seen[name] - 1}]", one


def key_of(message: Any) -> list[str]:
    """What tells a message apart from others of its list, as `field=value`; nothing where its place does."""
    descriptor = message.DESCRIPTOR
    wanted = KEYS.get(descriptor.name) or [name for name in IDS if name in descriptor.fields_by_name][:1]
    found = []
    for name in wanted:
        value = plain_value(getattr(message, name), descriptor.fields_by_name[name])
        found.append(f"{name}={value:#x}" if name in ("start", "vaddr") else f"{name}={value}")
    return found


def plain(message: Any) -> dict[str, Any]:
    """A message as what JSON has: numbers, texts, lists."""
    return {
        field.name: plain_list(value, field) if is_repeated(field) else plain_value(value, field)
        for field, value in message.ListFields()
    }


def plain_list(values: Any, field: Any) -> list[Any]:
    """The same for a list of values."""
    return [plain_value(value, field) for value in values]


def plain_value(value: Any, field: Any) -> Any:
    """The same for one value; bytes become hexadecimal digits, an enumerator its name."""
    if field.message_type is not None:
        return plain(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known is not None else value
    return value.hex() if isinstance(value, bytes) else value
