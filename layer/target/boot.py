# SPDX-License-Identifier: GPL-2.0-only
"""A person at the guest's console: boot an image interactively, or attach to a guest that was kept.

The terminal belongs to QEMU (or to the attached guest) until the end. Changes to the data disk stay, in the build.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from layer import cache, machine
from layer.errors import InputError
from layer.target import accel, bootfile, qemu

LEAVE = b"\x1d"  # Ctrl-], as telnet has it
TOP = Path(__file__).resolve().parent.parent.parent
USAGE = "usage: qemu/boot [MACHINE | BOOT.JSON | --attach SOCKET]"


def main(boot_json: Path) -> int:
    """Boot with the console on this terminal; ends with QEMU."""
    boot = bootfile.load(boot_json)
    found = accel.choose(boot.machine, cache.default().root)
    launch = qemu.Launch(boot, found.name, boot.data, channel=False)
    line = [*qemu.common_arguments(launch), "-append", qemu.kernel_arguments(launch)]
    line += ["-chardev", "stdio,id=person,mux=on,signal=off", "-serial", "chardev:person", "-mon", "chardev=person"]
    return subprocess.run(line, check=False).returncode


def from_words(words: list[str]) -> int:
    """The command line of `qemu/boot`."""
    if words[:1] == ["--attach"] and len(words) == 2:  # the option and its word
        return attach(Path(words[1]))
    if len(words) > 1 or words[:1] in (["-h"], ["--help"]):
        raise InputError(USAGE, hint=f"machines: {', '.join(machine.names())}")
    asked = words[0] if words else "x86_64"
    if asked.endswith(".json"):
        return main(Path(asked))
    return main(TOP / "build" / machine.load(asked).name / "images" / "boot.json")


def attach(path: Path) -> int:
    """Join this terminal with a guest's line until Ctrl-]."""
    line = socket.socket(socket.AF_UNIX)
    try:
        line.connect(str(path))
    except OSError as error:
        raise InputError(f"cannot attach: {error.strerror}", file=path, hint="the guest may have ended") from error
    with line, raw_terminal():
        line.sendall(b"stty echo sane; PS1='# '\n")  # undo what a program had set
        while True:
            ready, _, _ = select.select([line, sys.stdin], [], [])
            if line in ready:
                if not (said := line.recv(65536)):
                    return 0
                os.write(1, said)
            if sys.stdin in ready:
                typed = os.read(0, 4096)
                if not typed or LEAVE in typed:
                    return 0
                line.sendall(typed)


@contextmanager
def raw_terminal() -> Iterator[None]:
    """Keys go through as they are, Ctrl-C too; the terminal is put back at the end."""
    if not sys.stdin.isatty():
        yield
        return
    saved = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, saved)
