# SPDX-License-Identifier: GPL-2.0-only
"""Every victim of tests/victims in the guest: left running, with a failed dump between, and restored twice in a row."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from layer.target import bootfile, guest
from layer.target.deadline import Deadline
from layer.target.shell import Shell
from tests import manifest

THERE = "/usr/lib/victims"  # where feature/victims puts them
VICTIMS = {entry.name: entry for entry in manifest.entries()}
READY = 60.0  # seconds: an emulated CPU starts Python slowly
JUDGED = 60.0


@pytest.fixture(scope="module", autouse=True)
def _victims(boot: bootfile.Boot, unless_possible: Callable[[str], None]) -> None:
    if "feature/victims" not in boot.templates:
        unless_possible(f"{boot.file} was configured without feature/victims")


class Victim:
    """One victim in a folder of its own in the guest."""

    def __init__(self, shell: Shell, name: str) -> None:
        self.shell = shell
        self.name = name
        self.folder = f"/tmp/{name}"
        self.options = VICTIMS[name].options
        self.pid = 0

    def start(self) -> None:
        """Start it in a session of its own and wait for its word."""
        self.shell.run(f"mkdir {self.folder}")
        # The shell that starts it writes the PID and becomes setsid, which becomes python: one process, one PID.
        line = f"echo $$ >pid; exec setsid python3 -B {THERE}/{self.name}.py </dev/null >log 2>&1"
        self.shell.run(f"cd {self.folder} && (sh -c '{line}' &)")
        said = self.hear("READY", READY)
        assert "READY" in said, said
        self.pid = int(self.shell.out(f"cat {self.folder}/pid"))

    def hear(self, word: str, seconds: float) -> str:
        """The log, once it holds `word` (or a verdict), or fail."""
        seconds *= self.shell.slowness
        told = f"grep -qE '^({word}|PASS|FAIL|SKIP)' log"
        look = f"n=0; until {told} || [ $n -ge {seconds * 5:.0f} ]; do sleep 0.2; n=$((n+1)); done"
        log = self.shell.run(f"cd {self.folder}; {look}; cat log", timeout=seconds + 10).out
        assert word in log or "FAIL" in log or "SKIP" in log, f"no {word} within {seconds:.0f} s; its log: {log}"
        return log

    def dump(self, images: str, *options: str) -> None:
        """Dump it."""
        words = ["pycriu", "dump", "-D", images, "-o", "dump.log", "-v4", "-t", str(self.pid)]
        words += [*self.options, *options]
        self._pycriu(images, f"mkdir {images} && {' '.join(words)}", "dump.log")

    def fail_to_dump(self, images: str) -> None:
        """A dump that cannot succeed: `images` is no directory."""
        words = " ".join(["pycriu", "dump", "-D", images, "-t", str(self.pid), *self.options])
        assert self.shell.run(f"cd {self.folder} && {words}", timeout=90, check=False).status == 1

    def forget(self, images: str) -> None:
        """Remove a checkpoint that is needed no more: the guest's /tmp is memory."""
        self.shell.run(f"rm -rf {self.folder}/{images}")

    def restore(self, images: str) -> None:
        """Restore it; it must have been away."""
        words = f"pycriu restore -d -D {images} -o restore.log -v4 {' '.join(self.options)}"
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
def start(target: guest.Guest, boot: bootfile.Boot) -> Iterator[Callable[[str], Victim]]:
    """Starts victims; none of their processes outlives the test."""

    def started(name: str) -> Victim:
        if boot.machine.name in VICTIMS[name].lacking:
            pytest.skip(f"{name}: {VICTIMS[name].lacking[boot.machine.name]}")
        victim = Victim(target.shell, name)
        victim.start()
        return victim

    yield started
    if not target.qemu.ended():
        target.shell.run(f"pkill -9 -f {THERE}", check=False)
        wait_until_gone(target.shell)
        target.shell.run("for undo in /tmp/*/undo; do [ ! -e $undo ] || sh $undo; done")
        target.shell.run(f"rm -rf {' '.join('/tmp/' + name for name in VICTIMS)}")


def wait_until_gone(shell: Shell) -> None:
    """No process of a victim is left, not even a zombie, so that its PIDs are free."""
    deadline = Deadline.after(20 * shell.slowness)
    while shell.run(f"pgrep -f {THERE}", check=False).out:
        assert not deadline.passed, "processes of a victim survive SIGKILL"


@pytest.mark.parametrize("name", VICTIMS)
def test_victim(start: Callable[[str], Victim], name: str) -> None:
    victim = start(name)
    victim.dump("left", "--leave-running")
    victim.forget("left")
    victim.fail_to_dump("log")
    victim.dump("first")
    victim.restore("first")
    victim.forget("first")
    victim.dump("second")
    victim.restore("second")
    victim.judge()


AO_KEY = """
import socket, struct, time
x = socket.socket()
key = struct.pack("=HH4s120x64siIH", 2, 0, bytes([10, 0, 0, 1]), b"hmac(sha1)", 0, 0, 0)
x.setsockopt(6, 38, key + struct.pack("=BBBBBB80s", 32, 1, 1, 0, 0, 3, b"key"))
print("READY", flush=True)
time.sleep(600)
"""


def test_keys_that_sign_segments_are_refused(target: guest.Guest) -> None:
    """TCP-AO, which the kernels of few hosts have."""
    shell, folder = target.shell, "/tmp/signed"
    shell.run(f"mkdir {folder}; cd {folder}; cat >signed.py <<'END'\n{AO_KEY}END")
    shell.run(f"cd {folder} && (setsid sh -c 'echo $$ >pid; exec python3 signed.py' </dev/null >log 2>&1 &)")
    shell.run(f"cd {folder}; n=0; until grep -q READY log || [ $n -ge 300 ]; do sleep 0.2; n=$((n+1)); done; cat log")
    try:
        refused = shell.run(f"cd {folder}; mkdir images; pycriu dump -D images -t $(cat pid)", timeout=90, check=False)
        assert refused.status == 1, refused.out
        assert "TCP-AO" in refused.out, refused.out
        assert "descriptor 3 of process" in refused.out, refused.out
        shell.run(f"kill -0 $(cat {folder}/pid)")
    finally:
        shell.run(f"kill -9 $(cat {folder}/pid); rm -rf {folder}", check=False)
