# SPDX-License-Identifier: GPL-2.0-only
"""A YAML file that knows the line of everything in it, checked against a JSON schema.

Reads one document of plain mappings, sequences and scalars; anchors and tags of other kinds are not looked for.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import jsonschema
import yaml

from layer.errors import InputError

Position = tuple[str | int, ...]  # the way to a value: keys and indices


@dataclass(frozen=True, slots=True)
class Document:
    """The values of one file, and where each stands."""

    file: Path
    data: Mapping[str, object]
    lines: Mapping[Position, int]

    def line(self, *position: str | int) -> int | None:
        """The line of the value at `position`, or of the nearest thing around it."""
        while position and position not in self.lines:
            position = position[:-1]
        return self.lines.get(position)

    def strings(self, key: str) -> tuple[str, ...]:
        """The list of strings at `key`, empty when absent."""
        return tuple(cast("list[str]", self.data.get(key, [])))


def parse(text: str, file: Path, schema: Mapping[str, object]) -> Document:
    """The document in `text`; InputError with file and line when it is not YAML or breaks the schema."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise InputError(f"not YAML: {error.problem}", file=file, line=line) from error
    if not isinstance(root, yaml.MappingNode):
        raise InputError("a mapping was expected", hint="write it as `key: value` lines", file=file, line=1)
    lines: dict[Position, int] = {}
    _note_lines(root, (), lines, file)
    data = cast("dict[str, object]", yaml.safe_load(text))
    document = Document(file, data, lines)
    _check(document, schema)
    return document


def load(file: Path, schema: Mapping[str, object]) -> Document:
    """`parse` of what stands in `file`."""
    return parse(file.read_text(), file, schema)


def load_schema(file: Path) -> Mapping[str, object]:
    """A schema, itself written as YAML."""
    return cast("Mapping[str, object]", yaml.safe_load(file.read_text()))


def suggestion(word: str, known: Iterable[str]) -> str:
    """`did you mean X? there are: …`, as a hint after an unknown word."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return (f"did you mean {close[0]}? " if close else "") + f"there are: {', '.join(known)}"


def _note_lines(node: yaml.Node, position: Position, lines: dict[Position, int], file: Path) -> None:
    lines.setdefault(position, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            _note_lines(child, (*position, index), lines, file)
    if not isinstance(node, yaml.MappingNode):
        return
    for key, child in node.value:
        name, line = str(key.value), key.start_mark.line + 1
        here = (*position, name)
        if here in lines:
            raise InputError(f"{name!r} is given twice, first in line {lines[here]}", file=file, line=line)
        lines[here] = line
        _note_lines(child, here, lines, file)


def _check(document: Document, schema: Mapping[str, object]) -> None:
    validator = jsonschema.Draft202012Validator(schema)
    errors = sorted(validator.iter_errors(document.data), key=lambda error: [str(step) for step in error.absolute_path])
    if errors:
        raise _explain(document, _deepest(errors[0], document.data))


def _deepest(error: jsonschema.ValidationError, data: object) -> jsonschema.ValidationError:
    """Of a failed oneOf, the complaint of the alternative whose key the author chose."""
    if error.validator != "oneOf" or not isinstance(error.instance, dict):
        return error
    for child in error.context or ():
        branch = error.context and child.schema_path[0]
        alternative = cast("list[Mapping[str, str]]", error.validator_value)[cast("int", branch)]
        if alternative.get("$ref", "").rsplit("/", 1)[-1] in error.instance:
            return child
    return error


def _explain(document: Document, error: jsonschema.ValidationError) -> InputError:
    position = tuple(error.absolute_path)
    at = ".".join(str(step) for step in position)
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        known = cast("Mapping[str, Mapping[str, object]]", error.schema)["properties"]
        unknown = next(key for key in error.instance if key not in known)
        line = document.line(*position, unknown)
        where = f" in {at}" if at else ""
        return InputError(
            f"unknown key {unknown!r}{where}", hint=suggestion(unknown, known), file=document.file, line=line
        )
    if error.validator == "oneOf":
        alternatives = cast("list[Mapping[str, str]]", error.validator_value)
        names = [ref["$ref"].rsplit("/", 1)[-1] for ref in alternatives]
        return InputError(
            f"{at}: must be one of: {', '.join(names)}", file=document.file, line=document.line(*position)
        )
    message = f"{at}: {error.message}" if at else error.message
    return InputError(message, file=document.file, line=document.line(*position))
