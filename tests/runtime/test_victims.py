# SPDX-License-Identifier: GPL-2.0-only
"""Every victim of tests/victims in the guest: dumped and restored, dumped and left running, and that twice over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from layer.target import bootfile, guest
from layer.target.deadline import Deadline
from layer.target.shell import Shell

VICTIMS = Path(__file__).resolve().parent.parent / "victims"
THERE = "/usr/lib/victims"  # where feature/victims puts them
NAMES = sorted(file.stem for file in VICTIMS.glob("*.py") if file.stem != "victim")
READY = 60.0  # seconds: an emulated CPU starts Python slowly
JUDGED = 60.0


@pytest.fixture(scope="module", autouse=True)
def _victims(boot: bootfile.Boot, unless_possible: Callable[[str], None]) -> None:
    if "feature/victims" not in boot.templates:
        unless_possible(f"{boot.file} was configured without feature/victims")


class Victim:
    """One victim in a folder of its own in the guest."""

    def __init__(self, shell: Shell, name: str, how: str) -> None:
        self.shell = shell
        self.name = name
        self.folder = f"/tmp/{name}-{how}"
        self.pid = 0

    def start(self) -> None:
        """Start it in a session of its own and wait for its word."""
        self.shell.run(f"mkdir {self.folder}")
        # The shell that starts it writes the PID and becomes setsid, which becomes python: one process, one PID.
        line = f"echo $$ >pid; exec setsid python3 -B {THERE}/{self.name}.py </dev/null >log 2>&1"
        self.shell.run(f"cd {self.folder} && (sh -c '{line}' &)")
        self.hear("READY", READY)
        self.pid = int(self.shell.out(f"cat {self.folder}/pid"))

    def hear(self, word: str, seconds: float) -> str:
        """The log, once it holds `word` (or a verdict), or fail."""
        seconds *= self.shell.slowness
        told = f"grep -qE '^({word}|PASS|FAIL)' log"
        look = f"n=0; until {told} || [ $n -ge {seconds:.0f} ]; do sleep 1; n=$((n+1)); done"
        log = self.shell.run(f"cd {self.folder}; {look}; cat log", timeout=seconds + 10).out
        assert word in log or "FAIL" in log, f"no {word} within {seconds:.0f} s; its log: {log}"
        return log

    def dump(self, images: str, *options: str) -> None:
        """Dump it."""
        words = " ".join(["pycriu", "dump", "-D", images, "-o", "dump.log", "-v4", "-t", str(self.pid), *options])
        self._pycriu(images, f"mkdir {images} && {words}", "dump.log")

    def restore(self, images: str) -> None:
        """Restore it; it must have been away."""
        words = f"pycriu restore -d -D {images} -o restore.log -v4"
        self._pycriu(images, f"[ ! -d /proc/{self.pid} ] && {words}", "restore.log")

    def judge(self) -> None:
        """Let it judge itself."""
        self.shell.run(f"touch {self.folder}/go")
        verdict = self.hear("PASS", JUDGED).strip().splitlines()
        assert verdict[-1] == "PASS", "\n".join(verdict)

    def _pycriu(self, images: str, words: str, log: str) -> None:
        result = self.shell.run(f"cd {self.folder} && {words}", timeout=90, check=False)
        if result.status:
            told = self.shell.run(f"tail -n 30 {self.folder}/{images}/{log}", check=False).out
            pytest.fail(f"`{words}` ended with {result.status}: {result.out}\n{told}", pytrace=False)


@pytest.fixture
def start(target: guest.Guest, request: pytest.FixtureRequest) -> Iterator[Callable[[str], Victim]]:
    """Starts victims; none of their processes outlives the test."""

    def started(name: str) -> Victim:
        victim = Victim(target.shell, name, request.node.function.__name__.removeprefix("test_"))
        victim.start()
        return victim

    yield started
    if not target.qemu.ended():
        target.shell.run(f"pkill -9 -f {THERE}", check=False)
        wait_until_gone(target.shell)
        target.shell.run("rm -rf /tmp/*-restored /tmp/*-left_running /tmp/*-restored_twice")


def wait_until_gone(shell: Shell) -> None:
    """No process of a victim is left, not even a zombie, so that its PIDs are free."""
    deadline = Deadline.after(20 * shell.slowness)
    while shell.run(f"pgrep -f {THERE}", check=False).out:
        assert not deadline.passed, "processes of a victim survive SIGKILL"


@pytest.mark.parametrize("name", NAMES)
def test_restored(start: Callable[[str], Victim], name: str) -> None:
    victim = start(name)
    victim.dump("images")
    victim.restore("images")
    victim.judge()


@pytest.mark.parametrize("name", NAMES)
def test_left_running(start: Callable[[str], Victim], name: str) -> None:
    victim = start(name)
    victim.dump("images", "--leave-running")
    victim.judge()


@pytest.mark.parametrize("name", NAMES)
def test_restored_twice(start: Callable[[str], Victim], name: str) -> None:
    victim = start(name)
    victim.dump("first")
    victim.restore("first")
    victim.dump("second")
    victim.restore("second")
    victim.judge()
