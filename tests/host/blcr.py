# SPDX-License-Identifier: GPL-2.0-only
"""BLCR's commands on this machine: how a test runs them, and the programs that they are tried on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pycriu.crit.check import findings
from pycriu.crit.source import open_source
from tests.host.conftest import DEADLINE, Host, state, wait_until

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ("run", "checkpoint", "restart", "info")

# Writes a number and a newline at each step, until there is a file `finish`.
COUNTER = """
import os, signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: os.write(1, b"heard\\n"))
for number in range(10000):
    os.write(1, b"%d\\n" % number)
    if os.path.exists("finish"):
        sys.exit(7)
    time.sleep(0.02)
"""


class Blcr:
    """The four commands, in the folder of a test, where they can also be run by their names."""

    def __init__(self, host: Host) -> None:
        self.host, self.folder = host, host.folder
        self.bin = self.folder / "bin"
        self.bin.mkdir()
        for name in COMMANDS:
            path = self.bin / f"cr_{name}"
            path.write_text(
                f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
                f"from pycriu.blcr.cli import {name}\nsys.exit({name}())\n"
            )
            path.chmod(0o755)
        self.environment = os.environ | {"PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}"}

    def run(self, name: str, *words: object, **options: Any) -> subprocess.CompletedProcess[str]:
        """A command to its end, with what it said on standard error."""
        given: Any = {"stdin": subprocess.DEVNULL} if "input" not in options else {}
        done = subprocess.run(
            [str(self.bin / f"cr_{name}"), *map(str, words)],
            cwd=self.folder, capture_output=True, text=True, check=False, timeout=2 * DEADLINE, env=self.environment,
            **(given | options),
        )  # fmt: skip
        assert "Traceback" not in (done.stderr or ""), done.stderr
        return done

    def start(self, name: str, *words: object, **options: Any) -> subprocess.Popen[bytes]:
        """A command that goes on."""
        return subprocess.Popen(
            [str(self.bin / f"cr_{name}"), *map(str, words)],
            **{"cwd": self.folder, "stdin": subprocess.DEVNULL, "env": self.environment, **options},
        )  # fmt: skip

    def program(self, *argv: str, out: str = "out", **options: Any) -> subprocess.Popen[bytes]:
        """A program in a session of its own, with its output in a file."""
        with open(self.folder / out, "wb") as file:
            given: Any = {"cwd": self.folder, "stdin": subprocess.DEVNULL, "start_new_session": True} | options
            process = subprocess.Popen(argv, stdout=file, stderr=file, env=self.environment, **given)
        self.host.pids.add(process.pid)
        return process

    def counter(self) -> subprocess.Popen[bytes]:
        """A program that counts, and is on its way; `finish` lets it end with 7."""
        (self.folder / "counter.py").write_text(COUNTER)
        process = self.program(sys.executable, "-IS", "counter.py")
        self.wait_for_lines(5)
        return process

    def finish(self, *, at_last: bool = True) -> None:
        """Let it end; or, not `at_last`, let it count once it is restarted."""
        path = self.folder / "finish"
        path.touch() if at_last else path.unlink()

    def checkpoint(self, number: int, *words: object) -> None:
        """One that must succeed; with a signal that ends a session, nobody of that is left."""
        done = self.run("checkpoint", *words, number)
        assert done.returncode == 0, done
        if any(str(word) in ENDING for word in words):
            wait_until(lambda: not in_session(number), f"the end of session {number}")

    def lines(self, out: str = "out") -> list[str]:
        """What the program has written."""
        return (self.folder / out).read_text().split("\n")[:-1]

    def wait_for_lines(self, more: int, out: str = "out") -> None:
        """Until it has written so many lines more than now."""
        before = len(self.lines(out))
        wait_until(lambda: len(self.lines(out)) >= before + more, f"{more} lines behind {self.lines(out)[-3:]}")


ENDING = ("--term", "--kill", "--abort")


def in_session(number: int) -> list[int]:
    """Who is in a session; those that have ended, and have come to us, are read."""
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdecimal() and os.getsid(int(name)) == number:
                os.waitpid(int(name), os.WNOHANG)
                found.append(int(name))
        except ChildProcessError:
            found.append(int(name))
        except ProcessLookupError:
            continue
    return found


def gone(pids: list[int]) -> None:
    """Wait until nobody has these PIDs, and read the status of those that come to us."""
    end = time.monotonic() + DEADLINE
    for pid in pids:
        while state(pid) is not None:
            assert time.monotonic() < end, f"process {pid} is still there: {state(pid)}"
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                time.sleep(0.002)
            time.sleep(0.001)


def kill(*pids: int) -> None:
    """End them, whoever is there."""
    for pid in pids:
        if state(pid) is not None:
            os.kill(pid, signal.SIGKILL)


def assert_sound(path: Path) -> None:
    """A context of which `crit check` finds nothing to say."""
    with open_source(str(path)) as source:
        assert [str(finding) for finding in findings(source)] == []


def is_counted(lines: list[str]) -> bool:
    """Whether there is each number once, in order."""
    numbers = [line for line in lines if line != "heard"]
    return numbers == [str(number) for number in range(len(numbers))] != []
