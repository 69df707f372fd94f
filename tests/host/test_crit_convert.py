# SPDX-License-Identifier: GPL-2.0-only
"""Converted checkpoints live: pycriu restores what came back from every version, CRIU 3.17 what was made for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import peer
from tests.host.conftest import Host, Subject, wait_until
from tests.host.test_peer import EXPECTED, STATE, criu, reaped, run  # noqa: F401 - a fixture

CRIT = [sys.executable, "-m", "pycriu.crit"]
VERSIONS = ["1.0", "1.1", "3", "4"]


def converted(host: Host, version: str, *words: str) -> None:
    """The images in the place of the host's, in another version."""
    number = len(list(host.folder.glob("before-*")))
    there = host.folder / f"there-{number}"
    command = [*CRIT, "convert", str(host.images), "-o", str(there), "--to", version]
    done = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done
    host.images.rename(host.folder / f"before-{number}")
    there.rename(host.images)


@pytest.mark.parametrize("version", VERSIONS)
def test_there_and_back(host: Host, version: str) -> None:
    subject = host.python(STATE)
    dumped = host.dump(subject)
    assert dumped.ok, dumped
    converted(host, version, "--lossy")
    converted(host, "4")
    checked = subprocess.run([*CRIT, "check", str(host.images)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked
    restored = host.restore()
    assert restored.ok, restored
    assert subject.go() == EXPECTED


def dumped_by(command: tuple[str, ...], host: Host) -> Subject:
    """A subject that CRIU has dumped."""
    subject = host.python(STATE)
    dumped = run(command, host, "dump", "-t", str(subject.pid))
    assert dumped.ok, dumped
    wait_until(lambda: not reaped(subject.pid), "all of the session is gone")
    return subject


@pytest.mark.parametrize("version", VERSIONS)
def test_what_criu_has_dumped_there_and_back(host: Host, criu: tuple[str, ...], version: str) -> None:  # noqa: F811
    subject = dumped_by(criu, host)
    converted(host, version, "--lossy")
    converted(host, "4")
    restored = host.restore()
    assert restored.ok, restored
    assert subject.go() == EXPECTED


@pytest.fixture(scope="module")
def criu_3() -> tuple[str, ...]:
    """CRIU 3.17, if it was fetched and works here."""
    try:
        return peer.working(peer.of_suite(peer.OLD)).command
    except peer.NoPeerError as error:
        pytest.skip(str(error))


def test_criu_3_restores_what_pycriu_has_dumped(host: Host, criu_3: tuple[str, ...]) -> None:
    subject = host.python(STATE)
    dumped = host.dump(subject)
    assert dumped.ok, dumped
    converted(host, "3", "--lossy")
    restored = run(criu_3, host, "restore", "-d")
    assert restored.ok, restored
    assert subject.go() == EXPECTED


def test_pycriu_restores_what_criu_3_has_dumped(host: Host, criu_3: tuple[str, ...]) -> None:
    subject = dumped_by(criu_3, host)
    converted(host, "4")
    restored = host.restore()
    assert restored.ok, restored
    assert subject.go() == EXPECTED


def test_an_old_version_is_what_it_says(host: Host) -> None:
    subject = host.python(STATE)
    assert host.dump(subject).ok
    converted(host, "1.0", "--lossy")
    assert (host.images / "reg-files.img").exists() and not (host.images / "files.img").exists()
    assert Path(host.images / "pstree.img").read_bytes()[:4] == (0x50273030).to_bytes(4, "little")
