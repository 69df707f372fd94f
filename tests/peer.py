# SPDX-License-Identifier: GPL-2.0-only
"""CRIU to compare with: the one that is named, the host's, or Debian's with its own libraries, unpacked into the cache.

One place for each release of Debian and each machine, for tests on the host, in guests, and benchmarks. Nothing is
installed on the host.

`python3 -m tests.peer` fetches those for this host.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from layer import hostpackages
from tests import debian

SUITES = ("trixie", "sid")  # the newest release that has criu comes first
OLD = "bookworm"  # has 3.17


class NoPeerError(Exception):
    """There is no CRIU to compare with; the text says why."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A CRIU that runs here."""

    command: tuple[str, ...]
    version: str


def find(named: str | None = None, *, download: bool = False) -> Peer:
    """The first of: the one named, the host's, that of a release of Debian; it must run."""
    on_path = named or shutil.which("criu")
    if on_path:
        return tried((on_path,))
    if download:
        fetch(SUITES[0])
    return of_suite(SUITES[0])


def of_suite(suite: str) -> Peer:
    """What `fetch` has unpacked for this host."""
    root = place(suite)
    if not debian.fetched(root):
        raise NoPeerError(f"no criu of Debian's {suite} in the cache: python3 -m tests.peer fetches it")
    return tried(_command(root))


def working(found: Peer) -> Peer:
    """The same, if it can dump and restore on this kernel."""
    checked = subprocess.run([*found.command, "check"], capture_output=True, text=True, check=False)
    if checked.returncode:
        said = (checked.stdout + checked.stderr).strip().splitlines()
        raise NoPeerError(f"CRIU {found.version} check: {said[-1] if said else checked.returncode}")
    return found


def place(suite: str, architecture: str = "") -> Path:
    """Where it lies, for the host's architecture or the named one."""
    return debian.cache() / f"criu-{suite}-{architecture or hostpackages.host_architecture()}"


def fetch(suite: str, architecture: str = "") -> Path:
    """Unpack it, unless it is there; its place. NoPeerError."""
    root = place(suite, architecture)
    try:
        debian.fetch(root, (suite,), ("criu",), architecture=architecture)
    except debian.NotHadError as error:
        raise NoPeerError(str(error)) from None
    return root


def _command(root: Path) -> tuple[str, ...]:
    """Run by its own dynamic loader: the host's libraries do not matter."""
    places = ("root/usr/lib/*", "root/lib/*", "root/lib")
    loaders = [found for place in places for found in sorted(root.glob(f"{place}/ld-linux-*.so.*"))]
    if not loaders:
        raise NoPeerError(f"{root} holds no dynamic loader")
    libraries = sorted({str(path.parent) for path in root.glob("root/usr/lib/*/libprotobuf-c.so*")})
    program = root / "root/usr/sbin/criu"
    return (str(loaders[0]), "--library-path", ":".join([*libraries, str(loaders[0].parent)]), str(program))


def tried(command: tuple[str, ...]) -> Peer:
    """What this command runs; NoPeerError where it does not."""
    try:
        done = subprocess.run([*command, "-V"], capture_output=True, text=True, check=False)
    except OSError as error:
        raise NoPeerError(f"{command[-1]}: {error}") from None
    if done.returncode or "Version:" not in done.stdout:
        raise NoPeerError(f"{command[-1]} -V: {(done.stderr or done.stdout).strip()}")
    return Peer(command, done.stdout.split()[1])


def main() -> int:
    """Fetch what the cache has not. A host without an archive goes without: the tests say what they lack."""
    for suite in (*SUITES, OLD):
        try:
            fetch(suite)
        except NoPeerError as error:
            sys.stderr.write(f"{error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
