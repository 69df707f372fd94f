# SPDX-License-Identifier: GPL-2.0-only
"""What configure decided, kept as config.json in a build folder, and where the other things of that folder lie."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from layer.cache import write_if_changed
from layer.errors import InputError


@dataclass(frozen=True, slots=True)
class Configuration:
    """One resolved choice of templates for one machine."""

    machine: str
    kernel: str  # the kernel's recipe
    requested: tuple[str, ...]  # templates as the user named them
    templates: tuple[str, ...]  # with all they require, requirements first
    packages: tuple[str, ...]  # recipes that go into the image, without what those need
    fragments: tuple[str, ...]  # kernel fragments in order; relative to the repository, or absolute
    strict_lock: bool
    command: tuple[str, ...]  # the arguments of configure that lead here again


@dataclass(frozen=True, slots=True)
class BuildFolder:
    """The layout of build/<machine>."""

    path: Path

    @property
    def config(self) -> Path:
        """The configuration itself."""
        return self.path / "config.json"

    @property
    def graph(self) -> Path:
        """ninja's file."""
        return self.path / "build.ninja"

    @property
    def images(self) -> Path:
        """What a build is for."""
        return self.path / "images"

    @property
    def overlay(self) -> Path:
        """Pins that stand in for ones that the archive has dropped."""
        return self.path / "sources.overlay.lock"

    def stamp(self, recipe: str) -> Path:
        """Which key this folder last used of a recipe."""
        return self.path / "recipes" / f"{recipe}.json"

    def fetched(self, recipe: str) -> Path:
        """Which pin of a recipe's source is at hand."""
        return self.path / "recipes" / f"{recipe}.fetched"

    def log(self, recipe: str) -> Path:
        """What the steps of a recipe printed."""
        return self.path / "logs" / f"{recipe}.log"


def write(folder: BuildFolder, configuration: Configuration) -> bool:
    """Keep the configuration; says whether it differs from what was there."""
    return write_if_changed(folder.config, json.dumps(asdict(configuration), indent=2) + "\n")


def read(folder: BuildFolder) -> Configuration:
    """The configuration of a build folder; InputError when it was never configured."""
    if not folder.config.is_file():
        raise InputError(f"{folder.path} is not a build folder", hint="./configure --template feature/criu makes one")
    try:
        data = cast("dict[str, object]", json.loads(folder.config.read_text()))
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}
        return Configuration(**values)  # type: ignore[arg-type]  # our own file; the constructor checks the names
    except (ValueError, TypeError) as error:
        raise InputError(
            f"not a configuration of this version: {error}", hint="run ./configure again", file=folder.config
        ) from error
