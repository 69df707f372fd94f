# SPDX-License-Identifier: GPL-2.0-only
"""Which Debian packages a build for a machine needs on the build machine, and which of them are missing.

Knows dpkg only: on another distribution everything counts as missing, and the names say what to look for.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable

from layer import machine, process
from layer.machine import Machine
from layer.recipes import Recipe

# make and git are how the user got here; python3 runs this.
ALWAYS = (
    "bzip2",
    "ca-certificates",
    "debian-archive-keyring",
    "dpkg-dev",
    "e2fsprogs",
    "gcc",
    "libc6-dev",
    "lz4",
    "make",
    "patch",
    "xz-utils",
)


def needed(machine_name: str, recipes: Iterable[Recipe], *, emulator: bool = True) -> tuple[str, ...]:
    """All packages for building the recipes for a machine, and running the result."""
    target = machine.load(machine_name)
    found = {*ALWAYS, *compiler(target)}
    for recipe in recipes:
        found |= {fill(name, target) for name in recipe.host_packages}
    if emulator:
        found.add(target.qemu.package)
    return tuple(sorted(found))


def compiler(target: Machine) -> tuple[str, ...]:
    """The packages that bring a compiler and a C library for the machine."""
    if host_architecture() == target.debian_arch:
        return ("gcc", "libc6-dev")
    return (f"gcc-{dashed(target)}", f"libc6-dev-{target.debian_arch}-cross")


def fill(name: str, target: Machine) -> str:
    """A recipe's package name: `gcc-{cross}` is gcc-aarch64-linux-gnu, plain gcc for the build machine's own kind."""
    if "{cross}" not in name:
        return name.replace("{debian_arch}", target.debian_arch)
    own = host_architecture() == target.debian_arch
    return name.replace("-{cross}", "" if own else f"-{dashed(target)}")


def missing(wanted: Iterable[str]) -> tuple[str, ...]:
    """Those that dpkg does not know as installed."""
    text = process.output(["dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status}\n"])
    installed = {line.split()[0] for line in text.splitlines() if line.endswith(" installed")}
    return tuple(name for name in wanted if name not in installed)


def install_commands(packages: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """What installs them: one transaction."""
    install = ("apt-get", "install", "--yes", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300", *packages)
    return (("apt-get", "update"), install)


def dashed(target: Machine) -> str:
    """The triplet as Debian's package names write it."""
    return target.triplet.replace("_", "-")


def host_architecture() -> str:
    """The build machine's name in Debian."""
    done = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=False)
    return done.stdout.strip()
