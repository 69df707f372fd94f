# SPDX-License-Identifier: GPL-2.0-only
"""Every victim of tests/victims in the guest: left running, with a failed dump between, and restored twice in a row.

A process in the guest does that with each (conductor.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from layer.target import bootfile, faults, guest
from layer.target.shell import Shell
from tests import manifest

THERE = "/usr/lib/victims"  # where feature/victims puts them
FOLDER = "/run/conductor"
VICTIMS = {entry.name: entry for entry in manifest.entries()}
SECONDS = 300.0  # for one victim; the conductor has narrower limits for each step


@pytest.fixture(scope="module", autouse=True)
def _victims(boot: bootfile.Boot, unless_possible: Callable[[str], None]) -> None:
    if "feature/victims" not in boot.templates:
        unless_possible(f"{boot.file} was configured without feature/victims")


class Conductor:
    """The process in the guest. One that does not answer is killed: the next victim gets another, not its answer."""

    def __init__(self, shell: Shell) -> None:
        self.shell = shell
        self._start()

    def _start(self) -> None:
        shell = self.shell
        shell.run(f"rm -rf {FOLDER} && mkdir {FOLDER} && mkfifo {FOLDER}/ask {FOLDER}/answer")
        shell.put(f"{FOLDER}/conductor.py", Path(__file__).with_name("conductor.py").read_bytes())
        words = 'echo $$ >pid; python3 -ISB conductor.py "$VICTIMS" $PWD/ask $PWD/answer </dev/null >log 2>&1'
        # Should it end, its last words are the answer to all that is asked. They come from a shell whose words do not
        # hold the folder of the victims: who has it there is taken for one of them.
        words += '; echo "the conductor ended with $?" >>log; cat log >answer'
        words += "; while read -r line <ask; do cat log >answer; done"
        shell.run(f"cd {FOLDER} && (VICTIMS={THERE} setsid sh -c '{words}' </dev/null >/dev/null 2>&1 &)")
        shell.run(f"n=0; until [ -s {FOLDER}/pid ] || [ $n = 300 ]; do sleep 0.1; n=$((n+1)); done", timeout=60)

    def play(self, name: str, seconds: float = SECONDS) -> str:
        """Plays one victim; what is to be said of it."""
        words = " ".join([f"{self.shell.slowness:g}", name, *VICTIMS[name].options])
        try:
            return self.shell.run(f"echo '{words}' >{FOLDER}/ask; cat {FOLDER}/answer", timeout=seconds).out.strip()
        except faults.DeadlinePassed:
            self.shell.run(f"kill -9 -$(cat {FOLDER}/pid); pkill -9 -f {THERE}", check=False)
            self._start()
            raise


@pytest.fixture(scope="module")
def conducted(target: guest.Guest) -> Conductor:
    return Conductor(target.shell)


@pytest.fixture
def play(target: guest.Guest, boot: bootfile.Boot, conducted: Conductor) -> Iterator[Callable[[str], str]]:
    """`conducted`, for one test; what it leaves in the guest's memory is removed."""

    def played(name: str) -> str:
        if boot.machine.name in VICTIMS[name].lacking:
            pytest.skip(f"{name}: {VICTIMS[name].lacking[boot.machine.name]}")
        return conducted.play(name)

    yield played
    if not target.qemu.ended():
        target.shell.run("for undo in /tmp/*/undo; do [ ! -e $undo ] || sh $undo; done")
        target.shell.run(f"rm -rf {' '.join('/tmp/' + name for name in VICTIMS)}")


@pytest.mark.parametrize("name", VICTIMS)
def test_victim(play: Callable[[str], str], name: str) -> None:
    said = play(name)
    if said != "PASS":
        pytest.fail(said, pytrace=False)


def test_a_conductor_that_hangs_costs_one_victim(play: Callable[[str], str], conducted: Conductor) -> None:
    conducted.shell.run(f"kill -STOP -$(cat {FOLDER}/pid)")
    with pytest.raises(faults.DeadlinePassed):
        conducted.play("pipes", seconds=1)
    assert play("pipes") == "PASS"


def test_a_conductor_that_ends_says_so_at_once(conducted: Conductor) -> None:
    """After it has played, too: nothing of its own was taken for a victim's then."""
    assert conducted.play("eventfd") == "PASS"
    conducted.shell.run("(sleep 0.3; kill -9 $(pgrep -f '^python3 -ISB conductor.py')) >/dev/null 2>&1 &")
    for name in ("pipes", "eventfd"):
        assert conducted.play(name, seconds=15).endswith("the conductor ended with 137")


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
