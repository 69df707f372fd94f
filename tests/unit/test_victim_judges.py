# SPDX-License-Identifier: GPL-2.0-only
"""The judges are judged: every victim passes when nothing happens to it, and fails when its state is damaged."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

VICTIMS = Path(__file__).resolve().parent.parent / "victims"
NAMES = sorted(file.stem for file in VICTIMS.glob("*.py") if file.stem != "victim")
NEEDS_ROOT = {"credentials"}
LIMIT = 60.0


@pytest.mark.parametrize("spoilt", [False, True], ids=["left-alone", "spoilt"])
@pytest.mark.parametrize("name", NAMES)
def test_verdict(name: str, spoilt: bool, tmp_path: Path) -> None:
    if name in NEEDS_ROOT and os.geteuid() != 0:
        pytest.skip("it gives up root, so it has to be root")
    with (tmp_path / "log").open("wb") as log:
        words = [sys.executable, "-B", str(VICTIMS / f"{name}.py")]
        process = subprocess.Popen(
            words, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    end = time.monotonic() + LIMIT
    while "READY" not in (tmp_path / "log").read_text() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    if spoilt:
        (tmp_path / "spoil").touch()
    (tmp_path / "go").touch()
    status = process.wait(LIMIT)
    said = (tmp_path / "log").read_text().splitlines()
    assert said[0] == "READY"
    assert (status, said[-1].partition(" ")[0]) == ((1, "FAIL") if spoilt else (0, "PASS")), said
