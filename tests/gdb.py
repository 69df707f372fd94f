# SPDX-License-Identifier: GPL-2.0-only
"""gdb, which judges core files: the host's, or Debian's for all architectures, unpacked into the cache."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from layer.errors import LayerError
from layer.fetch import debian as archive
from tests import debian


class NoGdbError(Exception):
    """There is no gdb; the text says why."""


def _root() -> Path:
    return debian.cache() / "gdb"


def _multiarch() -> list[str]:
    """The command for the one that knows every architecture; it is fetched on first use."""
    installed = shutil.which("gdb-multiarch")
    if installed:
        return [installed]
    try:
        debian.fetch(_root(), (archive.codename(),), ("gdb-multiarch",), alone=False)
    except (debian.NotHadError, LayerError) as error:
        raise NoGdbError(str(error)) from None
    program = _root() / "root/usr/bin/gdb-multiarch"
    data = Path("/usr/share/gdb")  # gdb's own package has it, which is not fetched where it is installed
    if not (data / "python").exists():
        data = _root() / "root/usr/share/gdb"
    return [str(program), f"--data-directory={data}"]


def ask(core: Path, program: Path | str, *commands: str, sysroot: Path | None = None) -> str:
    """What gdb says to the commands; without a sysroot the core is of this machine's architecture."""
    if sysroot is not None:
        commands = (f"set sysroot {sysroot}", f"core-file {core}", *commands)
    return run(program, *commands, core=core if sysroot is None else None, foreign=sysroot is not None)


def run(
    program: Path | str, *commands: str, core: Path | None = None, foreign: bool = False, folder: Path | None = None
) -> str:
    """What gdb says to the commands for a program, and a core of it, or a PID in the place of one."""
    own = None if foreign else shutil.which("gdb")
    words = [own] if own else _multiarch()
    asked = [word for command in ("set pagination off", "set confirm off", *commands) for word in ("-ex", command)]
    libraries = [str(found) for found in sorted(_root().glob("root/usr/lib/*-linux-gnu"))]
    paths = os.pathsep.join(filter(None, [os.environ.get("LD_LIBRARY_PATH"), *libraries]))
    done = subprocess.run(
        [*words, "-nx", "-batch", *asked, str(program), *([str(core)] if core is not None else [])],
        env=os.environ | {"LC_ALL": "C", "LD_LIBRARY_PATH": paths, "DEBUGINFOD_URLS": ""}, cwd=folder,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=60, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr
