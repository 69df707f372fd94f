# SPDX-License-Identifier: GPL-2.0-only
"""docs/python.md: every block of Python in it does what is said of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.host.conftest import DEADLINE, Host, Subject, alive, reap, wait_until

ROOT = Path(__file__).parents[2]
BLOCKS = {
    block.split("\n", 1)[0].removeprefix("# "): block
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text(), re.DOTALL)
}


class Guide:
    """Runs the programs of the guide in a folder."""

    def __init__(self, host: Host) -> None:
        self.host, self.folder = host, host.folder
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYCRIU_SNAPSHOTS": str(host.folder / "kept")}
        for name, block in BLOCKS.items():
            (host.folder / name).write_text(block)

    def run(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, *words], cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, check=True,
            capture_output=True, text=True, timeout=DEADLINE,
        )  # fmt: skip
        return done.stdout

    def start(self, name: str) -> Subject:
        """In a session of its own, with output in the file out; it is there when it has registered hooks."""
        with open(self.folder / "out", "wb") as out:
            process = subprocess.Popen(
                [sys.executable, name], cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=out,
                stderr=out, start_new_session=True,
            )  # fmt: skip
        subject = Subject(process, self.folder)
        self.host.pids.add(subject.pid)
        return subject

    def said(self, name: str = "out") -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def stop(self, subject: Subject) -> None:
        (self.folder / "stop").touch()
        wait_until(lambda: not alive(subject.pid), "it ends")
        reap(subject.pid)


@pytest.fixture
def guide(host: Host) -> Guide:
    return Guide(host)


def listening(subject: Subject) -> bool:
    """It has registered hooks, and its log is open or it sleeps."""
    return "pycriu-hooks" in subject.proc("maps") and subject.status("State").startswith("S")


def test_there_are_no_others() -> None:
    tested = Path(__file__).read_text()
    assert [name for name in BLOCKS if f'"{name}"' not in tested] == []


def test_server(guide: Guide) -> None:
    subject = guide.start("server.py")
    wait_until(lambda: listening(subject), "it listens")
    (guide.folder / "transaction").touch()
    refused = guide.host.dump(subject)
    assert refused.status == 75, refused
    assert "close_peers: a transaction is open" in refused.log
    wait_until(lambda: guide.said("server.log"), "it knows")
    (guide.folder / "transaction").unlink()
    assert guide.host.dump(subject, "-R").ok
    wait_until(lambda: len(guide.said("server.log")) > 1, "it knows")
    guide.host.round_trip(subject)
    log = guide.said("server.log")
    assert log[:2] == ["failed", "continued"]
    assert re.fullmatch(r"restored after \d+ s; changed: nothing", log[2])
    guide.stop(subject)


def test_transfer(guide: Guide) -> None:
    assert guide.run("transfer.py") == "{'a': 70, 'b': 30}\n"


def test_service(guide: Guide) -> None:
    subject = guide.start("service.py")
    wait_until(lambda: listening(subject), "it listens")
    guide.host.round_trip(subject)
    guide.stop(subject)
    assert guide.said() == []


def test_steps(guide: Guide) -> None:
    subject = guide.start("steps.py")
    wait_until(lambda: not alive(subject.pid), "it ends")
    reap(subject.pid)
    assert guide.said() == ["step 0", "saved", "step 1", "step 2"]
    (guide.folder / "out").write_text("step 0\n")
    images = guide.folder / "checkpoint"
    restored = guide.host.restore("--shell-job", "--file-validation", "filesize", images=images)
    assert restored.ok, restored
    wait_until(lambda: not alive(subject.pid), "it ends")
    reap(subject.pid)
    assert guide.said() == ["step 0", "again", "step 1", "step 2"]


def test_simulation(guide: Guide) -> None:
    assert guide.run("test_server.py") == ""


def test_warm_start(guide: Guide) -> None:
    for words in (["one"], ["two", "three"]):
        assert guide.run("app.py", *words).strip() == str(words).replace("'", '"')
    assert [path for path in (guide.folder / "kept").iterdir() if path.is_dir()]
