# SPDX-License-Identifier: GPL-2.0-only
"""What the tests with real programs share: how one is started, dumped and restored, and for how long it stood still.

A test needs what it names of NEEDED and is skipped by that name where it is missing: no test downloads anything.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pexpect
import pytest

from pycriu.images import store
from tests import debian
from tests.host.conftest import DEADLINE, Host, alive, assert_sound, reap, state, wait_until

ROOT = Path(__file__).resolve().parents[2]
# program → Debian package; those of tests.debian are fetched by `make host`, these are too large for that
NEEDED = debian.PROGRAMS | {
    "java": "default-jdk-headless",
    "javac": "default-jdk-headless",
    "node": "nodejs",
    "script": "bsdutils",
}
# The command of a CRIU that is to dump each program, too, several times in turn with pycriu; see benchmarks/programs.
BESIDE = "PYCRIU_BESIDE"
_ROUNDS = 5
_PLACES = "/usr/lib/postgresql/*/bin", "/usr/sbin"


def need(program: str) -> str:
    """The path of a program; the test is skipped where it is not installed."""
    places = [str(path) for pattern in _PLACES for path in sorted(Path("/").glob(pattern[1:]))]
    found = shutil.which(program, path=os.pathsep.join([os.environ["PATH"], *places]))
    if found is None:
        pytest.skip(f"{program} is not installed: apt-get install {NEEDED[program]}")
    return found


def start(host: Host, *words: str, user: int | None = None, **environment: str) -> int:
    """A program in a session of its own, with its output in the file `said`; its PID."""
    with open(host.folder / "said", "ab") as said:
        process = subprocess.Popen(
            words, cwd=host.folder, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True,
            env=os.environ | environment, user=user, group=user, extra_groups=None if user is None else [],
        )  # fmt: skip
    return process.pid


def said(host: Host) -> str:
    """The output of what `start` has started."""
    return (host.folder / "said").read_text(errors="replace")


def wait_for(host: Host, text: str) -> None:
    """Wait until it has said `text`."""
    wait_until(lambda: text in said(host), f"{text!r} in {said(host)[-2000:]!r}", 3 * DEADLINE)


class Cycle:
    """Dump and restore of one program, as often as a test calls it; pauses go into the test's report (junit)."""

    def __init__(self, host: Host, record: Callable[[str, object], None]) -> None:
        self.host, self._record, self._count = host, record, 0
        self._beside = os.environ.get(BESIDE, "").split()

    def __call__(self, pid: int, *options: str) -> None:
        """A dump that leaves it running, of which it must notice nothing; then one that ends it, and its restore."""
        for _ in range(_ROUNDS if self._beside else 1):
            self.dump(pid, "--leave-running", *options)
            assert alive(pid)
            if self._beside:
                shutil.rmtree(self.images)  # both write into memory that has been used before
                self._dump_beside(pid, "--leave-running", *options)
        self.dump(pid, *options)
        outcome = self.host.restore(*options, images=self.images)
        assert outcome.ok, outcome
        assert state(pid) is not None, "the root has not come back"

    def dump(self, pid: int, *options: str) -> None:
        """It must succeed; it ends the program unless the options say otherwise."""
        self._count += 1
        self.images = self.host.folder / f"images-{self._count}"
        self.images.mkdir()
        outcome = self.host.run("dump", "-t", str(pid), "-D", str(self.images), *options, timeout=3 * DEADLINE)
        assert outcome.ok, outcome
        assert_sound(self.images)
        if not alive(pid):
            reap(pid)
        self._record("pause of pycriu, us", frozen(self.images))

    def _dump_beside(self, pid: int, *options: str) -> None:
        """The same by another tool, in turn with ours, for `benchmarks/programs`."""
        images = self.host.folder / "beside"
        images.mkdir()
        command = [*self._beside, "dump", "-t", str(pid), "-D", str(images), "-o", "log", *options]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        assert alive(pid), "the other tool has ended it"
        if done.returncode:
            errors = [line for line in (images / "log").read_text(errors="replace").splitlines() if "Error" in line]
            self._record("beside it", (errors or ["failed without a word"])[0])
        else:
            self._record("pause beside it, us", frozen(images))
        shutil.rmtree(images)


def frozen(images: Path) -> int:
    """For how many microseconds a tree stood still, from stats-dump; CRIU's are read in the same way."""
    with store.ImagesDir(str(images)) as directory:
        entry: Any = directory.read_one("stats-dump")
    return int(entry.dump.frozen_time)


@pytest.fixture
def cycle(host: Host, record_property: Callable[[str, object], None]) -> Cycle:
    """To be imported by the tests that use it."""
    return Cycle(host, record_property)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody has, nor gets from the kernel while its server is away for a moment."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(max(1024, lowest - 20000), lowest) if lowest > 2048 else 0
        with socket.socket() as probe, suppress(OSError):  # it is taken
            probe.bind(("127.0.0.1", port))
            found: int = probe.getsockname()[1]
            return found


def connect(port: int) -> socket.socket:
    """A connection to a server that may still be starting."""
    found: list[socket.socket] = []

    def tried() -> bool:
        try:
            found.append(socket.create_connection(("127.0.0.1", port), timeout=DEADLINE))
        except ConnectionRefusedError:
            return False
        return True

    wait_until(tried, f"somebody listens on port {port}")
    return found[0]


PROMPT = "ready> "


class Shell:
    """bash on a terminal whose other end is this test."""

    def __init__(self, folder: Path, size: tuple[int, int] = (24, 80), term: str = "xterm") -> None:
        environment = {"PATH": os.environ["PATH"], "PS1": PROMPT, "TERM": term, "PYTHONPATH": str(ROOT)}
        environment |= {"LESS": "", "LESSHISTFILE": "-", "HOME": str(folder), "LC_ALL": "C.UTF-8"}
        environment |= {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
        self.bash = pexpect.spawn(
            "bash", ["--norc", "--noprofile", "--noediting", "-i"], env=environment, cwd=str(folder), encoding="utf-8",
            timeout=DEADLINE, dimensions=size,
        )  # fmt: skip
        self.expect(PROMPT)

    def expect(self, text: str) -> re.Match[str]:
        """Wait until the terminal shows something that matches."""
        self.bash.expect(text)
        assert isinstance(self.bash.match, re.Match)
        return self.bash.match

    def type(self, line: str) -> None:
        """A line."""
        self.bash.sendline(line)

    def press(self, keys: str) -> None:
        """Keys, without the one that ends a line."""
        self.bash.send(keys)

    def restore(self, images: Path) -> None:
        """A restored job takes the terminal."""
        self.type(f"{sys.executable} -m pycriu restore -D {images} --shell-job")

    def close(self) -> None:
        """Hang up."""
        self.bash.close(force=True)
