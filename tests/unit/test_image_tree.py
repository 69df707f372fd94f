# SPDX-License-Identifier: GPL-2.0-only
"""Files of packages become one tree: what is chosen, who owns a path, where links lead, what the table adds."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from layer.errors import BuildError, InputError
from layer.image import table
from layer.image.reproduce import differences
from layer.image.selection import matches
from layer.image.tree import Node, Package, Tree, collect


def put(path: Path, text: str = "", *, mode: int = 0o644) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("path", "glob", "expected"),
    [
        ("usr/lib/libz.so.1", "usr/lib/libz.so.*", True),
        ("usr/lib/libz.so", "usr/lib/libz.so.*", False),
        ("usr/lib/a/libz.so.1", "usr/lib/libz.so.*", False),
        ("a.py", "**/*.py", True),
        ("usr/lib/x/a.py", "**/*.py", True),
        ("usr/lib/x/a.pyc", "**/*.py", False),
        ("usr/lib/python3.13/re/__init__.pyc", "usr/lib/python3.13/**", True),
        ("usr/lib/python3x13/re", "usr/lib/python3.13/**", False),
        ("a/bc", "a/b?", True),
        ("a/b/", "a/b?", False),
    ],
)
def test_globs(path: str, glob: str, expected: bool) -> None:
    assert matches(path, [glob]) is expected


def test_a_package_gives_only_what_is_wanted(tmp_path: Path) -> None:
    put(tmp_path / "usr/lib/libz.so.1.3")
    (tmp_path / "usr/lib/libz.so.1").symlink_to("libz.so.1.3")
    put(tmp_path / "usr/include/zlib.h")
    put(tmp_path / "usr/lib/libz.so.1.debug")
    tree = collect([Package("zlib", tmp_path, ("usr/lib/**",), ("**/*.debug",))])
    assert [node.path for node in tree.nodes()] == ["usr", "usr/lib", "usr/lib/libz.so.1", "usr/lib/libz.so.1.3"]
    link = tree.get("usr/lib/libz.so.1")
    assert link is not None and link.target == "libz.so.1.3" and link.package == "zlib"


def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    put(tmp_path / "run", mode=0o700)
    put(tmp_path / "read", mode=0o600)
    modes = {node.path: stat.S_IMODE(node.mode) for node in collect([Package("p", tmp_path)]).nodes()}
    assert modes == {"run": 0o755, "read": 0o644}


def test_two_packages_cannot_own_one_path(tmp_path: Path) -> None:
    put(tmp_path / "a/bin/sh")
    put(tmp_path / "b/bin/sh")
    with pytest.raises(BuildError, match=r"/bin/sh comes from both a and b"):
        collect([Package("a", tmp_path / "a"), Package("b", tmp_path / "b")])


def test_nothing_lies_under_a_file() -> None:
    tree = Tree()
    tree.add(Node("lib", stat.S_IFLNK | 0o777, target="usr/lib", package="a"))
    with pytest.raises(BuildError, match=r"/lib/x of b lies under /lib, which is no folder in a"):
        tree.add(Node("lib/x", stat.S_IFREG | 0o644, package="b"))


def test_a_fifo_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BuildError, match="holds /pipe, neither file"):
        collect([Package("odd", tmp_path)])


def test_links_are_followed_within_the_tree(tmp_path: Path) -> None:
    tree = Tree()
    library = put(tmp_path / "libc.so.6")
    tree.add(Node("usr/lib/libc-2.so", stat.S_IFREG | 0o755, content=library))
    tree.add(Node("usr/lib/libc.so.6", stat.S_IFLNK | 0o777, target="libc-2.so"))
    tree.add(Node("lib", stat.S_IFLNK | 0o777, target="usr/lib"))
    tree.add(Node("opt/abs", stat.S_IFLNK | 0o777, target="/lib/libc.so.6"))
    tree.add(Node("opt/loop", stat.S_IFLNK | 0o777, target="loop"))
    for path in ("lib/libc.so.6", "opt/abs", "usr/lib/libc.so.6"):
        found = tree.resolve(path)
        assert found is not None and found.path == "usr/lib/libc-2.so", path
    assert tree.resolve("opt/loop") is None
    assert tree.resolve("lib/libm.so.6") is None


def test_the_table_of_the_images_is_sound(tmp_path: Path) -> None:
    put(tmp_path / "etc/passwd", mode=0o755)
    tree = collect([Package("base-files", tmp_path)])
    table.apply(tree)
    console, passwd, temporary = tree.get("dev/console"), tree.get("etc/passwd"), tree.get("tmp")
    assert console is not None and stat.S_ISCHR(console.mode) and console.device == (5, 1)
    assert passwd is not None and stat.S_IMODE(passwd.mode) == 0o644 and passwd.package == "base-files"
    assert temporary is not None and stat.S_IMODE(temporary.mode) == 0o1777


@pytest.mark.parametrize(
    ("entry", "error", "words"),
    [
        ('{path: /etc/none, type: file, mode: "0600"}', BuildError, "no package brings /etc/none"),
        ('{path: /etc, type: char, mode: "0600", major: 1, minor: 1}', BuildError, "/etc comes from both"),
        ('{path: /dev/x, type: char, mode: "0600"}', InputError, "'major' is a required property"),
        ("{path: /dev/x, type: dir, mode: 755}", InputError, "755 is not of type 'string'"),
        ("{path: /x, type: link}", InputError, "'to' is a required property"),
        ('{path: x, type: dir, mode: "0755"}', InputError, "'x' does not match"),
    ],
)
def test_a_wrong_line_of_the_table_is_named(tmp_path: Path, entry: str, error: type[Exception], words: str) -> None:
    file = put(tmp_path / "table.yaml", f"entries:\n  - {{path: /etc, type: dir, mode: '0755'}}\n  - {entry}\n")
    with pytest.raises(error, match=words) as caught:
        table.apply(Tree(), file)
    assert str(caught.value).startswith(f"{file}:3: ")


def test_what_differs_between_two_trees_is_named_with_its_package(tmp_path: Path) -> None:
    put(tmp_path / "one/same", "x")
    put(tmp_path / "two/same", "x")
    put(tmp_path / "one/changed", "x")
    put(tmp_path / "two/changed", "y")
    put(tmp_path / "one/mode", "x")
    put(tmp_path / "two/mode", "x", mode=0o755)
    put(tmp_path / "two/more")
    one, two = (collect([Package("p", tmp_path / name)]) for name in ("one", "two"))
    assert differences(one, one) == []
    assert differences(one, two) == [
        "/changed (p) differs in content",
        "/mode (p) differs in mode, owner, device or target",
        "/more (p) is in one of them only",
    ]
