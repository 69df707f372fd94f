# SPDX-License-Identifier: GPL-2.0-only
"""docs/guide.md on the target: its first process, a PID that is taken and the ways out of that, and what lies about."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from layer.target import guest

GUIDE = (Path(__file__).parents[2] / "docs/guide.md").read_text()
FOLDER = "/tmp/guide"
UNTIL = "n=0; until {}; do sleep 0.1; n=$((n+1)); [ $n -lt 300 ] || exit 1; done"


def command(action: str, pid: int) -> str:
    """The line of the guide, with the PID and the directory of the test."""
    (line,) = [line for line in GUIDE.splitlines() if line.startswith(f"# pycriu {action} ") and "--shell-job" in line]
    return line.removeprefix("# ").replace("/tmp/checkpoint", "checkpoint").replace("123456", str(pid))


class World:
    """A folder with the program of the guide."""

    def __init__(self, target: guest.Guest) -> None:
        self._shell = target.shell
        (program,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
        self._shell.run(f"rm -rf {FOLDER}; mkdir {FOLDER}; cat >{FOLDER}/debug.py <<'END'\n{program}END")

    def run(self, line: str) -> str:
        """What a line says, that must end well."""
        return str(self._shell.run(f"cd {FOLDER}; {line}", timeout=120).out)

    def fails(self, line: str) -> str:
        """What a line says, that must not."""
        done = self._shell.run(f"cd {FOLDER}; {line} 2>&1", check=False, timeout=120)
        assert done.status, done.out
        return str(done.out)

    def start(self) -> int:
        """The program, as a job of the shell; its PID."""
        self.run("rm -rf out checkpoint; python3 debug.py </dev/null >out 2>&1 &")
        self.run(UNTIL.format("grep -q ready out"))
        return int(self.run("cat out").split()[1])

    def end(self, pid: int) -> None:
        """It waits for a signal, as before. (SIGINT is ignored in what a script has in the background.)"""
        self.run(UNTIL.format(f"grep -q 'State:.S' /proc/{pid}/status"))
        self.run(f"kill -TERM {pid}; {UNTIL.format(f'[ ! -e /proc/{pid} ]')}")


@pytest.fixture
def world(target: guest.Guest) -> World:
    return World(target)


def test_the_first_process(world: World) -> None:
    pid = world.start()
    assert "add --shell-job" in world.fails(f"pycriu dump -t {pid} -D checkpoint")
    said = world.run(f"{command('dump', pid)} -v4 -o - 2>&1")
    assert "Dumping finished successfully" in said
    assert "cuda" not in said.lower()
    assert world.run("stat -c %a checkpoint checkpoint/pstree.img").split() == ["700", "600"]
    world.run(UNTIL.format(f"[ ! -e /proc/{pid} ]"))
    world.run(f"{command('restore', pid)} -d")
    world.end(pid)


def test_the_pid_is_taken(world: World) -> None:
    pid = world.start()
    world.run(f"{command('dump', pid)} -R")
    said = world.fails(command("restore", pid))
    for words in (f"PID {pid} is in use by python3", f"kill {pid}", "--wait-pid", "--new-pid"):
        assert words in said
    beside = world.run(f"{command('restore', pid)} -d --new-pid")
    outer = int(beside.removeprefix("restored with PID "))
    assert world.run(f"grep NSpid /proc/{outer}/status").split() == ["NSpid:", str(outer), str(pid)]
    assert world.run(f"cat /proc/$(awk '/PPid/{{print $2}}' /proc/{outer}/status)/comm") == "pycriu-init\n"
    world.run(f"kill -KILL {outer}; {UNTIL.format(f'[ ! -e /proc/{outer} ]')}")
    world.run(f"{command('restore', pid)} -d --wait-pid 60 -v3 -o waiting &")
    world.run(UNTIL.format("grep -q ': waiting' checkpoint/waiting"))
    world.run(f"kill -KILL {pid}; {UNTIL.format('grep -q Tasks.resumed checkpoint/waiting')}")
    world.end(pid)


def test_what_lies_about(world: World) -> None:
    """What a checkpoint elsewhere builds upon stays, for as long as that is there."""
    pid = world.start()
    world.run("mkdir shelf elsewhere")
    for name in (
        "first",
        "second --prev-images-dir ../first",
        "../elsewhere/child --prev-images-dir ../../shelf/second",
    ):
        world.run(f"cd shelf; pycriu dump -t {pid} -j -R -D {name}")
    world.run(f"cd shelf; pycriu dump -t {pid} -j -D third")
    _, *listed = world.run("pycriu ls shelf").splitlines()
    assert [line.partition(" shelf/")[2] for line in listed] == [
        "first", f"second <- {FOLDER}/shelf/first", "third",
    ]  # fmt: skip
    kept = world.run("pycriu gc --keep 1 shelf").splitlines()
    assert f"kept {FOLDER}/shelf/second: {FOLDER}/elsewhere/child builds upon it" in kept
    assert kept[-1].startswith("removed 0 of 3")
    world.run("rm -r elsewhere")
    assert world.run("pycriu gc --keep 1 shelf").splitlines()[-1].startswith("removed 2 of 3")
    assert world.run("ls shelf") == "third\n"
