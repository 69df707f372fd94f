# SPDX-License-Identifier: GPL-2.0-only
"""The proof: a process of our own is dumped and restored by the commands that users type, and says what it knows.

Nothing is left of it, whatever happens.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from pycriu.doctor import BAD, GOOD, NOTE, Finding, person

SECONDS = 60.0
# It knows a word that is nowhere but in its memory, and writes it down when it is asked.
_PROGRAM = """
import os, signal, sys
word = sys.stdin.readline()
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
os.dup2(os.open("/dev/null", os.O_RDWR), 0)
open("ready", "w").close()
if signal.sigtimedwait({signal.SIGUSR1}, 300) is None:
    sys.exit(1)
with open("told", "w") as file:
    file.write(word)
"""
_COMMAND = "import sys; sys.path.insert(0, {!r}); from pycriu.cli import command; command()"


class _FailedError(Exception):
    """A step did not work: what it said."""


def findings() -> list[Finding]:
    """How it went. Whoever is restored must become a child of this process."""
    if not person.capable():
        return [Finding("trial", NOTE, "not done: it takes the capability")]
    try:
        folder = tempfile.mkdtemp(prefix="pycriu-doctor-")
    except OSError as error:
        return [Finding("trial", BAD, f"no place for it: {error.strerror}", ("TMPDIR=DIR pycriu doctor names one",))]
    trial = _Trial(folder)
    try:
        dumped, restored = trial.run()
    except _FailedError as failed:
        said, *rest = str(failed).splitlines()
        return [Finding("trial", BAD, said, tuple(line.strip() for line in rest))]
    finally:
        trial.end()
        shutil.rmtree(folder, ignore_errors=True)
    return [Finding("trial", GOOD, f"a process was dumped ({dumped:.0f} ms) and restored ({restored:.0f} ms)")]


class _Trial:
    """One process and its life."""

    def __init__(self, folder: str) -> None:
        self._folder, self._pid = folder, 0

    def run(self) -> tuple[float, float]:
        """Milliseconds of the dump and of the restore."""
        word = secrets.token_hex(16)
        self._start(word)
        begun = time.monotonic()
        self._pycriu("dump", "-t", str(self._pid))
        os.waitpid(self._pid, 0)
        dumped = time.monotonic()
        self._pycriu("restore", "-d")
        restored = time.monotonic()
        os.kill(self._pid, signal.SIGUSR1)
        self._wait_for("told", "the restored process does not answer")
        status = os.waitpid(self._pid, 0)[1]
        self._pid = 0
        with open(os.path.join(self._folder, "told")) as file:
            if file.read() != word + "\n" or status:
                raise _FailedError("the restored process is not what it was: this is a bug of pycriu")
        return (dumped - begun) * 1e3, (restored - dumped) * 1e3

    def end(self) -> None:
        """Nobody is left. Only of a child it is certain that nobody else has its PID by now."""
        try:
            if self._pid and not os.waitpid(self._pid, os.WNOHANG)[0]:
                os.kill(self._pid, signal.SIGKILL)
                os.waitpid(self._pid, 0)
        except ChildProcessError:
            return  # the dump has ended it, and nothing was restored

    def _start(self, word: str) -> None:
        process = subprocess.Popen(
            [sys.executable, "-IS", "-c", _PROGRAM], cwd=self._folder, stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        self._pid = process.pid
        process.returncode = 0  # it is waited for by its PID, in both of its lives
        assert process.stdin is not None
        process.stdin.write(word.encode() + b"\n")
        process.stdin.close()
        self._wait_for("ready", "the process to be dumped does not start")

    def _wait_for(self, name: str, otherwise: str) -> None:
        end = time.monotonic() + SECONDS
        while not os.path.exists(os.path.join(self._folder, name)) or (
            name == "told" and not os.path.getsize(os.path.join(self._folder, name))
        ):
            if time.monotonic() > end:
                raise _FailedError(otherwise)
            time.sleep(0.005)

    def _pycriu(self, action: str, *more: str) -> None:
        here = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        options = ["--unprivileged"] if os.geteuid() else []
        words = [sys.executable, "-c", _COMMAND.format(here), action, *more, "-v1", "--no-default-config", *options]
        try:
            done = subprocess.run(
                [*words, "-D", os.path.join(self._folder, "images")], cwd=self._folder, stdin=subprocess.DEVNULL,
                capture_output=True, text=True, errors="replace", check=False, timeout=SECONDS,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise _FailedError(f"{action} of a process of our own has not ended after {SECONDS:.0f} s") from None
        if done.returncode:
            lines = [re.sub(r"^Error \(\S+\): ", "", line) for line in done.stderr.splitlines()]
            lines = [line for line in lines if not line.endswith(" FAILED.")]
            if done.returncode < 0:
                lines.append(f"it was ended by {signal.Signals(-done.returncode).name}")
            raise _FailedError("\n".join([f"{action} of a process of our own failed:", *lines]))
