# SPDX-License-Identifier: GPL-2.0-only
"""How much of an image each package takes, as a table of text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from layer.image.tree import Node


def per_package(nodes: Iterable[Node]) -> tuple[tuple[str, int, int], ...]:
    """(package, files, bytes) for all that brought something, the largest first."""
    files: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for node in nodes:
        if node.package and not node.is_dir:
            files[node.package] += 1
            size[node.package] += node.size
    return tuple((name, files[name], size[name]) for name in sorted(files, key=lambda name: (-size[name], name)))


def report(nodes: Iterable[Node], images: Mapping[str, Path]) -> str:
    """The table: packages as they lie in the root file system, then the finished files."""
    rows = per_package(nodes)
    lines = [f"{'package':<20}{'files':>8}{'bytes':>12}"]
    lines += [f"{name:<20}{files:>8}{size:>12}" for name, files, size in rows]
    lines.append(f"{'all packages':<20}{sum(row[1] for row in rows):>8}{sum(row[2] for row in rows):>12}")
    lines += ["", f"{'image file':<28}{'bytes':>12}"]
    lines += [f"{name:<28}{path.stat().st_size:>12}" for name, path in images.items()]
    return "\n".join(lines) + "\n"
