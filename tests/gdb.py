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
    program = _root() / "root/usr/bin/gdb-multiarch"
    if not program.exists():
        try:
            debian.unpack(_root(), (archive.codename(),), ("gdb-multiarch",), alone=False)
        except (debian.NotHadError, LayerError) as error:
            shutil.rmtree(_root(), ignore_errors=True)
            raise NoGdbError(str(error)) from None
    data = Path("/usr/share/gdb")  # gdb's own package has it, which is not fetched where it is installed
    if not (data / "python").exists():
        data = _root() / "root/usr/share/gdb"
    return [str(program), f"--data-directory={data}"]


def ask(core: Path, program: Path | str, *commands: str, sysroot: Path | None = None) -> str:
    """What gdb says to the commands; without a sysroot the core is of this machine's architecture."""
    own = shutil.which("gdb") if sysroot is None else None
    words = [own] if own else _multiarch()
    if sysroot is not None:
        commands = (f"set sysroot {sysroot}", f"core-file {core}", *commands)
    asked = [word for command in ("set pagination off", *commands) for word in ("-ex", command)]
    libraries = [str(found) for found in sorted(_root().glob("root/usr/lib/*-linux-gnu"))]
    paths = os.pathsep.join(filter(None, [os.environ.get("LD_LIBRARY_PATH"), *libraries]))
    done = subprocess.run(
        [*words, "-nx", "-batch", *asked, str(program), *([str(core)] if sysroot is None else [])],
        env=os.environ | {"LC_ALL": "C", "LD_LIBRARY_PATH": paths, "DEBUGINFOD_URLS": ""},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=60, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr
