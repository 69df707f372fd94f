# SPDX-License-Identifier: GPL-2.0-only
"""The scenarios of tests/programs on this host, as the guests have them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import packed
from tests.host.conftest import DEADLINE, Host
from tests.host.programs import frozen, need

# The program of Go is tried in test_threads.py, with those of other languages.
SCENARIOS = [name for name, programs in packed.SCENARIOS.items() if not set(programs) & set(packed.BUILT)]
TESTS = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("name", SCENARIOS)
def test_program(host: Host, name: str, record_property: Callable[[str, object], None]) -> None:
    for program in packed.SCENARIOS[name]:
        need(program)
    folders = [str(TESTS.parent), str(TESTS / "programs"), str(TESTS / "victims")]
    done = subprocess.run(
        [sys.executable, "-B", str(TESTS / "programs" / f"{name}.py")], cwd=host.folder, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(folders), "PYCRIU": f"{sys.executable} -m pycriu"},
        stdin=subprocess.DEVNULL, capture_output=True, timeout=9 * DEADLINE, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1:] == ["PASS"], done.stdout + done.stderr
    for images in sorted(host.folder.glob("images-*")):
        record_property("pause of pycriu, us", frozen(images))
