# SPDX-License-Identifier: GPL-2.0-only
"""The compiler of a machine: Debian's gcc for its triplet, its identity, and wrappers that hide build paths from it."""

from __future__ import annotations

import functools
import hashlib
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from layer import process
from layer.errors import BuildError
from layer.machine import Machine

TOOLS = ("AR", "AS", "LD", "NM", "RANLIB", "READELF", "OBJCOPY", "OBJDUMP", "STRIP")


@dataclass(frozen=True, slots=True)
class Toolchain:
    """`prefix` stands before every tool's name; empty for the build machine's own tools."""

    prefix: str

    def program(self, tool: str) -> str:
        """Where a tool such as gcc is."""
        name = f"{self.prefix}{tool}"
        found = shutil.which(name, path="/usr/bin:/bin:/usr/local/bin")
        if found is None:
            raise BuildError(f"{name} is not installed", hint="`make host-packages` installs what the build needs")
        return found

    def variables(self) -> dict[str, str]:
        """The tools by the names that makefiles use; none for native builds, whose defaults are right."""
        if not self.prefix:
            return {}
        compilers = {"CC": f"{self.prefix}gcc", "CXX": f"{self.prefix}g++", "CPP": f"{self.prefix}cpp"}
        return (
            compilers | {tool: f"{self.prefix}{tool.lower()}" for tool in TOOLS} | {"CFLAGS": "-O2", "CXXFLAGS": "-O2"}
        )


def target(machine: Machine) -> Toolchain:
    """What builds for `machine`."""
    return Toolchain(f"{machine.triplet}-")


NATIVE = Toolchain("")


@functools.cache
def identity(toolchain: Toolchain) -> Mapping[str, str]:
    """What in the compiler, the binutils and the C library can change a result."""
    gcc = toolchain.program("gcc")
    libc = Path(process.output([gcc, "-print-file-name=libc.so.6"]).strip())
    if not libc.is_file():
        raise BuildError(f"no C library for {gcc}", hint="`make host-packages` installs what the build needs")
    return {
        "gcc": process.output([gcc, "--version"]).splitlines()[0],
        "binutils": process.output([toolchain.program("ld"), "--version"]).splitlines()[0],
        "libc": hashlib.sha256(libc.read_bytes()).hexdigest()[:16],
    }


def write_wrappers(toolchain: Toolchain, folder: Path, *, work: Path, sysroot: Path | None) -> None:
    """Put compilers into `folder` that know the sysroot and call `work` by a constant name.

    Flags in variables would do the same, but build systems record those (CPython, pkg-config files, `-v` texts).
    """
    folder.mkdir(parents=True)
    before = [f"-ffile-prefix-map={work}=/usr/src"]
    after: list[str] = []
    if sysroot is not None:
        before += ["-isystem", f"{sysroot}/usr/include"]  # after every -I of the package itself
        after += [f"-L{sysroot}/usr/lib", f"-Wl,-rpath-link,{sysroot}/usr/lib"]
    tools = ("gcc", "g++", "cpp") if toolchain.prefix else ("gcc", "g++", "cpp", "cc", "c++")
    for tool in tools:
        if shutil.which(f"{toolchain.prefix}{tool}", path="/usr/bin:/bin") is None:
            continue  # no C++ compiler: who needs one fails in a step that says so
        ending = [] if tool == "cpp" else after
        command = " ".join([shlex.join([toolchain.program(tool), *before]), '"$@"', shlex.join(ending)]).rstrip()
        wrapper = folder / f"{toolchain.prefix}{tool}"
        wrapper.write_text(f"#!/bin/sh\nexec {command}\n")
        wrapper.chmod(0o755)
