# SPDX-License-Identifier: GPL-2.0-only
"""Take out of ELF files what nothing needs at run time: symbol tables and debug information."""

from __future__ import annotations

from pathlib import Path

from layer import process
from layer.toolchain import Toolchain

ELF_MAGIC = b"\x7fELF"
RELOCATABLE = 1  # e_type of .o files and kernel modules, whose symbols are needed to link them


def strip_tree(tree: Path, toolchain: Toolchain) -> None:
    """Strip every linked ELF file under `tree`, each once however many names it has."""
    found: dict[int, str] = {}
    for path in sorted(tree.rglob("*")):
        if path.is_file() and not path.is_symlink() and _is_linked_elf(path):
            found[path.stat().st_ino] = str(path)
    if found:
        process.output([toolchain.program("strip"), "--strip-unneeded", "--preserve-dates", *found.values()])


def _is_linked_elf(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(20)
    if not head.startswith(ELF_MAGIC) or len(head) < 20:
        return False
    order = "little" if head[5] == 1 else "big"
    return int.from_bytes(head[16:18], order) != RELOCATABLE  # type: ignore[arg-type]  # a Literal that mypy widens
