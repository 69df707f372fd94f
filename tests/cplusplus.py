# SPDX-License-Identifier: GPL-2.0-only
"""Programs in C++ for a machine, compiled by the host's cross compiler or by Debian's, unpacked into the cache.

The latter is what the cross compiler for C, which every build has, lacks: the compiler proper, and the library.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from layer import hostpackages
from layer.errors import LayerError
from layer.fetch import debian as archive
from layer.machine import Machine
from tests import debian


def build(machine: Machine, source: Path, target: Path) -> None:
    """The program `target`; NotHadError where there is no compiler."""
    own = shutil.which(f"{machine.triplet}-g++")
    words = [own, source] if own else [*_fetched(machine), source, "-l:libstdc++.so.6"]
    subprocess.run([*words, "-O1", "-pthread", "-o", target], check=True)


def _fetched(machine: Machine) -> list[str | Path]:
    """The command that makes the compiler for C one for C++."""
    root = debian.cache() / f"cplusplus-{machine.debian_arch}"
    package = hostpackages.fill("g++-{cross}", machine)
    try:
        debian.fetch(root, (archive.codename(),), (package,), alone=False)
    except LayerError as error:
        raise debian.NotHadError(str(error)) from None
    compiler, *_ = root.rglob("cc1plus")
    headers = [*root.rglob("c++/*/iostream"), *(path.parent for path in root.rglob("bits/c++config.h"))]
    libraries = root.rglob("libstdc++.so.6")
    words: list[str | Path] = [f"{machine.triplet}-gcc", f"-B{compiler.parent}"]
    words += [word for path in headers for word in ("-isystem", path.parent)]
    return [*words, *(f"-L{path.parent}" for path in libraries)]
