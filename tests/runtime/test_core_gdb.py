# SPDX-License-Identifier: GPL-2.0-only
"""gdb's gcore in the guest: Python, bash, redis and programs with threads go on from it, on whatever CPU.

gdb, bash and redis are Debian's for the guest's architecture, on its data disk (tests/packed.py).
"""

from __future__ import annotations

import re
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
RUN = f"LD_LIBRARY_PATH={THERE}/lib {THERE}/bin"  # /PROGRAM
SECONDS = 120.0
PORT = 7000
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


def started(shell: Shell, name: str, command: str, says: str = "ready") -> int:
    """A program in the background, when it says that it is there; its PID."""
    shell.run(f"cd {HERE} && ({command} </dev/null >log 2>&1 &)")
    shell.run(f"n=0; until grep -q '{says}' {HERE}/log || [ $n = 300 ]; do sleep 0.1; n=$((n+1)); done; sleep 1")
    return int(shell.out(f"pidof {name}").split()[0])


def gcore(shell: Shell, pid: int) -> None:
    """gdb writes a core of a process, which is killed."""
    words = f'-nx -batch -ex "gcore {HERE}/core" -ex detach -p {pid}'
    said = shell.run(f"{RUN}/gdb {words} 2>&1", timeout=SECONDS, check=False).out
    assert f"Saved corefile {HERE}/core" in said, said
    ended(shell, pid, "KILL")


def ended(shell: Shell, pid: int, by: str) -> None:
    """A signal ends it; what is restarted may go on to its end."""
    shell.run(f"kill -{by} {pid}; while [ -e /proc/{pid} ]; do sleep 0.1; done; touch {HERE}/go")


def restarted(shell: Shell, name: str, program: str, command: str) -> str:
    """What a program says that is killed when gdb has written a core of it, and goes on from that."""
    gcore(shell, started(shell, name, command))
    return shell.run(f"cd {HERE} && restart -n -w {program} core 2>&1", timeout=SECONDS, check=False).out


def ask(shell: Shell, *commands: str) -> list[str]:
    """What redis answers, line by line."""
    sent = "".join(f"{one}\\r\\n" for one in (*commands, "QUIT"))
    words = f"exec 3<>/dev/tcp/127.0.0.1/{PORT} && printf '{sent}' >&3 && cat <&3"
    return shell.out(f'{RUN}/bash -c "{words}"').split()


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


def test_cpp_with_threads(shell: Shell) -> None:
    """Containers, exceptions, thread-local storage, the rest of a line that has been begun.

    One arena: gdb writes the 64 MiB that glibc reserves for that of each thread, and the files are in memory here.
    """
    said = restarted(shell, "turns-cpp", f"{THERE}/bin/turns-cpp", f"MALLOC_ARENA_MAX=1 {RUN}/turns-cpp")
    assert "begun before, caught\nsum 4900 after 200 turns, the last 1225\nRestarted process finished" in said, said
    assert "exiting with value 7" in said, said


def test_redis(shell: Shell) -> None:
    """What it knows is in gdb's core; its socket and its event queue are in a side-car of before."""
    server = f"{THERE}/bin/redis-server"
    words = (
        f"{RUN}/redis-server --port {PORT} --bind 127.0.0.1 --save '' --appendonly no --ignore-warnings ARM64-COW-BUG"
    )
    shell.run("ip link set lo up")
    pid = started(shell, "redis-server", words, "Ready to accept")
    assert ask(shell, "SET before value", "RPUSH list one two") == ["+OK", ":2", "+OK"]
    shell.run(f"pycriu core save {pid} {HERE}/saved", timeout=SECONDS)
    assert ask(shell, "SET after value") == ["+OK", "+OK"]
    gcore(shell, pid)
    alone = shell.run(f"cd {HERE} && restart -n -w -V {server} core 2>&1", timeout=SECONDS, check=False).out
    assert "not in the core: open files" in alone, alone
    assert re.search(r"Restarted process (finished, exiting with value 1|exited)", alone), alone
    shell.run(f"pycriu core restore -d {HERE}/core --side {HERE}/saved.side", timeout=SECONDS)
    told = ask(shell, "GET before", "GET after", "LRANGE list 0 -1", "INCR count")
    assert told == ["$5", "value", "$5", "value", "*2", "$3", "one", "$3", "two", ":1", "+OK"]
    ended(shell, pid, "TERM")


def test_bash(shell: Shell) -> None:
    """It has read its script to the end of what it needs: the list of descriptors is not known."""
    shell.put(f"{HERE}/script", ("{" + SCRIPT + "exit; }").encode())
    said = restarted(shell, "bash", f"{THERE}/bin/bash", f"{RUN}/bash script")
    assert "81 9\nRestarted process finished, exiting with value 0" in said, said
