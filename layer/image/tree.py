# SPDX-License-Identifier: GPL-2.0-only
"""The root file system as a list of nodes. Nothing is copied and no privilege needed: owners and devices are data.

Hard links are not kept: each name becomes a file of its own.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from layer.errors import BuildError
from layer.image.selection import matches


@dataclass(frozen=True, slots=True)
class Node:
    """One name in the root file system; `mode` holds the type as well, as in stat(2)."""

    path: str  # without the leading slash
    mode: int
    uid: int = 0
    gid: int = 0
    content: Path | None = None  # of a regular file
    target: str = ""  # of a symbolic link
    device: tuple[int, int] = (0, 0)  # major and minor
    package: str = ""  # who brought it; "" for what no package did

    @property
    def is_dir(self) -> bool:
        """Whether other nodes may lie under it."""
        return stat.S_ISDIR(self.mode)

    @property
    def size(self) -> int:
        """Bytes of content."""
        return self.content.stat().st_size if self.content else len(os.fsencode(self.target))


@dataclass(frozen=True, slots=True)
class Package:
    """A recipe's result and which of its files are wanted."""

    name: str
    dest: Path
    include: tuple[str, ...] = ("**",)
    exclude: tuple[str, ...] = ()


class Tree:
    """Nodes by path. Parents are made as needed; one path has one owner."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}

    def __contains__(self, path: str) -> bool:
        return path in self._nodes

    def get(self, path: str) -> Node | None:
        """The node called `path`."""
        return self._nodes.get(path)

    def nodes(self) -> tuple[Node, ...]:
        """Every node, sorted by path: parents come before what lies in them."""
        return tuple(self._nodes[path] for path in sorted(self._nodes))

    def add(self, node: Node) -> None:
        """Put in one node; BuildError when another package owns the path already."""
        there = self._nodes.get(node.path)
        if there is not None and not (there.is_dir and node.is_dir):
            raise BuildError(
                f"/{node.path} comes from both {there.package or 'the table'} and {node.package or 'the table'}",
                hint="leave it out of one of them (package: exclude: in its recipe)",
            )
        self._make_parents(node)
        self._nodes[node.path] = node

    def change(self, path: str, *, mode: int, uid: int, gid: int) -> None:
        """Give a node that is there other permissions and another owner."""
        there = self._nodes.get(path)
        if there is None:
            raise BuildError(f"no package brings /{path}, whose mode the table sets")
        self._nodes[path] = replace(there, mode=stat.S_IFMT(there.mode) | mode, uid=uid, gid=gid)

    def resolve(self, path: str) -> Node | None:
        """The node that `path` leads to, symbolic links followed; None when one leads nowhere."""
        for _ in range(40):  # as many links as Linux follows
            link = next((node for node in self._upto(path) if stat.S_ISLNK(node.mode)), None)
            if link is None:
                return self._nodes.get(path)
            rest = path[len(link.path) :].lstrip("/")
            base = PurePosixPath("/") / PurePosixPath(link.path).parent / link.target / rest
            path = os.path.normpath(base).lstrip("/")
        return None

    def _upto(self, path: str) -> Iterable[Node]:
        names = path.split("/")
        for count in range(1, len(names) + 1):
            node = self._nodes.get("/".join(names[:count]))
            if node is not None:
                yield node

    def _make_parents(self, node: Node) -> None:
        for parent in reversed(PurePosixPath(node.path).parents[:-1]):
            there = self._nodes.get(str(parent))
            if there is None:
                self._nodes[str(parent)] = Node(str(parent), stat.S_IFDIR | 0o755)
            elif not there.is_dir:
                raise BuildError(
                    f"/{node.path} of {node.package} lies under /{parent}, which is no folder in {there.package}"
                )


def collect(packages: Iterable[Package]) -> Tree:
    """All wanted files of all packages in one tree; everything belongs to root."""
    tree = Tree()
    for package in packages:
        for path in sorted(package.dest.rglob("*")):
            name = path.relative_to(package.dest).as_posix()
            if matches(name, package.include) and not matches(name, package.exclude):
                _add(tree, package, name, path)
    return tree


def _add(tree: Tree, package: Package, name: str, path: Path) -> None:
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        tree.add(Node(name, stat.S_IFLNK | 0o777, target=os.readlink(path), package=package.name))
    elif stat.S_ISREG(status.st_mode):
        # Whoever built it had some umask; only whether it can be run is the package's own word.
        mode = stat.S_IFREG | (0o755 if status.st_mode & stat.S_IXUSR else 0o644)
        tree.add(Node(name, mode, content=path, package=package.name))
    elif stat.S_ISDIR(status.st_mode):
        if not any(path.iterdir()):  # others appear with what lies in them
            tree.add(Node(name, stat.S_IFDIR | 0o755, package=package.name))
    else:
        raise BuildError(
            f"{package.name} holds /{name}, neither file, folder nor link", hint="devices go into the table"
        )
