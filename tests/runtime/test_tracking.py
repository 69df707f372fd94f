# SPDX-License-Identifier: GPL-2.0-only
"""Pre-dumps in the guest: just what a process has changed is in the next images, and whatever is doubtful is compared.

On x86_64 the guest's kernel tracks changes by soft-dirty bits; on the others the same is found by comparing.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from layer.target import guest

PROGRAM = "/tmp/changing.py"
TRACKED = ("x86_64",)
CLEARED = "another dump has cleared the soft-dirty bits"
HIDDEN = "somebody else has cleared the soft-dirty bits"


class Subject:
    """The process, in a folder of its own, and its images."""

    def __init__(self, target: guest.Guest, folder: str) -> None:
        self.shell, self.folder = target.shell, folder
        self.tracks = target.boot.machine.name in TRACKED
        self._orders = 0
        line = f"echo $$ >pid; exec setsid python3 -ISB {PROGRAM} </dev/null >log 2>&1"
        self.shell.run(f"mkdir {folder}; cd {folder} && (sh -c '{line}' &)")
        self._hear("did 0")
        self.pid = int(self.shell.out(f"cat {folder}/pid"))

    def _hear(self, words: str, seconds: int = 60) -> None:
        until = f"grep -sqE '^({words}|PASS|FAIL)' log || [ $n -ge {seconds * 5} ]"
        look = f"n=0; until {until}; do sleep 0.2; n=$((n+1)); done"
        said = self.shell.run(f"cd {self.folder}; {look}; tail -n 5 log", timeout=seconds + 20).out
        assert re.search(f"^{words}$", said, re.M), said

    def obey(self, *orders: str) -> None:
        """Let it change its memory."""
        self._orders += len(orders)
        words = " ".join(map(shlex.quote, orders))
        self.shell.run(f"cd {self.folder}; printf '%s\\n' {words} >>orders")
        self._hear(f"did {self._orders}")

    def save(self, action: str, images: str, parent: str = "", *words: str) -> str:
        """A dump or pre-dump; its log."""
        line = f"pycriu {action} -t {self.pid} -D {images} -v4 -o log {' '.join(words)}"
        line += f" --prev-images-dir ../{parent}" if parent else ""
        done = self.shell.run(f"cd {self.folder}; mkdir {images} && {line}; cat {images}/log", timeout=90)
        assert "finished successfully" in done.out, done.out
        return done.out

    def look(self, images: str) -> dict[str, list[int]]:
        """The pages that are in these images themselves."""
        lines = self.shell.out(f"cd {self.folder}; python3 -ISB {PROGRAM} look {images}", timeout=60).splitlines()
        return {line.split()[0]: list(map(int, line.split()[1:])) for line in lines}

    def judge(self, images: str) -> None:
        """Hold images, and those before them, against what the process says that it has."""
        assert self.shell.out(f"cd {self.folder}; python3 -ISB {PROGRAM} judge {images}", timeout=60) == "right"

    def expect(self, log: str, reason: str = "") -> None:
        """That the log says how changes were found, and if by comparing, why."""
        if not self.tracks:  # and a pre-dump has nobody to stop for it
            assert "contents are compared: its changes have not been noted" in log or "Nobody was stopped" in log
            assert "by soft-dirty bits" not in log
        elif reason:
            assert f"contents are compared: {reason}" in log
        else:
            assert "by soft-dirty bits" in log

    def end(self, images: str) -> None:
        """Restored from these, it judges itself."""
        self.shell.run(f"cd {self.folder}; pycriu restore -d -D {images} && touch go", timeout=90)
        self._hear("PASS")


def push(target: guest.Guest) -> None:
    """Put the program into the guest."""
    target.shell.put(PROGRAM, (Path(__file__).parent / "changing.py").read_bytes())


@pytest.fixture(scope="module")
def program(target: guest.Guest) -> Iterator[guest.Guest]:
    """The guest, with the program."""
    push(target)
    yield target
    target.shell.run(f"python3 -ISB {PROGRAM} noswap", check=False)


@pytest.fixture
def subject(program: guest.Guest, request: pytest.FixtureRequest) -> Iterator[Subject]:
    """A process of its own for each test."""
    folder = f"/tmp/{request.node.name.removeprefix('test_')[:24]}"
    yield Subject(program, folder)
    program.shell.run(f"pkill -9 -f {PROGRAM}; cd /; rm -rf {folder}", check=False)


def test_the_check_agrees(program: guest.Guest) -> None:
    status = program.shell.run("pycriu check --feature mem_dirty_track", check=False, timeout=60).status
    assert (status == 0) == (program.boot.machine.name in TRACKED)


def test_exactly_what_has_changed(subject: Subject) -> None:
    """In the images, by page; in the statistics, by number."""
    log = subject.save("pre-dump", "0")
    assert ("its changes are noted, by soft-dirty bits" in log) == subject.tracks
    assert ("Frozen for" in log) == subject.tracks
    assert len(subject.look("0")["private"]) == 1024
    subject.judge("0")
    subject.obey("write 3 17 1000", "memfd 2", "mem 500", "protect 20")
    subject.expect(subject.save("pre-dump", "1", "0"))
    assert subject.look("1") == {"private": [3, 17, 20, 500, 1000], "shared": [2]}
    subject.judge("1")
    subject.obey("swaptables", "drop 600", "anew 100 4", "move 40 41")
    subject.expect(subject.save("dump", "2", "1", "-R", "--track-mem"))
    found = subject.look("2")["private"]
    # What moved with its table is clean, and different all the same; what was thrown away is nowhere.
    assert len(found) == 1024 - 3
    assert not {101, 103, 600} & set(found)
    subject.judge("2")
    subject.obey("write 9", "drop 8")
    log = subject.save("dump", "3", "2", "-R", "--track-mem")
    subject.expect(log)
    assert subject.look("3") == {"private": [9], "shared": []}
    subject.judge("3")
    written = int(re.findall(r"Frozen for \d+ us, (\d+) pages written", log)[0])
    assert 1 <= written < 400  # the interpreter's own, too
    subject.obey("anew 300 4")  # becomes a part of the mapping, all of which looks dirty from then on
    subject.expect(subject.save("dump", "4", "3"))
    assert subject.look("4") == {"private": [300, 302], "shared": []}
    subject.end("4")


def test_changes_at_random(subject: Subject) -> None:
    subject.save("pre-dump", "0")
    for number in (1, 2, 3):
        subject.obey(f"random {number} 40")
        subject.expect(subject.save("pre-dump" if number < 3 else "dump", str(number), str(number - 1)))
        subject.judge(str(number))
    subject.end("3")


def test_children_and_swap(subject: Subject) -> None:
    """A child that was born since; pages that the kernel has put into swap."""
    subject.save("pre-dump", "0")
    subject.obey("fork", "swap", "write 5")
    subject.expect(subject.save("pre-dump", "1", "0"))
    found = subject.look("1")["private"]
    assert {5, 8, 9} <= set(found)
    subject.obey("write 6")
    subject.expect(subject.save("dump", "2", "1"))
    subject.end("2")


def test_another_life(subject: Subject) -> None:
    """exec(2) at the same addresses, with other contents."""
    subject.save("pre-dump", "0")
    subject.obey("exec")
    subject.expect(subject.save("dump", "1", "0"), HIDDEN)
    subject.judge("1")
    subject.end("1")


def test_somebody_else_clears_the_bits(subject: Subject) -> None:
    """Another pre-dump, elsewhere; a program that writes to clear_refs; a pre-dump that is killed."""
    subject.save("pre-dump", "0")
    subject.obey("write 11")
    subject.save("pre-dump", "elsewhere")
    subject.obey("write 12")
    subject.expect(subject.save("dump", "1", "0", "-R"), CLEARED)
    subject.judge("1")
    assert subject.look("1")["private"] == [11, 12]
    subject.save("pre-dump", "2", "1")
    subject.obey("write 13")
    subject.shell.run(f"echo 4 >/proc/{subject.pid}/clear_refs", check=False)
    subject.obey("write 14")
    subject.expect(subject.save("dump", "3", "2", "-R"), HIDDEN)
    subject.judge("3")
    subject.save("pre-dump", "4", "3")
    subject.obey("write 15")
    if subject.tracks:
        place = f"/run/pycriu/tracked/{subject.pid}"
        subject.shell.run(
            f"cd {subject.folder}; cp {place} before; mkdir killed; pycriu pre-dump -t {subject.pid} -D killed & "
            f"n=0; while cmp -s {place} before && [ $n -lt 3000 ]; do n=$((n+1)); done; kill -9 $!; wait $!",
            check=False, timeout=90,
        )  # fmt: skip
    subject.obey("write 16")
    subject.expect(subject.save("dump", "5", "4"), CLEARED)
    subject.judge("5")
    subject.end("5")
