# SPDX-License-Identifier: GPL-2.0-only
"""Starts of programs that may be warm, in a folder with places for checkpoints of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.host.conftest import DEADLINE, Host

ROOT = Path(__file__).parents[2]
REPORT = """
import json, os, random, sys, threading
def report():
    ours = [name for name in os.environ if "PYCRIU_S" in name and name != "PYCRIU_SNAPSHOTS"]
    print(json.dumps(dict(pid=os.getpid(), parent=os.getppid(), argv=sys.argv, x=os.environ.get("X"), cwd=os.getcwd(),
        terminal=sys.stdout.isatty(), random=random.random(), name=__name__, ours=ours)), flush=True)
"""
APP = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
import pycriu
with pycriu.warm_start():
    open("blocks", "a").write("x")
    import helper
{REPORT}
report()
"""
PLAIN = "import helper\n" + REPORT + "report()\n"


class Starts:
    """Starts a program in a folder, with places for checkpoints of its own."""

    def __init__(self, host: Host) -> None:
        self.folder, self.kept = host.folder, host.folder / "kept"
        self.write("helper.py", 'open(__file__ + ".ran", "a").write("x")')

    def write(self, name: str, code: str) -> None:
        (self.folder / name).write_text(textwrap.dedent(code))

    def environment(self, **more: str) -> dict[str, str]:
        return {**os.environ, "PYCRIU_SNAPSHOTS": str(self.kept), "PYTHONPATH": str(ROOT),
                "PYCRIU_SNAPSHOT_LOG": str(self.folder / "restores.log"), **more}  # fmt: skip

    def popen(self, *words: str, **options: object) -> subprocess.Popen[str]:
        options = {"cwd": self.folder, "env": self.environment(), "stdin": subprocess.DEVNULL, **options}
        return subprocess.Popen(
            [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
        )  # type: ignore[call-overload,no-any-return]

    def run(self, *words: str, status: int = 0, **options: object) -> str:
        process = self.popen(*words, **options)
        out, errors = process.communicate(timeout=DEADLINE)
        assert process.returncode == status, (process.returncode, out, errors)
        return str(out)

    def report(self, *words: str, **options: object) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.run(*words, **options))
        return found

    def runs(self) -> int:
        """How often the block, or what it imports, has run."""
        return len((self.folder / "helper.py.ran").read_text())

    def names(self) -> list[str]:
        return sorted(path.name for path in self.kept.iterdir()) if self.kept.exists() else []

    def why_not(self) -> str:
        """What is said of a checkpoint that could not be made, or used."""
        files = [*self.kept.glob("*.failed"), *self.kept.glob("*.stale"), self.folder / "restores.log"]
        return " ".join(path.read_text() for path in files if path.exists())


@pytest.fixture
def starts(host: Host) -> Starts:
    return Starts(host)


SNAPSHOT = ("-m", "pycriu", "snapshot", "run", "--")


def of(starts: Starts, how: str) -> tuple[str, ...]:
    """The words that start the same program in one of three ways."""
    starts.write("app.py", APP if how == "block" else PLAIN)
    return {
        "block": ("app.py",),
        "script": (*SNAPSHOT, sys.executable, "app.py"),
        "module": (*SNAPSHOT, sys.executable, "-m", "app"),
    }[how]
