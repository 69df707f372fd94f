# SPDX-License-Identifier: GPL-2.0-only
"""gdb's gcore in the guest: Python, bash and a program with threads go on from it, on whatever CPU.

gdb and bash are Debian's for the guest's architecture, on its data disk (tests/packed.py).
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from layer.target import bootfile, guest
from layer.target.shell import Shell
from tests import packed

SOURCES = Path(__file__).resolve().parents[1] / "host"
THERE, HERE = "/data", "/root/gdb"
SECONDS = 120.0
SCRIPT = """
declare -A squares
for i in 1 2 3 4 5 6 7 8 9; do squares[$i]=$((i * i)); done
echo ready
until [ -e go ]; do sleep 0.1; done
echo ${squares[9]} ${#squares[@]}
"""


@pytest.fixture(scope="module")
def options(options: guest.Options, boot: bootfile.Boot) -> guest.Options:
    """With gdb on the data disk."""
    return packed.on_disk(options, lambda folder: packed.gdb_disk(boot.machine, folder))


@pytest.fixture
def shell(target: guest.Guest) -> Shell:
    """A shell, and an empty folder."""
    target.shell.run(f"rm -rf {HERE} && mkdir -m 700 {HERE}")
    return target.shell


def restarted(shell: Shell, name: str, program: str, command: str) -> str:
    """What a program says that is killed when gdb has written a core of it, and goes on from that."""
    shell.run(f"cd {HERE} && ({command} </dev/null >log 2>&1 &)")
    shell.run(f"n=0; until grep -q ready {HERE}/log || [ $n = 300 ]; do sleep 0.1; n=$((n+1)); done; sleep 1")
    pid = int(shell.out(f"pidof {name}").split()[0])
    words = f'-nx -batch -ex "gcore {HERE}/core" -ex detach -p {pid}'
    said = shell.run(f"LD_LIBRARY_PATH={THERE}/lib {THERE}/bin/gdb {words} 2>&1", timeout=SECONDS, check=False).out
    assert f"Saved corefile {HERE}/core" in said, said
    shell.run(f"kill -9 {pid}; while [ -e /proc/{pid} ]; do sleep 0.1; done; touch {HERE}/go")
    return shell.run(f"cd {HERE} && restart -n -w {program} core 2>&1", timeout=SECONDS, check=False).out


def test_a_program_with_threads(
    boot: bootfile.Boot, shell: Shell, tmp_path: Path, unless_possible: Callable[[str], None]
) -> None:
    compiler = shutil.which(f"{boot.machine.triplet}-gcc")
    if compiler is None:
        unless_possible(f"{boot.machine.triplet}-gcc is missing")
    built = tmp_path / "turns"
    subprocess.run([str(compiler), "-O1", "-pthread", "-o", str(built), str(SOURCES / "turns.c")], check=True)
    shell.put(f"{HERE}/turns", built.read_bytes(), mode=0o755)
    said = restarted(shell, "turns", "./turns", "./turns")
    assert "sum 4900 after 200 turns\nRestarted process finished, exiting with value 7" in said, said


def test_python_with_a_thread(shell: Shell) -> None:
    shell.put(f"{HERE}/program.py", (SOURCES / "turns.py").read_bytes())
    said = restarted(shell, "python3", "/usr/bin/python3", "python3 -IS program.py")
    assert "true\nRestarted process finished, exiting with value 0" in said, said


def test_bash(shell: Shell) -> None:
    """It has read its script to the end of what it needs: the list of descriptors is not known."""
    shell.put(f"{HERE}/script", ("{" + SCRIPT + "exit; }").encode())
    said = restarted(shell, "bash", f"{THERE}/bin/bash", f"LD_LIBRARY_PATH={THERE}/lib {THERE}/bin/bash script")
    assert "81 9\nRestarted process finished, exiting with value 0" in said, said
