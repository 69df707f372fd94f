# SPDX-License-Identifier: GPL-2.0-only
"""Times of dump and restore: whole commands from outside, the pause as the tool and as the application see it."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import loads

from pycriu.images import store


class FailedError(Exception):
    """A tool did not do what was to be measured."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A command with CRIU's options."""

    name: str
    command: tuple[str, ...]

    def run(self, *words: str, log: Path) -> float:
        """Seconds that the whole command took."""
        began = time.perf_counter()
        status = subprocess.run([*self.command, *words, "-o", str(log)], stderr=subprocess.PIPE, check=False)
        took = time.perf_counter() - began
        if status.returncode:
            raise FailedError(f"{self.name} {words[0]}: {_why(log, status.stderr)}")
        return took


@dataclass(slots=True)
class Series:
    """Seconds, by what was measured."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, what: str, seconds: float) -> None:
        """One more value."""
        self.seconds.setdefault(what, []).append(seconds)


def once(tool: Tool, load: loads.Load, place: Path, series: Series, *, sync: bool) -> None:
    """Dump a load and leave it running, dump it, restore it; the times go into the series."""
    images = place / "images"
    pid = load.start(place)
    log = place / "log"
    try:
        for _ in range(2):  # the first run fills the caches that a measurement must not fill
            _fresh(images)
            began = time.monotonic()
            tool.run("dump", "-t", str(pid), "-D", str(images), "-R", log=log)
        series.add(f"{load.name}: pause", _frozen(images))
        if load.tells:
            time.sleep(0.02)
            series.add(f"{load.name}: pause, felt", loads.longest_jump(place, began))
        _fresh(images)
        began = time.perf_counter()
        tool.run("dump", "-t", str(pid), "-D", str(images), log=log)
        series.add(f"{load.name}: dump", time.perf_counter() - began)
        if sync:
            _sync(images)
            series.add(f"{load.name}: dump, on disk", time.perf_counter() - began)
        loads.bury(pid)
        series.add(f"{load.name}: restore", tool.run("restore", "-d", "-D", str(images), log=log))
        if not loads.alive(pid):
            raise FailedError(f"{tool.name} restore: PID {pid} does not run")
    finally:
        loads.bury(pid)
        shutil.rmtree(images, ignore_errors=True)


def _frozen(images: Path) -> float:
    """What the tool's statistics say, in seconds."""
    with store.ImagesDir(str(images)) as directory:
        [statistics] = directory.read("stats-dump")
    return float(statistics.dump.frozen_time) / 1e6  # type: ignore[attr-defined]


def _fresh(images: Path) -> None:
    shutil.rmtree(images, ignore_errors=True)
    images.mkdir(mode=0o700)


def _sync(images: Path) -> None:
    for path in images.glob("*.img"):
        fd = os.open(path, os.O_RDONLY)
        os.fdatasync(fd)
        os.close(fd)


def _why(log: Path, said: bytes) -> str:
    """The last error in the log, else what was said on standard error."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    errors = [line for line in lines if "Error" in line]
    return (errors or [said.decode(errors="replace").strip() or "failed without a word"])[0]
