# SPDX-License-Identifier: GPL-2.0-only
"""A POSIX shell at the far end of a console: one round trip per command, its exit status in the closing marker.

Each command gets a random word, sent in two quoted halves, so that an echo of the line never looks like its result, and
of letters that spell no word a log is searched for. A command that does not end in time is interrupted; when that does
not help either, the shell is given up, and every later command fails with the same cause.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import random
import re
import shlex
import time
from contextlib import suppress
from dataclasses import dataclass

from layer.errors import InputError
from layer.target.console import Console
from layer.target.deadline import Deadline
from layer.target.faults import CommandFailed, DeadlinePassed, GuestError

LETTERS = "bcdghjkmpqtvwxz"  # no vowel and no f, l, n, r, s: never "error", "fail", "oops"
LONGEST = 4000  # bytes; a terminal in cooked mode loses what is beyond 4095
CHUNK = 2700  # bytes of a file per command, base64 makes a third more of them
TRIES = 3  # of a file that comes through the console
INTERRUPT = 5.0  # seconds that a command is given to end after Ctrl-C
WINDOW = 256  # characters: longer than any closing marker


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a command. `notices`: what came before it unasked, such as the shell's word on its jobs."""

    command: str
    status: int
    out: str
    seconds: float
    notices: str


class Shell:
    """Runs commands, one after the other. `slowness` multiplies every time limit."""

    def __init__(self, console: Console, *, slowness: float = 1.0, seed: int | None = None) -> None:
        self.console = console
        self.slowness = slowness
        self._random = random.Random(seed)
        self._broken: GuestError | None = None

    def prepare(self, *, quiet_kernel: bool, now: int | None = None) -> None:
        """Make an interactive shell fit for a program: no echo, no prompt, wide, output untouched, the date set.

        `quiet_kernel`: the kernel prints on the same line; let it say only what is an alert.
        """
        commands = ["stty -echo -opost cols 250 rows 60", "PS1= PS2= PS4='+ '", "unset HISTFILE"]
        commands += ["dmesg -n 2"] if quiet_kernel else []
        commands += [f"date -u -s @{now} >/dev/null"] if now is not None else []
        self.console.sendline("; ".join(commands))
        self.run("true", timeout=20)

    def run(self, command: str, *, timeout: float = 30, check: bool = True, inside: bool = False) -> Result:
        """Run `command`; CommandFailed when it ends with another status than 0, unless `check` is off.

        It runs in a subshell with stdin from /dev/null; `inside`: in the shell itself, so that a job is its own.
        """
        if self._broken is not None:
            raise self._broken
        word = "".join(self._random.choices(LETTERS, k=10))
        self._send(self._line(word, command, inside=inside))
        start = time.monotonic()
        try:
            opened = self._wait(rf"{word}:begin\n", timeout, f"the start of `{command}`")
            closed = self._wait(rf"{word}:end:(\d+)\n", timeout, f"the end of `{command}`", window=WINDOW)
        except DeadlinePassed as late:
            self._interrupt(word, late)
            raise
        except GuestError as error:
            self._broken = error
            raise
        result = Result(command, int(closed[1].group(1)), closed[0], time.monotonic() - start, opened[0])
        if check and result.status != 0:
            shown = "".join(f"\n  | {line}" for line in result.out.splitlines()[-20:])
            raise CommandFailed(f"`{command}` ended with {result.status}{shown}", log=self.console.log_path)
        return result

    def out(self, command: str, *, timeout: float = 30) -> str:
        """What a command that must succeed says, less surrounding blanks."""
        return self.run(command, timeout=timeout).out.strip()

    def put(self, path: str, content: bytes, *, mode: int = 0o644) -> None:
        """Make a small file in the guest. For megabytes, use a disk."""
        name = shlex.quote(path)
        self.run(f": >{name}")
        for start in range(0, len(content), CHUNK):
            text = base64.b64encode(content[start : start + CHUNK]).decode()
            self.run(f"echo {text} | base64 -d >>{name}")
        self.run(f"chmod {mode:o} {name}")

    def get(self, path: str, *, timeout: float = 60) -> bytes:
        """The content of a file of the guest that does not change meanwhile; GuestError where it comes spoiled.

        An emulated line may lose something on a loaded host, so its sum comes behind it.
        """
        name = shlex.quote(path)
        for _ in range(TRIES):
            said = self.run(f"base64 {name} && sha256sum <{name}", timeout=timeout).out
            text, _, told = said.rstrip("\n").rpartition("\n")
            with suppress(binascii.Error):
                content = base64.b64decode(text)
                if told.split()[:1] == [hashlib.sha256(content).hexdigest()]:
                    return content
        raise GuestError(f"{path} has come spoiled through the console, {TRIES} times", log=self.console.log_path)

    def _line(self, word: str, command: str, *, inside: bool) -> str:
        half = len(word) // 2
        mark = f"'{word[:half]}''{word[half:]}"
        body = f"eval {shlex.quote(command)}"
        body = body if inside else f"( {body} ) </dev/null 2>&1"
        # A brace group is one command: the shell's word on its jobs cannot come before the closing marker.
        return f"{{ printf '%s\\n' {mark}:begin'; {body}; printf '%s%d\\n' {mark}:end:' $?; }}"

    def _send(self, line: str) -> None:
        if len(line.encode()) > LONGEST:
            raise InputError(f"a command of {len(line.encode())} bytes does not fit in a terminal's line",
                             hint="put a script into the guest and run that")  # fmt: skip
        try:
            self.console.sendline(line)
        except BrokenPipeError:
            return  # the wait for the result says why

    def _wait(self, pattern: str, timeout: float, what: str, window: int | None = None) -> tuple[str, re.Match[str]]:
        deadline = Deadline.after(timeout * self.slowness)
        match = self.console.wait(re.compile(pattern), deadline, what, window=window)
        return str(self.console.before), match

    def _interrupt(self, word: str, late: DeadlinePassed) -> None:
        """Ctrl-C drops the whole line, closing marker included; a marker of its own says whether the shell lives.

        It drops what the shell is given meanwhile, too, so the marker is asked for more than once.
        """
        half = len(word) // 2
        try:
            self._send("\x03")
            for last in (False, False, False, True):
                self._send(f"printf '%s\\n' '{word[:half]}''{word[half:]}:alive'")
                try:
                    self._wait(rf"{word}:alive\n", INTERRUPT / 4, "the shell after Ctrl-C")
                    return
                except DeadlinePassed:
                    if last:
                        raise
        except GuestError:
            self._broken = late
