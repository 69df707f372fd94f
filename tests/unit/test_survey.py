# SPDX-License-Identifier: GPL-2.0-only
"""What is refused of sessions and groups before anybody is stopped."""

from __future__ import annotations

import os

import pytest

from pycriu.dumping.survey import check_sessions
from pycriu.errors import UserError
from pycriu.kernel import procfs
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
