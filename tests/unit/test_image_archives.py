# SPDX-License-Identifier: GPL-2.0-only
"""The initramfs and the data disk: readable by others, the same bytes from another folder at another time."""

from __future__ import annotations

import io
import os
import stat
import subprocess
from pathlib import Path

import pytest

from layer.errors import BuildError
from layer.image import cpio, ext4
from layer.image.tree import Node, Package, Tree, collect

FIELDS = (
    "inode",
    "mode",
    "uid",
    "gid",
    "links",
    "mtime",
    "size",
    "devmajor",
    "devminor",
    "major",
    "minor",
    "name",
    "check",
)


def packed(tree: Tree) -> bytes:
    file = io.BytesIO()
    cpio.write(tree.nodes(), file)
    return file.getvalue()


def unpacked(archive: bytes) -> dict[str, tuple[dict[str, int], bytes]]:
    """Written from the format's description, apart from the writer: name → header fields, content."""
    found: dict[str, tuple[dict[str, int], bytes]] = {}
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        numbers = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        header = dict(zip(FIELDS, numbers, strict=True))
        name = archive[at + 110 : at + 110 + header["name"] - 1].decode()
        start = (at + 110 + header["name"] + 3) & ~3
        at = (start + header["size"] + 3) & ~3
        if name == "TRAILER!!!":
            assert at == len(archive)
            return found
        found[name] = (header, archive[start : start + header["size"]])


def sample(folder: Path, *, mtime: int) -> Tree:
    for name, text in (("etc/passwd", "root::0:0\n"), ("bin/odd", "x" * 7), ("bin/sh", "#!\n")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (mtime, mtime))
    (folder / "bin/ash").symlink_to("sh")
    tree = collect([Package("p", folder)])
    tree.add(Node("dev/console", stat.S_IFCHR | 0o600, gid=5, device=(5, 1)))
    return tree


def test_an_archive_holds_what_the_tree_says(tmp_path: Path) -> None:
    found = unpacked(packed(sample(tmp_path, mtime=77)))
    assert list(found) == ["bin", "bin/ash", "bin/odd", "bin/sh", "dev", "dev/console", "etc", "etc/passwd"]
    assert found["bin/odd"][1] == b"x" * 7
    assert found["bin/ash"][1] == b"sh"
    console = found["dev/console"][0]
    assert (console["mode"], console["gid"], console["major"], console["minor"]) == (stat.S_IFCHR | 0o600, 5, 5, 1)
    assert {header["mtime"] for header, _ in found.values()} == {0}
    assert {header["uid"] for header, _ in found.values()} == {0}
    assert len({header["inode"] for header, _ in found.values()}) == len(found)  # else the kernel sees hard links


def test_two_folders_and_two_days_give_the_same_archive(tmp_path: Path) -> None:
    assert packed(sample(tmp_path / "one", mtime=1)) == packed(sample(tmp_path / "a/much/longer/two", mtime=10**9))


def test_what_does_not_fit_the_format_is_refused(tmp_path: Path) -> None:
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(1 << 32)
    with pytest.raises(BuildError, match="/big is too large"):
        cpio.write([Node("big", stat.S_IFREG | 0o644, content=big)], io.BytesIO())


def test_two_data_disks_are_the_same_and_sound(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    ext4.make(one)
    ext4.make(two)
    assert one.read_bytes() == two.read_bytes()
    assert one.stat().st_size == ext4.SIZE
    assert one.stat().st_blocks * 512 < ext4.SIZE / 4  # sparse
    checked = subprocess.run(["/sbin/e2fsck", "-f", "-n", one], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    assert checked.stdout.splitlines()[-1].startswith(f"{ext4.LABEL}: 11/")


def test_the_data_disk_has_a_journal(tmp_path: Path) -> None:
    ext4.make(tmp_path / "disk")
    told = subprocess.run(
        ["/sbin/dumpe2fs", "-h", tmp_path / "disk"], capture_output=True, text=True, check=True
    ).stdout
    facts = dict(line.split(":", 1) for line in told.splitlines() if ":" in line)
    assert {"has_journal", "extent", "metadata_csum", "64bit"} <= set(facts["Filesystem features"].split())
    assert facts["Total journal blocks"].strip() == "1024"
