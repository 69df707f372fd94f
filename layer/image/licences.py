# SPDX-License-Identifier: GPL-2.0-only
"""The licences of what is in an image: a list, and the texts. A package without either is an error."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from cyclonedx import spdx

from layer.errors import BuildError, InputError
from layer.image.contents import Part


def write(parts: Iterable[Part], folder: Path) -> None:
    """Put the texts into `folder`, one folder a package, and the list beside them."""
    lines = []
    for part in sorted(parts, key=lambda part: part.name):
        check(part)
        shutil.copytree(part.licences, folder / part.name, copy_function=shutil.copyfile)
        texts = ", ".join(f"{part.name}/{path.name}" for path in sorted(part.licences.iterdir()))
        lines.append(f"{part.name} {part.version}\n  {part.recipe.licence}\n  {texts}\n")
    (folder / "index.txt").write_text("\n".join(lines))


def check(part: Part) -> None:
    """Refuse a package whose licence cannot be told, or whose texts are missing."""
    recipe = part.recipe
    if not spdx.is_expression(recipe.licence):
        raise InputError(
            f"{recipe.licence!r} is no SPDX expression",
            hint="identifiers are those of the SPDX list, joined by AND, OR and WITH",
            file=recipe.file,
            line=recipe.document.line("licence"),
        )
    if not part.licences.is_dir() or not any(part.licences.iterdir()):
        raise BuildError(
            f"{recipe.name} is in the image without a licence text",
            hint="name the files in its source that hold it: licence_files",
            file=recipe.file,
        )
