# SPDX-License-Identifier: GPL-2.0-only
"""Runs in the guest: takes one victim after the other through its dumps and restores, and tells how that went.

To start Python takes an emulated CPU longer than most dumps. So this process has imported pycriu once, and each dump
and each restore is a fork of it, which is given the words of a command line and ends as the command would; that the
command itself starts is for the other tests of the guest to show. Victims are started as ever.

    python3 -ISB conductor.py VICTIMS ASK ANSWER

reads lines `SLOWNESS NAME [OPTION…]` from the named pipe ASK and writes to ANSWER what went wrong with that victim,
`SKIP` and its reason, or `PASS`.
"""

import contextlib
import importlib
import os
import pkgutil
import signal
import sys
import time

sys.path.append("/usr/lib/python3/dist-packages")

import pycriu
from pycriu.cli import main

SECONDS = 60.0  # for a victim to set itself up, and to judge itself
SHOWN = 3000  # characters of a log


class WrongError(Exception):
    """Something is not as it should be; the text says what."""


class Victim:
    """One victim in a folder of its own, which is the current directory."""

    def __init__(self, program: str, options: list[str], slowness: float) -> None:
        self.options, self._slowness = options, slowness
        self._program = program
        self.pid = 0

    def start(self) -> None:
        """In a session of its own, as a child of init."""
        reader, writer = os.pipe()
        middle = os.fork()
        if not middle:
            os.setsid()
            child = os.fork()
            if not child:
                self._become(reader, writer)
            os.write(writer, b"%d" % child)
            os._exit(0)
        os.waitpid(middle, 0)
        self.pid = int(os.read(reader, 20))
        os.close(reader)
        os.close(writer)
        self.hear("READY")

    def _become(self, *fds: int) -> None:
        for fd in fds:
            os.close(fd)
        os.setsid()
        _stdio("log")
        os.execv("/usr/bin/python3", ["python3", "-B", self._program])

    def hear(self, word: str) -> None:
        """Wait for `word` at the beginning of a line of its log."""
        last = time.monotonic() + SECONDS * self._slowness
        while word not in (words := _words()):
            if set(words) & {"FAIL", "SKIP", "PASS"} or time.monotonic() > last:
                skipped = [line for line in _text("log").splitlines() if line.startswith("SKIP")]
                raise WrongError(skipped[0] if skipped else f"no {word} in its log: {_text('log')}")
            time.sleep(0.02)

    def dump(self, images: str, *more: str, fails: bool = False) -> None:
        """Dump it."""
        if not fails:
            os.mkdir(images)
        words = ["dump", "-D", images, "-o", "dump.log", "-t", str(self.pid), *self.options, *more]
        self._pycriu(words, f"{images}/dump.log", status=1 if fails else 0)

    def restore(self, images: str) -> None:
        """Restore it; it must have been away."""
        if os.path.exists(f"/proc/{self.pid}"):
            raise WrongError("it is still there after a dump that should have ended it")
        self._pycriu(["restore", "-d", "-D", images, "-o", "restore.log", *self.options], f"{images}/restore.log")

    def _pycriu(self, words: list[str], log: str, status: int = 0) -> None:
        child = os.fork()
        if not child:
            _stdio("said")
            signal.alarm(int(SECONDS * self._slowness))
            code = main(words)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if ended != status:
            told = _text("said") + _text(log)
            raise WrongError(f"`pycriu {' '.join(words)}` ended with {ended}: {told[-SHOWN:]}")


def _stdio(log: str) -> None:
    """Standard input empty, output and errors to a file."""
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), 1)
    os.dup2(1, 2)
    os.closerange(3, 64)


def _text(name: str) -> str:
    if not os.path.exists(name):
        return ""
    with open(name, encoding="utf-8", errors="replace") as file:
        return file.read()


def _words() -> list[str]:
    """The first word of each line of the victim's log."""
    return [line.split()[0] for line in _text("log").splitlines() if line.strip()]


def play(victim: Victim) -> None:
    """Left running, with a failed dump after it, and restored twice in a row."""
    victim.start()
    victim.dump("left", "--leave-running", "-v4")
    _remove("left")
    victim.dump("log", fails=True)  # no directory
    victim.dump("first")
    victim.restore("first")
    _remove("first")
    victim.dump("second")
    victim.restore("second")
    open("go", "w").close()
    victim.hear("PASS")


def _remove(images: str) -> None:
    """A checkpoint that is needed no more: the guest's /tmp is memory."""
    for name in os.listdir(images):
        os.unlink(f"{images}/{name}")
    os.rmdir(images)


def _left(victims: str) -> list[int]:
    """The processes of victims, zombies included as long as they have a name."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    words = file.read()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if victims.encode() in words:
                found.append(int(name))
    return found


def clean_up(victims: str, slowness: float) -> None:
    """Nobody of a victim is left, so that its PIDs are free."""
    last = time.monotonic() + 20 * slowness
    while pids := _left(victims):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if time.monotonic() > last:
            raise WrongError(f"processes of a victim survive SIGKILL: {pids}")
        time.sleep(0.01)


def answer(victims: str, line: str) -> str:
    """Play one victim; what is to be said of it."""
    factor, name, *options = line.split()
    os.mkdir(f"/tmp/{name}")
    os.chdir(f"/tmp/{name}")
    told = "PASS"
    try:
        play(Victim(f"{victims}/{name}.py", options, float(factor)))
    except (WrongError, OSError) as error:
        told = str(error)
    try:
        clean_up(victims, float(factor))
    except WrongError as error:
        told = f"{told}\n{error}"
    os.chdir("/")
    return told


def conduct(victims: str, ask: str, tell: str) -> None:
    """One victim after the other, for ever."""
    for module in pkgutil.walk_packages(pycriu.__path__, "pycriu."):
        if not module.name.endswith("__main__"):
            with contextlib.suppress(ImportError):  # of a command whose libraries are not in the image
                importlib.import_module(module.name)
    while True:
        with open(ask, encoding="utf-8") as file:
            line = file.readline()
        told = answer(victims, line)
        with contextlib.suppress(BrokenPipeError), open(tell, "w", encoding="utf-8") as file:
            file.write(told + "\n")


conduct(*sys.argv[1:])
