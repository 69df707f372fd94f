# SPDX-License-Identifier: GPL-2.0-only
"""Programs of Debian's packages, unpacked into the cache: CRIU to compare with, servers and editors for the tests.

They come through an apt with lists and state of its own, from the archive that the host's apt is configured with; apt
checks signatures and hashes. Nothing is installed on the host, and no package's scripts run.

`python3 -m tests.debian` fetches what the tests with real programs want and this host does not have.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from layer import cache as layer_cache
from layer.errors import LayerError
from layer.fetch import debian

# program → the package that has it
PROGRAMS = {
    "bash": "bash",
    "go": "golang-go",
    "less": "less",
    "nginx": "nginx-light",
    "postgres": "postgresql",
    "redis-server": "redis-server",
    "tmux": "tmux",
    "vi": "vim-tiny",
}
# the same, for what BLCR's tests restart; in a folder of their own
INTERPRETERS = {"dash": "dash", "perl": "perl", "ruby": "ruby", "tclsh": "tcl"}
SUDO = {"sudo": "sudo", "visudo": "sudo"}
_FOLDERS = ("usr/bin", "usr/sbin", "usr/lib/postgresql/*/bin", "usr/lib/go-*/bin", "bin")
_OF_TCL = ("usr/share/tcltk/tcl8.*",)
_LIBRARIES = ("usr/lib/*-linux-gnu", "lib/*-linux-gnu", "usr/lib/*-linux-gnu/*")

WHOLE = "whole"  # in a folder of packages: which they are; written when they are there

_FOREIGN = """\
#clear APT::Architectures;
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
"""


class NotHadError(Exception):
    """The packages cannot be had; the text says why."""


def cache() -> Path:
    """The cache of the build, where all that is fetched lies."""
    return layer_cache.default().root


def unpack(
    root: Path, suites: tuple[str, ...], packages: tuple[str, ...], *, alone: bool, architecture: str = ""
) -> None:
    """Packages of the first suite that has them, and what they depend on, below `root`/root.

    `alone`: with every library down to libc; else what the host has installed is left out. `architecture`: another
    one than the host's, by Debian's name; for `alone` only.
    """
    shutil.rmtree(root, ignore_errors=True)
    for part in ("state", "lists/partial", "cache/archives/partial", "root"):
        (root / part).mkdir(parents=True)
    (root / "status").touch()
    status = root / "status" if alone else debian.STATUS
    foreign = _FOREIGN.format(architecture=architecture) if architecture else ""
    (root / "apt.conf").write_text(debian.CONFIGURATION.format(root=root, status=status) + foreign)
    said = ""
    for suite in suites:
        try:
            line = debian.source_line(suite)
        except LayerError as error:
            raise NotHadError(str(error)) from None
        (root / "sources.list").write_text(line.replace("deb-src", "deb", 1))
        said = _apt(root, "update") or _apt(
            root, "install", "--yes", "--no-install-recommends", "--download-only", *packages
        )
        if not said:
            break
    else:
        raise NotHadError(f"{', '.join(packages)} cannot be had from {' or '.join(suites)}: {said}")
    for package in sorted((root / "cache/archives").glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", package, root / "root"], check=True)
    shutil.rmtree(root / "cache")


def fetch(
    root: Path, suites: tuple[str, ...], packages: tuple[str, ...], *, alone: bool = True, architecture: str = ""
) -> None:
    """`unpack`, unless all of it has been done, to its end; who comes meanwhile waits."""
    with layer_cache.default().turn(root.name):
        if not set(packages) <= fetched(root):
            sys.stderr.write(f"fetching {', '.join(packages)} for the tests, into {root}\n")
            (root / WHOLE).unlink(missing_ok=True)
            unpack(root, suites, packages, alone=alone, architecture=architecture)
            (root / WHOLE).write_text("\n".join(packages) + "\n")


def fetched(root: Path) -> set[str]:
    """What `fetch` has been asked for and was there at its end; nothing of one that was interrupted."""
    whole = root / WHOLE
    return set(whole.read_text().split()) if whole.exists() else set()


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


def sets() -> dict[Path, dict[str, str]]:
    """Where the programs for the tests are unpacked, and which they are."""
    return {cache() / "programs": PROGRAMS, cache() / "interpreters": INTERPRETERS, cache() / "sudo": SUDO}


def folders(patterns: tuple[str, ...]) -> list[str]:
    """Those folders of the unpacked packages that exist."""
    roots = [folder / "root" for folder in sets() if fetched(folder)]
    found = [place for root in roots for pattern in patterns for place in sorted(root.glob(pattern))]
    return [str(place) for place in found if place.is_dir()]


def environment() -> dict[str, str]:
    """What makes the unpacked programs run beside the host's, which come first."""
    paths = {"PATH": folders(_FOLDERS), "LD_LIBRARY_PATH": folders(_LIBRARIES)}
    changed = {name: os.pathsep.join([*filter(None, [os.environ.get(name)]), *found]) for name, found in paths.items()}
    if (own := folders(_OF_TCL)) and shutil.which("tclsh") is None:  # it would look where it was built for
        changed["TCL_LIBRARY"] = own[0]
    return {name: value for name, value in changed.items() if value}


def main() -> int:
    """Fetch what is missing, once. A host without an archive goes without: the tests say what they lack."""
    for folder, packages in sets().items():
        lacking = {package for program, package in packages.items() if shutil.which(program) is None}
        try:
            fetch(folder, (debian.codename(),), tuple(sorted(lacking)), alone=False)
        except (NotHadError, LayerError) as error:
            sys.stderr.write(f"  {error}\n")
            continue
        tiny = folder / "root/usr/bin/vim.tiny"
        if tiny.exists():  # Debian names it by a script that has not run
            with contextlib.suppress(FileExistsError):
                (tiny.parent / "vi").symlink_to(tiny.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
