# SPDX-License-Identifier: GPL-2.0-only
"""The one way in which the layer runs another program: no shell, its own environment, output kept."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from layer.errors import BuildError


def output(command: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """What `command` prints, in English; BuildError with its complaint when it fails or is not installed."""
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C"} if env is None else dict(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise missing(command[0]) from error
    if done.returncode:
        raise BuildError(
            f"{shlex.join(command)}: exit status {done.returncode}", hint=last_lines(done.stderr or done.stdout, 12)
        )
    return done.stdout


def missing(program: str) -> BuildError:
    """The error for a program that is not there."""
    return BuildError(f"{program} is not installed", hint="`make host-packages` installs what the build needs")


def last_lines(text: str, count: int) -> str:
    """The end of a log."""
    return "\n".join(text.rstrip().splitlines()[-count:])


def repeatable(command: Sequence[str], cwd: Path, env: Mapping[str, str]) -> str:
    """A shell script that runs just this command again, in just this environment."""
    settings = "".join(f"  {shlex.quote(f'{name}={value}')} \\\n" for name, value in sorted(env.items()))
    return f"#!/bin/sh\ncd {shlex.quote(os.fspath(cwd))} && exec env -i \\\n{settings}  {shlex.join(command)}\n"


def shown(command: Sequence[str]) -> str:
    """A command as one would type it."""
    return shlex.join(command)


def status_text(status: int) -> str:
    """An exit status in words."""
    return f"exit status {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"


def tail(log: Path, count: int) -> str:
    """The last lines of a log file."""
    return last_lines(log.read_text(errors="replace"), count)
