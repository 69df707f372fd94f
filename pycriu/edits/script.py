# SPDX-License-Identifier: GPL-2.0-only
"""A JSON patch (RFC 6902) on images: `/files.img/entries/3/reg/name` in the form that `crit decode` shows.

    [{"op": "test", "path": "/core-7.img/entries/0/tc/comm", "value": "sh"},
     {"op": "replace", "path": "/core-7.img/entries/0/tc/rlimits/rlimits/7/cur", "value": 4096}]

Known are test, add, remove and replace. A patch is checked whole when it is loaded; where it leads nowhere, or a test
fails, nothing is restored.
"""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

from pycriu.errors import ImageError, UserError
from pycriu.images import catalogue, values
from pycriu.record import record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.message import Message

_OPERATIONS = {"test": True, "add": True, "replace": True, "remove": False}  # name → whether it has a value
_ENTRIES = "entries"
_MAX_SIZE = 1 << 24
_LONGEST_PATH = 64


@record
class Operation:
    """One step; `path` are the tokens behind the name of the image and "entries"."""

    op: str
    image: str
    path: tuple[str, ...]
    value: Any
    label: str


def load(path: str) -> list[Operation]:
    """The operations of a script; UserError for what is none."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(_MAX_SIZE + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--edit-script {path}: {error}") from None
    if len(text) > _MAX_SIZE:
        raise UserError(f"--edit-script {path}: longer than {_MAX_SIZE} characters")
    try:
        steps = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"--edit-script {path}: not JSON: {error}") from None
    if not isinstance(steps, list):
        raise UserError(f"--edit-script {path}: not a list of operations", "see RFC 6902, JSON Patch")
    return [_operation(step, f"--edit-script {path}: operation {number}") for number, step in enumerate(steps)]


def _operation(step: Any, label: str) -> Operation:
    if not isinstance(step, dict) or step.get("op") not in _OPERATIONS:
        raise UserError(
            f"{label}: none of {', '.join(_OPERATIONS)}", '{"op": …, "path": "/IMAGE/entries/N/…", "value": …}'
        )
    pointer = step.get("path")
    if not isinstance(pointer, str) or not pointer.startswith("/") or ("value" in step) != _OPERATIONS[step["op"]]:
        raise UserError(f"{label}: path or value is missing, or too much", "a path is /IMAGE/entries/N/FIELD…")
    tokens = [token.replace("~1", "/").replace("~0", "~") for token in pointer[1:].split("/")]
    if len(tokens) < 3 or tokens[1] != _ENTRIES or len(tokens) > _LONGEST_PATH:
        raise UserError(f"{label}: {pointer} is not /IMAGE/entries/N/FIELD…")
    kind = catalogue.lookup(tokens[0])
    if kind is None or kind.framing == catalogue.RAW:
        raise UserError(f"{label}: {tokens[0]} is no image of entries")
    return Operation(step["op"], tokens[0], tuple(tokens[2:]), step.get("value"), f"{label} ({pointer})")


def apply(operations: Sequence[Operation], name: str, messages: list[Message]) -> list[Message]:
    """The entries of the image after all operations on it."""
    before = [values.to_dict(message) for message in messages]
    entries = copy.deepcopy(before)
    for one in operations:
        _step(entries, one)
    kinds = _kinds(name, len(entries))
    found = []
    for number, entry in enumerate(entries):
        if number < len(before) and entry == before[number]:
            found.append(messages[number])
            continue
        try:
            message = values.fill(kinds[number](), entry)
        except ImageError as error:
            raise UserError(f"--edit-script: {name}: entry {number}: {error.message}", error.hint) from None
        if not message.IsInitialized():
            raise UserError(
                f"--edit-script: {name}: entry {number} lacks {', '.join(message.FindInitializationErrors())}"
            )
        found.append(message)
    return found


def _kinds(name: str, count: int) -> list[Any]:
    from pycriu.images import schema, store

    kind = store.kind_of(name)
    return [schema.message(kind.head if kind.head and not number else kind.message) for number in range(count)]


def _step(entries: list[Any], one: Operation) -> None:
    place: Any = entries
    for token in one.path[:-1]:
        place = _below(place, token, one)
    if isinstance(place, dict):
        _in_dictionary(place, one)
    elif isinstance(place, list):
        _in_list(place, one)
    else:
        raise UserError(f"{one.label}: leads into a plain value")


def _below(place: Any, token: str, one: Operation) -> Any:
    if isinstance(place, dict):
        if token not in place:
            raise UserError(f"{one.label}: nothing is called {token} there", "a field that is not set is not there")
        return place[token]
    if isinstance(place, list):
        return place[_index(place, token, one)]
    raise UserError(f"{one.label}: leads into a plain value")


def _index(place: list[Any], token: str, one: Operation, *, behind: bool = False) -> int:
    known = token.isascii() and token.isdigit() and len(token) < 10
    if not known or int(token) >= len(place) + behind:
        raise UserError(f"{one.label}: {token} is not one of the {len(place)} that are there, which count from 0")
    return int(token)


def _in_dictionary(place: dict[str, Any], one: Operation) -> None:
    key = one.path[-1]
    if one.op == "add":
        place[key] = one.value
    elif key not in place:
        raise UserError(f"{one.label}: nothing is called {key} there", "a field that is not set is not there: add it")
    else:
        _at(place, key, one)


def _in_list(place: list[Any], one: Operation) -> None:
    token = one.path[-1]
    if one.op != "add":
        _at(place, _index(place, token, one), one)
    else:
        place.insert(len(place) if token == "-" else _index(place, token, one, behind=True), one.value)


def _at(place: Any, key: str | int, one: Operation) -> None:
    """An operation on what is there."""
    if one.op == "remove":
        del place[key]
    elif one.op == "replace":
        place[key] = one.value
    elif place[key] != one.value:
        raise UserError(f"{one.label}: there is {json.dumps(place[key])[:200]}, not {json.dumps(one.value)[:200]}")
