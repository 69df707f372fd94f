# SPDX-License-Identifier: GPL-2.0-only
"""Images of a guest whose CPU is another than the host's: they can be read here, byte for byte, and not be restored."""

from __future__ import annotations

import hashlib
import platform
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from layer.target import bootfile, guest
from layer.target.simpleloop import Loop

TOP = Path(__file__).resolve().parent.parent.parent


def tool(module: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """A command of this tree, on the host."""
    line = [sys.executable, "-m", module, *map(str, words)]
    return subprocess.run(line, cwd=TOP, text=True, capture_output=True, stdin=subprocess.DEVNULL, check=False)


@pytest.fixture(scope="module")
def images(boot: bootfile.Boot, target: guest.Guest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that was made in the guest."""
    loop = Loop(target.shell, "/root/other")
    loop.dump(loop.start())
    target.shell.run(f"tar c -C {loop.folder} -f /tmp/checkpoint.tar checkpoint")
    folder = tmp_path_factory.mktemp("images")
    packed = target.shell.get("/tmp/checkpoint.tar")
    assert target.shell.out("sha256sum /tmp/checkpoint.tar").split()[0] == hashlib.sha256(packed).hexdigest()
    with tarfile.open(fileobj=BytesIO(packed)) as archive:
        archive.extractall(folder)
    return folder / "checkpoint"


def test_they_are_read_and_written_alike(images: Path, tmp_path: Path) -> None:
    read = 0
    for image in sorted(images.glob("*.img")):
        if image.name.startswith("pages-"):
            continue
        text, again = tmp_path / "text", tmp_path / "again"
        decoded = tool("pycriu.crit", "decode", "-i", image, "-o", text)
        assert decoded.returncode == 0, f"{image.name}: {decoded.stderr}"
        encoded = tool("pycriu.crit", "encode", "-i", text, "-o", again)
        assert encoded.returncode == 0, f"{image.name}: {encoded.stderr}"
        assert again.read_bytes() == image.read_bytes(), image.name
        read += 1
    assert read > 8
    tree = tool("pycriu.crit", "x", images, "ps")
    assert "test.sh" in tree.stdout, tree


def test_they_are_refused(boot: bootfile.Boot, images: Path) -> None:
    if boot.machine.name == platform.machine():
        pytest.skip(f"the host is of the guest's architecture, {platform.machine()}")
    done = tool("pycriu", "restore", "-D", images, "-o", "-")
    assert done.returncode == 1
    assert f"another CPU architecture, {boot.machine.name}; this machine is {platform.machine()}" in done.stdout, done
