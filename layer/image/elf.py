# SPDX-License-Identifier: GPL-2.0-only
"""What would only show at boot, asked before it: can every program of a tree be loaded on the machine, and is it clean?

Libraries that a program opens by name at run time (dlopen) are not seen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import InterpSegment

from layer.errors import BuildError
from layer.image.tree import Node, Tree
from layer.machine import ElfNames


@dataclass(frozen=True, slots=True)
class Loading:
    """What an ELF file says about itself."""

    machine: str
    interpreter: str  # "" for a library
    needed: tuple[str, ...]
    run_path: str  # RPATH or RUNPATH


def check(tree: Tree, names: ElfNames, build_paths: Iterable[str]) -> int:
    """How many ELF files there are, all sound; BuildError that lists everything wrong with the others."""
    unwanted = {path: _pattern(path) for path in build_paths}
    faults: list[str] = []
    count = 0
    for node in tree.nodes():
        if node.content is None:
            continue
        with node.content.open("rb") as file:
            content = file.read()
        faults += [
            f"/{node.path} ({node.package}): holds the build's path {path}"
            for path, pattern in unwanted.items()
            if pattern.search(content)
        ]
        if content.startswith(b"\x7fELF"):
            count += 1
            faults += [f"/{node.path} ({node.package}): {fault}" for fault in _faults(tree, names, node.content)]
    if faults:
        raise BuildError(
            "the image would not run as it is:\n  " + "\n  ".join(faults), hint="correct the recipe in brackets"
        )
    return count


def read(path: Path) -> Loading:
    """The header, interpreter and dynamic section of an ELF file."""
    with path.open("rb") as file:
        elf = ELFFile(file)
        interpreter = next(
            (part.get_interp_name() for part in elf.iter_segments() if isinstance(part, InterpSegment)), ""
        )
        tags = list(_dynamic(elf))
    return Loading(
        machine=elf["e_machine"],
        interpreter=interpreter,
        needed=tuple(value for tag, value in tags if tag == "DT_NEEDED"),
        run_path=next((value for tag, value in tags if tag in {"DT_RPATH", "DT_RUNPATH"}), ""),
    )


def _pattern(path: str) -> re.Pattern[bytes]:
    """A short path such as /src/ is also the end of others (/usr/src/): it counts only where a path begins."""
    begins = rb"(?<![\w.-])" if path.strip("/").count("/") < 2 else b""
    return re.compile(begins + re.escape(path.encode()))


def _dynamic(elf: ELFFile) -> Iterator[tuple[str, str]]:
    attributes = {"DT_NEEDED": "needed", "DT_RPATH": "rpath", "DT_RUNPATH": "runpath"}
    for section in elf.iter_sections():
        if isinstance(section, DynamicSection):
            for tag in section.iter_tags():
                if tag.entry.d_tag in attributes:
                    yield tag.entry.d_tag, getattr(tag, attributes[tag.entry.d_tag])


def _faults(tree: Tree, names: ElfNames, path: Path) -> Iterator[str]:
    loading = read(path)
    if loading.machine != names.machine:
        yield f"is for {loading.machine}, not {names.machine}"
        return
    if loading.interpreter and not _is_file(tree, loading.interpreter):
        yield f"its interpreter {loading.interpreter} is not in the image"
    if loading.run_path:
        yield f"looks for libraries in {loading.run_path}"
    folders = (names.libdir, f"usr/{names.libdir}", "lib", "usr/lib")
    for library in loading.needed:
        if PurePosixPath(names.interpreter).name == library and _is_file(tree, names.interpreter):
            continue  # the C library needs the loader, which is mapped already
        if not any(_is_file(tree, f"{folder}/{library}") for folder in folders):
            yield f"needs {library}, which is not in the image"


def _is_file(tree: Tree, path: str) -> bool:
    node: Node | None = tree.resolve(path.lstrip("/"))
    return node is not None and node.content is not None
