# SPDX-License-Identifier: GPL-2.0-only
"""`host-packages`: what the build machine lacks; with --install, install it."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from layer import cache, configure, hostpackages, recipes, templates
from layer.errors import BuildError, InputError

if TYPE_CHECKING:
    from layer.cli.options import Verbs

# Seconds after each failure. apt-get update waits for nobody: a fresh machine that is updating its lists by itself has
# their lock, and until it is through there is nothing to install from.
PAUSES = (10, 30, 0)


def add_verbs(verbs: Verbs) -> None:
    """Add `host-packages`."""
    told = "say which Debian packages the build machine lacks"
    parser = verbs.add_parser("host-packages", description=told, help=told)
    parser.add_argument("--machine", action="append", default=[], metavar="MACHINE")
    parser.add_argument("--template", action="append", default=[], metavar="NAME[,NAME…]")
    parser.add_argument("--install", action="store_true", help="install them, in one transaction (as root)")
    parser.set_defaults(verb=run)


def run(arguments: argparse.Namespace) -> int:
    """List or install."""
    wanted = sorted(
        {package for machine in arguments.machine or ["x86_64"] for package in _needed(machine, arguments.template)}
    )
    lacking = hostpackages.missing(wanted)
    if not lacking:
        return 0
    print(f"missing on this machine: {' '.join(lacking)}", flush=True)
    if arguments.install:
        install(lacking)
    return 0


def _needed(machine: str, named: list[str]) -> tuple[str, ...]:
    chosen = templates.resolve([name for words in named for name in words.split(",") if name], machine)
    packages = [name for one in chosen for name in one.template.packages]
    return hostpackages.needed(machine, recipes.closure([*packages, configure.kernels()[0]]))


def install(packages: tuple[str, ...]) -> None:
    """Install them, once who does so already has done it; InputError for others than root, BuildError."""
    commands = hostpackages.install_commands(packages)
    if os.geteuid() != 0:
        typed = " && ".join(f"sudo {shlex.join(command)}" for command in commands)
        raise InputError(
            "only root can install packages", hint=f"run this once, then again what you wanted:\n  {typed}"
        )
    with cache.default().turn("host-packages", lambda: print("  another build installs packages; waiting", flush=True)):
        if not hostpackages.missing(packages):
            return
        for pause in PAUSES:
            status = _run(commands)
            if not status:
                return
            time.sleep(pause)
    raise BuildError(f"{shlex.join(commands[-1])}: exit status {status}", hint="run it by hand to see all it says")


def _run(commands: Iterable[tuple[str, ...]]) -> int:
    """The exit status of the last. A foreign repository that fails to update must not stop us."""
    env = dict(os.environ) | {"DEBIAN_FRONTEND": "noninteractive"}
    status = 0
    for command in commands:
        print(f"  {shlex.join(command)}", flush=True)
        status = subprocess.run(
            command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False
        ).returncode
    return status
