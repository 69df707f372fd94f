# SPDX-License-Identifier: GPL-2.0-only
"""From source files to a source tree: unpacked, patched, and dated (the SOURCE_DATE_EPOCH of what is built from it)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from layer import process
from layer.errors import BuildError
from layer.keys import repository_files
from layer.recipes import DebianSource, PathSource, Recipe

# The date of everything that is built from this repository itself, whose files carry no dates of their own.
REPOSITORY_EPOCH = 1735689600


def unpack(recipe: Recipe, files: Mapping[str, Path], folder: Path, top: Path) -> int:
    """Make `folder` the recipe's source tree; returns the source's date."""
    match recipe.source:
        case DebianSource() as source:
            epoch = _debian(files, folder, patched=source.patched)
        case PathSource() as source:
            epoch = _repository(source, folder, top)
        case None:
            folder.mkdir(parents=True)
            epoch = REPOSITORY_EPOCH
        case _:
            epoch = _archives(files, folder)
    for patch in recipe.patches:
        process.output(["patch", "-p1", "--fuzz=0", "--no-backup-if-mismatch", "-i", str(top / patch)], cwd=folder)
    return epoch


def _debian(files: Mapping[str, Path], folder: Path, *, patched: bool) -> int:
    """dpkg-source wants all files of a package side by side."""
    beside = folder.with_name(f"{folder.name}.files")
    beside.mkdir()
    for name, path in files.items():
        (beside / name).symlink_to(path)
    (control,) = beside.glob("*.dsc")
    options = [] if patched else ["--skip-patches"]
    process.output(["dpkg-source", "--no-check", *options, "-x", control.name, str(folder)], cwd=beside)
    shutil.rmtree(beside)
    return int(process.output(["dpkg-parsechangelog", "-l", str(folder / "debian/changelog"), "-S", "Timestamp"]))


def _repository(source: PathSource, folder: Path, top: Path) -> int:
    folder.mkdir(parents=True)
    found = repository_files(source.paths, top)
    if not found:
        raise BuildError(f"nothing in the repository is called {', '.join(source.paths)}")
    for name, path in found:
        copy = folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy, follow_symlinks=False)
        os.utime(copy, (REPOSITORY_EPOCH, REPOSITORY_EPOCH), follow_symlinks=False)
    return REPOSITORY_EPOCH


def _archives(files: Mapping[str, Path], folder: Path) -> int:
    folder.mkdir(parents=True)
    for name, path in files.items():
        if ".tar" in name or name.endswith(".tgz"):
            process.output(["tar", "--extract", "--no-same-owner", "--file", str(path), "--directory", str(folder)])
        else:
            shutil.copy2(path, folder / name)
    _lift_single_folder(folder)
    return max((int(path.lstat().st_mtime) for path in folder.rglob("*") if path.is_file()), default=REPOSITORY_EPOCH)


def _lift_single_folder(folder: Path) -> None:
    """Archives usually hold one folder name-version/: its content is the source."""
    entries = list(folder.iterdir())
    if len(entries) == 1 and entries[0].is_dir():
        inner = entries[0].rename(folder.with_name(f"{folder.name}.lifted"))
        folder.rmdir()
        inner.rename(folder)
