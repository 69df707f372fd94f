# SPDX-License-Identifier: GPL-2.0-only
"""CRIU to compare with: the one that is named, the host's, or Debian's with its own libraries, unpacked into the cache.

Debian's is fetched by `tests.debian`. Nothing is installed on the host.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

SUITES = ("trixie", "sid")  # the newest release that carries criu comes first


class NoPeerError(Exception):
    """There is no CRIU to compare with; the text says why."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A CRIU that runs here."""

    command: tuple[str, ...]
    version: str


def find(named: str | None, cache: Path, *, download: bool = True) -> Peer:
    """The first of: the one named, the host's, the unpacked one, a fresh download; it must run."""
    if named:
        return tried((named,))
    on_path = shutil.which("criu")
    if on_path:
        return tried((on_path,))
    root = cache / "peer"
    if not _program(root).exists():
        if not download:
            raise NoPeerError("no criu on this host, and none that benchmarks/run has fetched")
        _download(root)
    return tried(unpacked(root))


def _program(root: Path) -> Path:
    return root / "root/usr/sbin/criu"


def unpacked(root: Path) -> tuple[str, ...]:
    """The command for an unpacked one, run by its own dynamic loader: the host's libraries do not matter."""
    places = ("root/usr/lib/*", "root/lib/*", "root/lib")
    loaders = [found for place in places for found in sorted(root.glob(f"{place}/ld-linux-*.so.*"))]
    if not loaders:
        raise NoPeerError(f"{root} holds no dynamic loader")
    libraries = sorted({str(path.parent) for path in root.glob("root/usr/lib/*/libprotobuf-c.so*")})
    return (str(loaders[0]), "--library-path", ":".join([*libraries, str(loaders[0].parent)]), str(_program(root)))


def tried(command: tuple[str, ...]) -> Peer:
    """What this command runs; NoPeerError where it does not."""
    try:
        done = subprocess.run([*command, "-V"], capture_output=True, text=True, check=False)
    except OSError as error:
        raise NoPeerError(f"{command[-1]}: {error}") from None
    if done.returncode or "Version:" not in done.stdout:
        raise NoPeerError(f"{command[-1]} -V: {(done.stderr or done.stdout).strip()}")
    return Peer(command, done.stdout.split()[1])


def _download(root: Path) -> None:
    from tests import debian

    try:
        debian.unpack(root, SUITES, ("criu",), alone=True)
    except debian.NotHadError as error:
        raise NoPeerError(str(error)) from None
