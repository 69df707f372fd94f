# SPDX-License-Identifier: GPL-2.0-only
"""The whole of it, in order. What cannot be looked at is a finding, too."""

from __future__ import annotations

import os
import time

from pycriu.doctor import BAD, Finding, machine, person, trial
from pycriu.errors import PycriuError
from pycriu.kernel import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PR_SET_CHILD_SUBREAPER = 36
PARTS: tuple[tuple[str, Callable[[], list[Finding]]], ...] = (
    ("user", person.findings),
    ("kernel", machine.findings),
    ("trial", trial.findings),
)
_SECONDS = 2.0  # for children of children that have been killed


def findings() -> list[Finding]:
    """All findings; of the processes that it takes none is left."""
    for path in ("/proc/self/status", "/proc/uptime"):  # the latter is not there with subset=pid
        if not os.path.exists(path):
            return [Finding("/proc", BAD, f"{path} is not there", ("mount -t proc proc /proc, with no subset= of it",))]
    libc.call("prctl", PR_SET_CHILD_SUBREAPER, 1)  # so that whoever loses a parent comes to us
    try:
        return [one for name, look in PARTS for one in _attempted(name, look)]
    finally:
        _reap()


def _attempted(name: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    try:
        return look()
    except (OSError, PycriuError) as error:
        return [Finding(name, BAD, f"cannot be looked at: {error}")]


def _reap() -> None:
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end:
        try:
            if not os.waitpid(-1, os.WNOHANG)[0]:
                time.sleep(0.01)
        except ChildProcessError:
            return
