# SPDX-License-Identifier: GPL-2.0-only
"""Signs of life from a long build: which step of which recipe, for how long, and how its log grows.

ninja keeps an edge's output until the edge is done. A descriptor that it hands down untouched, named by
LAYER_PROGRESS_FD, reaches the user at once; without it the lines go to standard error like everything else.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EVERY = 20.0  # seconds between two signs of one step


def say(line: str) -> None:
    """One line to whoever watches the build."""
    wanted = int(os.environ.get("LAYER_PROGRESS_FD", "2"))
    try:
        os.write(wanted, f"{line}\n".encode())
    except OSError:
        os.write(2, f"{line}\n".encode())  # the descriptor did not survive the way here


@contextmanager
def step(recipe: str, name: str, log: Path) -> Iterator[None]:
    """Announce a step, and while it runs say now and then how far its log is."""
    began = time.monotonic()
    done = threading.Event()
    say(f"  {recipe:<20} {name}")

    def watch() -> None:
        while not done.wait(EVERY):
            say(f"  {recipe:<20} {name} … {_span(time.monotonic() - began)}  {_last_line(log)}")

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _span(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _last_line(log: Path) -> str:
    """The end of a log, as one short line."""
    with log.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - 8192))
        lines = file.read().decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return last if len(last) <= 70 else last[:69] + "…"
