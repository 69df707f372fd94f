# SPDX-License-Identifier: GPL-2.0-only
"""Debian source packages, through an apt that has its own lists, state and cache and never touches the host's.

The addresses are the host's own, with the suite swapped; the signatures are checked against the host's archive keyring.
apt verifies InRelease → Sources → sha256 of each file.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from layer import process
from layer.cache import Cache, write_if_changed
from layer.errors import BuildError, InputError
from layer.fetch import aptsources
from layer.fetch.lock import GoneError, Pin
from layer.recipes import DebianSource

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

STATUS = "/var/lib/dpkg/status"  # what the host has installed

# Everything the host's configuration could make this apt do besides fetching is turned off; its proxies still count.
CONFIGURATION = """\
#clear APT::Update;
#clear DPkg;
Dir::State "{root}/state/";
Dir::State::lists "{root}/lists/";
Dir::State::status "{status}";
Dir::Cache "{root}/cache/";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Dir::Etc::sourcelist "{root}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Sandbox::User "root";
APT::Get::List-Cleanup "false";
Acquire::Languages "none";
Acquire::Retries "3";
"""


@dataclass(frozen=True, slots=True)
class Apt:
    """A private apt for the source packages of one suite."""

    cache: Cache
    suite: str

    def prepare(self, *, refresh: bool) -> None:
        """Have the suite's signed index here; `refresh` fetches it again even when it is."""
        root = self.cache.apt(self.suite)
        with self.cache.turn(f"apt-{self.suite}"):
            for folder in ("lists/partial", "cache/archives/partial", "state"):
                (root / folder).mkdir(parents=True, exist_ok=True)
            # Never half there: another recipe's apt may be reading them, and would go on with the host's.
            write_if_changed(root / "sources.list", source_line(self.suite))
            write_if_changed(root / "apt.conf", CONFIGURATION.format(root=root, status=STATUS))
            if refresh or not any((root / "lists").glob("*Sources*")):
                self._update()

    def versions(self, package: str) -> tuple[str, ...]:
        """The versions of a source package that the suite carries, oldest first."""
        try:
            text = self._run("apt-cache", "showsrc", package)
        except BuildError:
            return ()  # apt-cache says no more than "no such package"
        found = re.findall(r"^Package: (\S+)\n(?:.*\n)*?Version: (\S+)", text, re.MULTILINE)
        return sort_versions({version for name, version in found if name == package})

    def pin(self, package: str, version: str) -> Pin:
        """Names and hashes of the files of one version, as the archive signs them."""
        try:
            text = self._run("apt-get", "source", "--print-uris", "--download-only", f"{package}={version}")
        except BuildError as error:
            raise GoneError(f"{self.suite} does not carry {package} {version}") from error
        files = {
            name: sha256.lower()
            for name, sha256 in re.findall(r"^'\S+' (\S+) \d+ SHA256:(\w{64})$", text, re.MULTILINE)
        }
        if not files:
            raise BuildError(
                f"apt names no sha256 for {package} {version} of {self.suite}", hint=process.last_lines(text, 5)
            )
        return Pin(version, f"debian {self.suite}", dict(sorted(files.items())))

    def download(self, package: str, version: str, folder: Path) -> None:
        """Put the files of one version into `folder`."""
        self._run("apt-get", "source", "--download-only", f"{package}={version}", cwd=folder)

    def _update(self) -> None:
        text = self._run("apt-get", "update", "--error-on=any")
        if not any((self.cache.apt(self.suite) / "lists").glob("*Sources*")):
            raise BuildError(f"the archive has no source index for {self.suite}", hint=process.last_lines(text, 8))

    def _run(self, program: str, *words: str, cwd: Path | None = None) -> str:
        root = self.cache.apt(self.suite)
        command = [program, "-c", str(root / "apt.conf"), "-q", *words]
        return process.output(command, cwd=cwd or root, env=dict(os.environ) | {"LC_ALL": "C"})


def newest(source: DebianSource, apt: Apt) -> Pin:
    """The newest version in the suite (and series, if the recipe names one)."""
    versions = [
        version for version in apt.versions(source.package) if version.split(":", 1)[-1].startswith(source.series)
    ]
    if not versions:
        series = f" {source.series}*" if source.series else ""
        raise BuildError(f"{apt.suite} carries no source package {source.package}{series}")
    return apt.pin(source.package, versions[-1])


def source_line(suite: str) -> str:
    """The deb-src line of a private apt."""
    archive = _host_archive()
    keyring = archive.signed_by or KEYRING
    if not Path(keyring).is_file():
        raise InputError(
            f"{keyring} is missing: nothing could be verified", hint="install the package debian-archive-keyring"
        )
    return f"deb-src [signed-by={keyring}] {archive.uri} {suite} main\n"


def sort_versions(versions: Iterable[str]) -> tuple[str, ...]:
    """Debian's own order, by dpkg."""

    def compare(left: str, right: str) -> int:
        older = subprocess.run(["dpkg", "--compare-versions", left, "lt", right], check=False).returncode == 0
        return -1 if older else 1

    return tuple(sorted(versions, key=functools.cmp_to_key(compare)))


def codename() -> str:
    """The release of this host, such as bookworm; InputError where it is no Debian."""
    found = _os_release().get("VERSION_CODENAME", "")
    if not found:
        raise InputError("this host does not say which release of Debian it is (/etc/os-release)")
    return found


def _host_archive() -> aptsources.Archive:
    named = os.environ.get("LAYER_DEBIAN_ARCHIVE")
    if named:
        return aptsources.Archive(named, (), ("main",), "")
    codename = _os_release().get("VERSION_CODENAME", "")
    archive = aptsources.debian(_host_archives(), codename)
    if archive is None:
        raise InputError(
            f"this host's apt sources name no Debian archive for {codename or 'its release'}",
            hint="set LAYER_DEBIAN_ARCHIVE to the address of a Debian mirror",
        )
    return archive


def _host_archives() -> list[aptsources.Archive]:
    text = process.output(["apt-config", "shell", "LIST", "Dir::Etc::sourcelist/f", "PARTS", "Dir::Etc::sourceparts/d"])
    where = dict(word.split("=", 1) for word in shlex.split(text))
    files = [Path(where["LIST"]), *sorted(Path(where["PARTS"]).glob("*"))]
    archives: list[aptsources.Archive] = []
    for file in files:
        if file.suffix == ".sources":
            archives += aptsources.parse_deb822(file.read_text())
        elif file.suffix == ".list" and file.is_file():
            archives += aptsources.parse_list(file.read_text())
    return archives


def _os_release() -> dict[str, str]:
    lines = Path("/etc/os-release").read_text().splitlines()
    return {name: value.strip('"') for name, _, value in (line.partition("=") for line in lines)}
