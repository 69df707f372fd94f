# SPDX-License-Identifier: GPL-2.0-only
"""boot.json: what a build left to boot. Read and checked; nothing is built here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from layer import machine
from layer.errors import InputError


@dataclass(frozen=True, slots=True)
class Boot:
    """The files of one image, and the templates it was made of."""

    machine: machine.Machine
    kernel: Path
    initramfs: Path
    data: Path
    kernel_config: Path
    templates: tuple[str, ...]
    file: Path


def load(path: Path) -> Boot:
    """Read `path`; InputError when it or a file that it names is missing."""
    try:
        said = cast("dict[str, object]", json.loads(path.read_text()))
        files = {key: path.parent / str(said[key]) for key in ("kernel", "initramfs", "data", "kernel_config")}
        boot = Boot(machine.load(str(said["machine"])), **files, file=path,
                    templates=tuple(cast("list[str]", said["templates"])))  # fmt: skip
    except FileNotFoundError as error:
        raise InputError("there is no image to boot", file=path, hint=_build_it(path)) from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"malformed: {error!r}", file=path) from error
    missing = [str(file) for file in files.values() if not file.exists()]
    if missing:
        raise InputError(f"names files that do not exist: {', '.join(missing)}", file=path, hint=_build_it(path))
    return boot


def _build_it(path: Path) -> str:
    folder = path.parent.parent
    configure = f"./configure --template feature/criu,feature/victims --machine {folder.name} --builddir {folder}"
    return f"build it: {configure} && ninja -C {folder} image"
