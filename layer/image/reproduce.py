# SPDX-License-Identifier: GPL-2.0-only
"""Is an image the same when all of it is built again, in other folders, from nothing? Says which files are not.

Only the downloads are taken from the cache; the kernel as well, unless it is asked for, as it takes longer than all the
rest. It cannot see what depends on the build machine: that stays the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from layer import build
from layer.cache import Cache, settle
from layer.configuration import BuildFolder
from layer.errors import BuildError
from layer.image import assemble
from layer.image.tree import Node, Tree
from layer.plan import Plan


def reproduce(plan: Plan, *, kernel: bool = False) -> list[str]:
    """Build again and compare; BuildError that names what differs."""
    with plan.cache.scratch() as folder:
        again = _elsewhere(plan, folder, kernel=kernel)
        for name in again.recipes:
            build.build(again, name)
        with _assembled(plan, folder / "first") as first, _assembled(again, folder / "second") as second:
            faults = [*differences(assemble.tree(plan), assemble.tree(again)), *_files(first, second)]
    if faults:
        raise BuildError("built again, the image differs:\n  " + "\n  ".join(faults))
    count = len(again.recipes) - (0 if kernel else 1)
    return [f"{count} recipes built again in another folder: the image is the same, byte for byte"]


def differences(one: Tree, two: Tree) -> list[str]:
    """Paths that are not the same in both trees, with the package they belong to."""
    names = sorted({node.path for tree in (one, two) for node in tree.nodes()})
    return [found for name in names for found in _difference(name, one.get(name), two.get(name))]


def _difference(name: str, one: Node | None, two: Node | None) -> Iterator[str]:
    if one is None or two is None:
        there = one or two
        yield f"/{name} ({there.package if there else ''}) is in one of them only"
    elif replace(one, content=None) != replace(two, content=None):
        yield f"/{name} ({one.package}) differs in mode, owner, device or target"
    elif one.content and two.content and one.content.read_bytes() != two.content.read_bytes():
        yield f"/{name} ({one.package}) differs in content"


def _elsewhere(plan: Plan, folder: Path, *, kernel: bool) -> Plan:
    """The same plan with a cache that holds nothing but the downloads, at a path of another length."""
    cache = Cache(folder / "a-cache-of-another-name")
    cache.root.mkdir()
    (cache.root / "downloads").symlink_to(plan.cache.root / "downloads")
    again = replace(plan, cache=cache, folder=BuildFolder(folder / "build"))
    name = plan.configuration.kernel
    if not kernel:
        again.output(name).parent.mkdir(parents=True)
        again.output(name).symlink_to(plan.output(name))
    return again


@contextmanager
def _assembled(plan: Plan, folder: Path) -> Iterator[Path]:
    """The images of a plan, in a folder of their own: those of the user stay as they are."""
    assemble.assemble(replace(plan, folder=BuildFolder(folder / "build")))
    settle(folder / "build" / "images", folder / "images")
    yield folder / "images"


def _files(first: Path, second: Path) -> list[str]:
    """Finished files that differ, by name."""
    names = sorted({path.relative_to(top) for top in (first, second) for path in top.rglob("*") if path.is_file()})
    return [f"images/{name}" for name in names if _content(first / name) != _content(second / name)]


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
