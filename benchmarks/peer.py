# SPDX-License-Identifier: GPL-2.0-only
"""CRIU to compare with: the one that is named, the host's, or Debian's with its own libraries, unpacked into the cache.

Debian's comes through an apt with lists and state of its own, from the archive that the host's apt is configured with;
apt checks signatures and hashes. Nothing is installed on the host.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

SUITES = ("trixie", "sid")  # the newest release that carries criu comes first

APT = """\
#clear APT::Update;
#clear DPkg;
Dir::State "{root}/state/";
Dir::State::lists "{root}/lists/";
Dir::State::status "{root}/status";
Dir::Cache "{root}/cache/";
Dir::Etc::sourcelist "{root}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Sandbox::User "root";
APT::Install-Recommends "false";
Acquire::Languages "none";
"""


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
        return _tried((named,))
    on_path = shutil.which("criu")
    if on_path:
        return _tried((on_path,))
    root = cache / "peer"
    if not _program(root).exists():
        if not download:
            raise NoPeerError("no criu on this host, and none that benchmarks/run has fetched")
        _download(root)
    return _tried(_unpacked(root))


def _program(root: Path) -> Path:
    return root / "root/usr/sbin/criu"


def _unpacked(root: Path) -> tuple[str, ...]:
    """The program run by its own dynamic loader, so that the host's libraries do not matter."""
    loaders = sorted(root.glob("root/usr/lib/*/ld-linux-*.so.*")) + sorted(root.glob("root/lib/ld-linux-*.so.*"))
    if not loaders:
        raise NoPeerError(f"{root} holds no dynamic loader")
    libraries = sorted({str(path.parent) for path in root.glob("root/usr/lib/*/libprotobuf-c.so*")})
    return (str(loaders[0]), "--library-path", ":".join([*libraries, str(loaders[0].parent)]), str(_program(root)))


def _tried(command: tuple[str, ...]) -> Peer:
    try:
        done = subprocess.run([*command, "-V"], capture_output=True, text=True, check=False)
    except OSError as error:
        raise NoPeerError(f"{command[-1]}: {error}") from None
    if done.returncode or "Version:" not in done.stdout:
        raise NoPeerError(f"{command[-1]} -V: {(done.stderr or done.stdout).strip()}")
    return Peer(command, done.stdout.split()[1])


def _download(root: Path) -> None:
    from layer.errors import LayerError
    from layer.fetch import debian

    shutil.rmtree(root, ignore_errors=True)
    for part in ("state", "lists/partial", "cache/archives/partial", "root"):
        (root / part).mkdir(parents=True)
    (root / "status").touch()
    (root / "apt.conf").write_text(APT.format(root=root))
    said = ""
    for suite in SUITES:
        try:
            line = debian.source_line(suite)
        except LayerError as error:
            raise NoPeerError(str(error)) from None
        (root / "sources.list").write_text(line.replace("deb-src", "deb", 1))
        said = _apt(root, "update") or _apt(root, "install", "--yes", "--download-only", "criu")
        if not said:
            break
    else:
        raise NoPeerError(f"no criu could be had from {' or '.join(SUITES)}: {said}")
    for package in sorted((root / "cache/archives").glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", package, root / "root"], check=True)
    shutil.rmtree(root / "cache")


def _apt(root: Path, *words: str) -> str:
    """Run apt-get; what it says when it fails, else nothing."""
    done = subprocess.run(
        ["apt-get", "-c", root / "apt.conf", "-q", *words],
        env=os.environ | {"LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["apt-get failed"])[-1]
