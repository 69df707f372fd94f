# SPDX-License-Identifier: GPL-2.0-only
"""What these programs need, what they say first, and their three forms: plain, warm, and split for a fork server.

Each is a file in this directory that begins with its imports. Packages are fetched by pip into the cache.
"""

from __future__ import annotations

import ast
import itertools
import subprocess
import sys
import textwrap
from pathlib import Path

from tests import debian

HERE = Path(__file__).resolve().parent


class Load:
    """A program, `packages` as pip names them, the directory of these in the cache, its first line."""

    def __init__(self, name: str, says: str, suffix: str, *packages: str) -> None:
        self.name, self.says, self._packages = name, says, packages
        self.folder = debian.cache() / f"warm-start-{sys.version_info.major}.{sys.version_info.minor}{suffix}"
        self._whole = self.folder / "whole"

    @property
    def path(self) -> list[str]:
        """Where its modules are."""
        return [str(HERE), str(self.folder)]

    def is_there(self) -> bool:
        """Whether its packages have been fetched."""
        return self._whole.exists()

    def fetch(self) -> None:
        """Fetch them, if need be. CalledProcessError where pip cannot."""
        if not self.is_there():
            command = [sys.executable, "-m", "pip", "install", "-q", "--upgrade", "--target", str(self.folder)]
            subprocess.run([*command, *self._packages], check=True)
            self._whole.touch()

    def plain(self) -> str:
        """Its source."""
        return (HERE / f"{self.name}.py").read_text()

    def split(self) -> tuple[str, str]:
        """Its imports, and what it does then."""
        lines = self.plain().splitlines(keepends=True)
        tree = ast.parse("".join(lines)).body
        last = next(node for node, after in itertools.pairwise(tree) if _imports(node) and not _imports(after))
        return "".join(lines[: last.end_lineno]), "".join(lines[last.end_lineno :])

    def warm(self) -> str:
        """It with its imports in a block."""
        imports, rest = self.split()
        return f"import pycriu\nwith pycriu.warm_start():\n{textwrap.indent(imports, '    ')}{rest}"


def _imports(node: ast.stmt) -> bool:
    return isinstance(node, ast.Import | ast.ImportFrom)


LOADS = (
    Load("tables", "285", "", "numpy", "pandas"),
    Load("page", "200 5", "-django", "django"),
    # Without CUDA it is not on PyPI.
    Load(
        "tensors",
        "16777216",
        "-torch",
        "torch==2.13.0+cpu",
        "numpy",
        "--extra-index-url=https://download.pytorch.org/whl/cpu",
    ),
)
