# SPDX-License-Identifier: GPL-2.0-only
"""The victims of tests/victims on this machine: once, twice in a row, left running, and with a failed dump between.

Each victim judges itself, and with `spoil` must find the damage: a judge that cannot say no is worth nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests import manifest
from tests.host.conftest import Subject, alive, reap, wait_until

if TYPE_CHECKING:
    from tests.host.conftest import Host

VICTIMS = {entry.name: entry for entry in manifest.entries()}


def start(host: Host, name: str) -> Subject:
    """By the protocol of tests/victims/README.md."""
    with open(host.folder / "log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-u", str(manifest.FOLDER / f"{name}.py")], cwd=host.folder, stdin=subprocess.DEVNULL,
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    subject = Subject(process, host.folder)
    host.pids.add(subject.pid)
    (host.folder / "out").symlink_to("log")
    wait_until(lambda: "READY" in subject.said() or not alive(subject.pid), f"READY: {subject.said()}")
    skipped = [line for line in subject.said() if line.startswith("SKIP ")]
    if skipped:
        reap(subject.pid)
        pytest.skip(f"{name}: {skipped[0][5:]}")
    assert "READY" in subject.said(), subject.said()
    return subject


def judge(subject: Subject) -> str:
    """Its last word."""
    (subject.folder / "go").touch()
    wait_until(lambda: not alive(subject.pid), f"a verdict: {subject.said()[-3:]}", 75)
    reap(subject.pid)
    return subject.said()[-1]


@pytest.mark.parametrize("name", VICTIMS)
def test_victim_comes_back_twice(host: Host, name: str) -> None:
    subject = start(host, name)
    host.round_trip(subject, *VICTIMS[name].options)
    host.round_trip(subject, *VICTIMS[name].options)
    assert judge(subject) == "PASS"


@pytest.mark.parametrize("name", VICTIMS)
def test_victim_does_not_notice_dumps_that_leave_it_or_fail(host: Host, name: str) -> None:
    subject = start(host, name)
    options = VICTIMS[name].options
    left = host.dump(subject, "-R", *options)
    assert left.ok, left
    images = host.folder / "read-only"
    images.write_text("not a directory")
    assert not host.dump(subject, *options, images=images).ok
    left = host.dump(subject, "-R", *options)
    assert left.ok, left
    assert judge(subject) == "PASS"


@pytest.mark.parametrize("name", VICTIMS)
def test_victim_notices_damage(host: Host, name: str) -> None:
    subject = start(host, name)
    (host.folder / "spoil").touch()
    assert judge(subject).startswith("FAIL ")
    assert os.path.exists(host.folder / "go")
