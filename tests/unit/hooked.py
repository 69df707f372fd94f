# SPDX-License-Identifier: GPL-2.0-only
"""Programs with hooks, without a checkpoint: a fresh Python runs them, and says what there is to see."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def told(code: str) -> list[str]:
    """The lines that a fresh Python prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
