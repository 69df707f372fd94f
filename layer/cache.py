# SPDX-License-Identifier: GPL-2.0-only
"""What is kept between builds and shared by all checkouts: downloads, finished outputs, private apt state.

Everything appears under its final name by one rename, so a reader needs no lock. Writers of one name take turns by a
lock file. Nothing is ever evicted; the folder may be deleted whole at any time that no build runs.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cache:
    """The layout under one root."""

    root: Path

    def output(self, name: str, key: str) -> Path:
        """Where the finished output of a recipe lies, or will."""
        return self.root / "outputs" / name / key

    @property
    def workshop(self) -> Path:
        """Where all recipes are built: a path that no output may hold."""
        return self.root / "work"

    def work(self, name: str, key: str) -> Path:
        """The folder in which a recipe is built; left behind by a failure, to look at and repeat."""
        return self.workshop / f"{name}-{key}"

    def download(self, sha256: str, file: str) -> Path:
        """Where a source file of that content lies, or will."""
        return self.root / "downloads" / sha256 / file

    def apt(self, suite: str) -> Path:
        """The private apt state of one suite."""
        return self.root / "apt" / suite

    @contextmanager
    def turn(self, what: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold the lock called `what`; waits while another process has it, after saying so through `waiting`."""
        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with turn(folder / f"{what}.lock", waiting):
            yield

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """An empty folder on the cache's own file system, gone afterwards."""
        folder = self.root / "tmp"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as name:
            yield Path(name)


def default() -> Cache:
    """$LAYER_CACHE, or the user's cache folder."""
    named = os.environ.get("LAYER_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Cache(Path(named).absolute() if named else Path(base) / "pycriu-layer")


@contextmanager
def turn(file: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock that is this file; waits while another process has it, after saying so through `waiting`."""
    with file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting:
                waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def settle(made: Path, final: Path) -> None:
    """Give a finished file or folder its final name; whoever came first wins, the contents are the same."""
    final.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.rename(made, final)
    except OSError:
        if not final.exists():
            raise
        remove(made)


def remove(path: Path) -> None:
    """Delete a file or a tree, if it is there."""
    if path.is_dir() and not path.is_symlink():
        _make_deletable(path)
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_if_changed(path: Path, text: str) -> bool:
    """Replace the file's text in one rename; leaves the file, and its time, alone when it holds just that."""
    if path.is_file() and path.read_text() == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_name(f".{path.name}.{os.getpid()}")
    made.write_text(text)
    os.rename(made, path)
    return True


def _make_deletable(tree: Path) -> None:
    """Sources may unpack read-only folders; who is not root cannot delete in those."""
    for folder, _, _ in os.walk(tree):
        if not os.access(folder, os.W_OK):
            os.chmod(folder, 0o755)
