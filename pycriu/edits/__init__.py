# SPDX-License-Identifier: GPL-2.0-only
"""Changes to images while they are read: nothing is written, the checkpoint stays as it is.

    rules    "files:reg:/old/%=/new/%" and the like: grammar and patterns
    targets  what rules can change, and how
    script   a JSON patch (RFC 6902) on images as `crit decode` shows them

All is read and checked before a process is touched. A rule that matches nothing is refused: who wrote it meant
something. Imported only where a restore is asked for changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pycriu.edits import rules, script, targets
from pycriu.errors import ImageError, UserError
from pycriu.images import payloads, store

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from google.protobuf.message import Message


class Edits:
    """All changes that a restore is asked for. Called with each image that is read, it gives back the changed one."""

    def __init__(self, texts: Sequence[str], script_path: str | None) -> None:
        self._rules = [targets.checked(rules.parse(text)) for text in texts]
        self._script = script.load(script_path) if script_path is not None else []
        self._counts = [0] * len(self._rules)
        self._patched: set[str] = set()

    def __call__(self, name: str, entries: list[tuple[Message, bytes]]) -> list[tuple[Message, bytes]]:
        """The entries of an image, changed."""
        wanted = [one for one in self._script if one.image == name]
        if wanted:
            self._patched.add(name)
            messages = script.apply(wanted, name, [message for message, _ in entries])
            entries = _with_payloads(name, messages, entries)
        for message, _ in entries:
            for inner in _all(message):
                self._edit(inner)
        return entries

    def _edit(self, message: Message) -> None:
        """What the rules say of one message; of several for one value the first that matches counts."""
        for value in targets.values(message):
            for number, rule in enumerate(self._rules):
                if rule.target == value.target and value.replace(rule):
                    self._counts[number] += 1
                    break

    def check_used(self) -> list[str]:
        """What was changed, a sentence for each rule; UserError for one that has changed nothing."""
        idle = [rule.text for rule, count in zip(self._rules, self._counts, strict=True) if not count and rule.needed]
        if idle:
            raise UserError(
                f"--edit {idle[0]}: nothing in the images matches",
                "crit decode shows what there is; a rule that begins with ? need not match",
            )
        missed = [one.image for one in self._script if one.image not in self._patched]
        if missed:
            raise UserError(
                f"--edit-script: {missed[0]} is not there, or no restore reads it", "crit info lists images"
            )
        said = [f"--edit {rule.text}: {count} changes" for rule, count in zip(self._rules, self._counts, strict=True)]
        return said + ([f"--edit-script: {len(self._script)} operations"] if self._script else [])


def _all(message: Any) -> Iterator[Any]:
    """A message and every one in it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for one in (value,) if hasattr(value, "ListFields") else value:
                yield from _all(one)


def _with_payloads(
    name: str, messages: list[Message], entries: list[tuple[Message, bytes]]
) -> list[tuple[Message, bytes]]:
    """Changed messages with what followed them; ImageError where that does not fit any more."""
    kind = store.kind_of(name)
    if not kind.payload or kind.payload == "ghost":  # a deleted file comes by its head alone
        return [(message, b"") for message in messages]
    if len(messages) != len(entries):
        raise UserError(f"--edit-script: {name}: what follows its entries can be neither added nor removed")
    rule = payloads.RULES[kind.payload]
    found = [(message, payload) for message, (_, payload) in zip(messages, entries, strict=True)]
    for message, payload in found:
        if rule(message, memoryview(payload), 0) != len(payload):
            raise ImageError(
                f"--edit-script: {name}: an entry says that something else than {len(payload)} bytes follow"
            )
    return found
