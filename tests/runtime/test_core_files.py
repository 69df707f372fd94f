# SPDX-License-Identifier: GPL-2.0-only
"""Images of the guest become core files here, whatever this machine is; gdb tells every frame of every thread."""

from __future__ import annotations

import base64
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from layer.target import bootfile, guest
from layer.target.shell import Shell
from pycriu.crit import cli
from tests import gdb

SOURCE = Path(__file__).resolve().parents[1] / "host" / "deep.c"
FOLDER = "/tmp/deep"
PIECE = 1 << 13
ASKED = ("thread apply all bt", "p kept", "info auxv")


def built(boot: bootfile.Boot, folder: Path, unless_possible: Callable[[str], None]) -> Path:
    """The program for the guest, with what gdb wants to know. Return addresses are authenticated where that exists."""
    compiler = shutil.which(f"{boot.machine.triplet}-gcc")
    if compiler is None:
        unless_possible(f"{boot.machine.triplet}-gcc is missing")
    target = folder / "deep"
    protected = ["-mbranch-protection=standard"] if "aarch64" in boot.machine.triplet else []
    subprocess.run([str(compiler), "-g", "-O0", *protected, "-o", str(target), str(SOURCE)], check=True)
    return target


def test_every_thread_has_its_whole_backtrace(
    boot: bootfile.Boot,
    target: guest.Guest,
    tmp_path: Path,
    unless_possible: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    shell = target.shell
    program = built(boot, tmp_path, unless_possible)
    small = tmp_path / "small"
    subprocess.run([f"{boot.machine.triplet}-strip", "-o", str(small), str(program)], check=True)
    shell.run(f"mkdir -p {FOLDER}/images")
    shell.put(f"{FOLDER}/deep", small.read_bytes(), mode=0o755)
    shell.run(f"cd {FOLDER} && (sh -c 'echo $$ >pid; exec setsid ./deep </dev/null >log 2>&1' &)")
    shell.run(f"n=0; until [ -s {FOLDER}/log ] || [ $n = 50 ]; do sleep 0.2; n=$((n+1)); done")
    pid = int(shell.out(f"cat {FOLDER}/pid"))
    shell.run(f"cp /proc/{pid}/maps {FOLDER}/maps")
    shell.run(f"pycriu dump -D {FOLDER}/images -t {pid}", timeout=90)
    shell.run(f"cd {FOLDER} && tar -cf - images | gzip >images.tar.gz")
    archive = tmp_path / "images.tar.gz"
    archive.write_bytes(fetched(shell, f"{FOLDER}/images.tar.gz"))
    root = tmp_path / "root"
    for path in shell.out(f"grep -oE '/[^ ]+\\.so[^ ]*' {FOLDER}/maps | sort -u").split():
        (root / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(of_the_toolchain(boot, Path(path).name), root / path[1:])
    (root / FOLDER[1:]).mkdir(parents=True)
    shutil.copy(small, root / FOLDER[1:] / "deep")
    shell.run(f"rm -rf {FOLDER}")
    assert cli.main(["core", str(archive), "-o", str(tmp_path), "--root", str(root)]) == 0
    said = capsys.readouterr().out
    assert "left out" not in said, said
    try:
        said = gdb.ask(tmp_path / f"core.{pid}", program, *ASKED, sysroot=root)
    except gdb.NoGdbError as error:
        unless_possible(f"no gdb: {error}")
        raise
    expect_backtraces(said)


def of_the_toolchain(boot: bootfile.Boot, name: str) -> str:
    """A library: the image has those of the toolchain, as they are."""
    words = [f"{boot.machine.triplet}-gcc", f"-print-file-name={name}"]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


def fetched(shell: Shell, path: str) -> bytes:
    """A file of the guest in pieces: a console that is hurried loses some of what it is told."""
    size, data = int(shell.out(f"stat -L -c %s {path}")), b""
    while len(data) < size:
        wanted = min(PIECE, size - len(data))
        for _ in range(5):
            text = shell.out(f"tail -c +{len(data) + 1} {path} | head -c {wanted} | base64", timeout=60)
            piece = base64.b64decode(text)
            if len(piece) == wanted:
                break
        assert len(piece) == wanted, f"{path}: {len(piece)} of {wanted} bytes came, five times"
        data += piece
    return data


def expect_backtraces(said: str) -> None:
    """Three threads: the first and one more are six calls deep, one is in a signal handler."""
    threads = said.split("\nThread ")[1:]
    assert len(threads) == 3, said
    assert sum(text.count(" deeper (") for text in threads) == 12, said
    assert sum("in main ()" in text or " main (" in text for text in threads) == 1, said
    assert sum(" worker (" in text for text in threads) == 2, said
    handled = [text for text in threads if "<signal handler called>" in text]
    assert len(handled) == 1, said
    assert "handler (number=10)" in handled[0], said
    assert " worker (" in handled[0].partition("<signal handler called>")[2], said
    assert "$1 = 1.5" in said, said
    assert "AT_PAGESZ" in said, said
