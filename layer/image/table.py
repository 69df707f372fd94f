# SPDX-License-Identifier: GPL-2.0-only
"""The table of owners, modes and devices (recipes/base-files/table.yaml), and its application to a tree."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from layer import yamlfile
from layer.errors import BuildError
from layer.image.tree import Node, Tree
from layer.recipes import RECIPES
from layer.yamlfile import Document

TABLE = RECIPES / "base-files" / "table.yaml"
SCHEMA = RECIPES / "base-files" / "table.schema.yaml"
TYPES = {"dir": stat.S_IFDIR, "char": stat.S_IFCHR, "block": stat.S_IFBLK, "link": stat.S_IFLNK}


def apply(tree: Tree, file: Path = TABLE) -> None:
    """Make and change what the table says; an error names the table's line."""
    document = yamlfile.load(file, yamlfile.load_schema(SCHEMA))
    for index, entry in enumerate(cast("list[Mapping[str, object]]", document.data["entries"])):
        try:
            _apply(tree, entry)
        except BuildError as error:
            raise _placed(error, document, index) from error


def _apply(tree: Tree, entry: Mapping[str, object]) -> None:
    path = str(entry["path"]).lstrip("/")
    mode = int(str(entry.get("mode", "0777")), 8)
    uid, gid = _number(entry, "uid"), _number(entry, "gid")
    if entry["type"] == "file":
        tree.change(path, mode=mode, uid=uid, gid=gid)
        return
    tree.add(
        Node(
            path,
            TYPES[str(entry["type"])] | mode,
            uid,
            gid,
            target=str(entry.get("to", "")),
            device=(_number(entry, "major"), _number(entry, "minor")),
        )
    )


def _number(entry: Mapping[str, object], key: str) -> int:
    return cast("int", entry.get(key, 0))


def _placed(error: BuildError, document: Document, index: int) -> BuildError:
    return BuildError(error.message, hint=error.hint, file=document.file, line=document.line("entries", index))
