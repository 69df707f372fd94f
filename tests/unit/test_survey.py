# SPDX-License-Identifier: GPL-2.0-only
"""What is refused of sessions and groups before anybody is stopped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pycriu import arch, errors
from pycriu.dumping.survey import check_sessions, survey
from pycriu.errors import UserError
from pycriu.fds.table import Kinds
from pycriu.kernel import procfs
from pycriu.log import Log
from pycriu.options import DumpOptions
from pycriu.tracing.home import Gadgets
from pycriu.tracing.pstree import Process

NOBODY = 1 << 22  # a PID that nothing has


def process(pid: int, group: int, session: int) -> Process:
    """One process of a tree, whose other properties are ours."""
    fields = procfs.text(os.getpid(), "stat").rpartition(") ")[2].split()
    fields[2:4] = [str(group), str(session)]
    fields[4] = "0"  # no terminal
    return Process(procfs.Stat(f"{pid} (it) {' '.join(fields)}"), None)


@pytest.mark.parametrize("session", [1, 0], ids=["seen", "in a PID namespace outside"])
def test_a_leader_outside_needs_the_option(session: int) -> None:
    root = process(NOBODY, session, session)
    with pytest.raises(UserError, match=r"session leader .*is outside the tree") as refusal:
        check_sessions(root, shell_job=False)
    assert "--shell-job" in refusal.value.hint
    check_sessions(root, shell_job=True)


def test_a_leader_that_is_gone_needs_none() -> None:
    check_sessions(process(NOBODY, NOBODY - 1, NOBODY - 1), shell_job=False)


RENAMES = """
import os, time
os.setsid()
file = open("one", "w")
print("ready", flush=True)
while True:
    os.rename("one", "two")
    os.rename("two", "one")
    time.sleep(0.0001)
"""


def test_a_file_that_is_renamed_just_then_is_not_taken_for_a_hidden_one(tmp_path: Path) -> None:
    cpu = arch.native()
    words = [sys.executable, "-IS", "-c", RENAMES]
    with subprocess.Popen(words, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            options = DumpOptions(child.pid, str(tmp_path), str(tmp_path))
            for _ in range(150):
                kinds = Kinds(options, Log(2, 2, 0.0))
                errors.at_once(lambda kinds=kinds: survey(options, Gadgets(cpu), kinds))  # type: ignore[misc]
        finally:
            child.kill()
