# SPDX-License-Identifier: GPL-2.0-only
"""Clients of CRIU's RPC that are not ours: upstream's Python bindings, libcriu, and go-criu, from Debian's packages.

Their module has the name of ours, so they are unpacked into a root of their own, with a Python of their own.

`python3 -m tests.clients` fetches them.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from layer.errors import LayerError
from layer.fetch import debian as archive
from tests import debian, golang

ROOT = Path(__file__).parents[1]
SUITES = ("trixie", "sid")  # bookworm's bindings do not start a worker
PACKAGES = ("python3-pycriu", "libcriu-dev")
GO_PACKAGE = "golang-github-checkpoint-restore-go-criu-dev"  # of the host's release, as its compiler is

# The `criu` that the clients start: the pycriu of this checkout, whatever the environment of the client's Python.
CRIU = """#!{python} -I
import sys
sys.path.insert(0, {root!r})
from pycriu.cli import main
sys.exit(main())
"""


class NotHadError(Exception):
    """There is no such client; the text says why."""


@dataclass(frozen=True, slots=True)
class Clients:
    """The unpacked packages."""

    root: Path

    @property
    def loader(self) -> list[str]:
        """The dynamic loader of the packages, which runs their programs with their libraries."""
        libraries = [path.parent for path in sorted(self.root.glob("usr/lib/*/libcriu.so.2"))]
        return [str(next(libraries[0].glob("ld-linux-*.so.*"))), "--library-path", str(libraries[0])]

    def python(self, script: Path, *words: str) -> list[str]:
        """The command that runs a script whose `pycriu` is upstream's."""
        interpreter = next(path for path in sorted(self.root.glob("usr/bin/python3.*")) if path.name[9:].isdigit())
        return [*self.loader, str(interpreter), str(script), *words]

    def environment(self) -> dict[str, str]:
        """What that command needs: nothing of this process's environment reaches it."""
        return {"PYTHONHOME": f"{self.root}/usr", "PYTHONPATH": f"{self.root}/usr/lib/python3/dist-packages"}

    def compile(self, source: Path, target: Path) -> list[str]:
        """Build a C program with libcriu; the command that runs it."""
        compiler = shutil.which("gcc") or shutil.which("cc")
        if compiler is None:
            raise NotHadError("no C compiler on this machine: apt-get install gcc")
        folder = self.loader[-1]
        # The library asks for a newer libc than the host may have: it is there when the program runs.
        words = [
            "-I",
            f"{self.root}/usr/include",
            "-I",
            f"{self.root}/usr/include/criu",
            str(source),
            "-o",
            str(target),
        ]
        subprocess.run(
            [compiler, *words, f"{folder}/libcriu.so.2", "-Wl,--allow-shlib-undefined"], check=True, capture_output=True
        )
        return [*self.loader, str(target)]


def find() -> Clients:
    """What `main` has fetched; NotHadError."""
    if not debian.fetched(_root()):
        raise NotHadError("upstream's bindings are not in the cache: python3 -m tests.clients fetches them")
    return Clients(_root() / "root")


def in_go(source: Path) -> Path:
    """A program that uses go-criu; NotHadError."""
    root = _go_root()
    if not debian.fetched(root):
        raise NotHadError("go-criu is not in the cache: python3 -m tests.clients fetches it")
    program = golang.built(source, root, GOPATH=f"{root}/root/usr/share/gocode")
    if program is None:
        raise NotHadError("no compiler for Go on this machine: apt-get install golang-go")
    return program


def _root() -> Path:
    return debian.cache() / "clients"


def _go_root() -> Path:
    return debian.cache() / "gocriu"


def criu(folder: Path) -> Path:
    """A program of that name in `folder`, which is pycriu."""
    path = folder / "criu"
    path.write_text(CRIU.format(python=sys.executable, root=str(ROOT)))
    path.chmod(0o755)
    return path


def main() -> int:
    """Fetch them, once. A host without an archive goes without: the tests say what they lack."""
    try:
        debian.fetch(_go_root(), (archive.codename(),), (GO_PACKAGE,))
    except (debian.NotHadError, LayerError) as error:
        sys.stderr.write(f"  {error}\n")
    try:
        debian.fetch(_root(), SUITES, PACKAGES)
    except debian.NotHadError as error:
        sys.stderr.write(f"  {error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
