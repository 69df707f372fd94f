# SPDX-License-Identifier: GPL-2.0-only
"""What of a kernel's source its configuration needs: the Kconfig files and the scripts that they run, 1 % of the tree.

Kept in the cache under the kernel's release when a kernel is built, so that later audits have their reasons and fixes
without the source. Good for parsing only: nothing can be built from it.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from layer.cache import Cache
from layer.kconfig.tree import is_tree, release

FOLDER = "kconfig"  # in the cache
SCRIPTS = (".sh", ".pl")


def keep(source: Path, cache: Path) -> Path:
    """Copies the skeleton of the tree in `source` into the cache, replacing an earlier one of that release.

    One that is the same stays: another audit may be reading it.
    """
    final = cache / FOLDER / release(source)
    with Cache(cache).turn(f"{FOLDER}-{final.name}"):
        if not _same(source, final):
            _replace(source, final)
    return final


def _same(source: Path, kept: Path) -> bool:
    wanted = {file.relative_to(source) for file in _files(source)}
    there = {file.relative_to(kept) for file in kept.rglob("*") if file.is_file()}
    return wanted == there and all(filecmp.cmp(source / name, kept / name, shallow=False) for name in wanted)


def _replace(source: Path, final: Path) -> None:
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=final.parent, prefix=".new-") as name:
        made = Path(name) / "tree"
        for file in _files(source):
            target = made / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, target)
        if final.exists():
            os.rename(final, Path(name) / "old")
        os.rename(made, final)


def find(cache: Path, version: str | None) -> Path | None:
    """The skeleton of that kernel release, when the cache has it."""
    if not version:
        return None
    kept = cache / FOLDER / version
    return kept if is_tree(kept) else None


def _files(source: Path) -> Iterator[Path]:
    yield source / "Makefile"
    for folder, folders, names in os.walk(source):
        folders[:] = [name for name in folders if name not in (".git", "LICENSES", "testing")]
        for name in names:
            if name.startswith("Kconfig") or name.endswith(SCRIPTS):
                yield Path(folder) / name
