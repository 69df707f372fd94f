# SPDX-License-Identifier: GPL-2.0-only
"""Trees whose session has lost its leader, at the root: a daemon comes back as one."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.host.conftest import alive, children, reap, state, wait_until

if TYPE_CHECKING:
    from tests.host.conftest import Host, Subject

DAEMON = """
first = os.getpid()
if child := os.fork():
    open("pid", "w").write(str(child))
    ready()
    os._exit(0)
before = os.getsid(0), os.getpgid(0)
wait_for_go()
say("ids", (os.getsid(0), os.getpgid(0)) == before == (first, first))
"""


def daemon(host: Host) -> Subject:
    """A process whose session leader has ended; it is our child by now."""
    subject = host.python(DAEMON)
    leader, subject.pid = subject.pid, int((host.folder / "pid").read_text())
    reap(leader)
    assert not alive(leader)
    return subject


def test_daemon(host: Host) -> None:
    subject = daemon(host)
    session = os.getsid(subject.pid)
    assert session != subject.pid
    host.round_trip(subject)
    host.round_trip(subject)
    assert os.getsid(subject.pid) == session
    assert state(session) is None, "the helper is left"
    assert subject.pid in children(os.getpid())
    assert subject.go() == ["ids True"]


def test_daemon_as_a_job_of_a_shell(host: Host) -> None:
    """With --shell-job it stays in our session."""
    subject = daemon(host)
    host.round_trip(subject, "-j")
    assert os.getsid(subject.pid) == os.getsid(0)
    assert subject.go() == ["ids False"]


@pytest.mark.prolific  # it takes PIDs back that are beside it
def test_the_leaders_pid_is_taken(host: Host) -> None:
    subject = daemon(host)
    session = os.getsid(subject.pid)
    assert host.dump(subject).ok
    last = Path("/proc/sys/kernel/ns_last_pid")
    other = 0
    while other != session:  # somebody else may be faster, for a moment
        reap(other) if other else None
        last.write_text(str(session - 1))
        other = os.fork()
        if not other:
            time.sleep(60 if os.getpid() == session else 0)
            os._exit(0)
    most = int(Path("/proc/sys/kernel/pid_max").read_text())
    last.write_text(str(min(session + 500, most - 1)))  # the PIDs that follow are those of the tree
    outcome = host.restore()
    assert not outcome.ok
    assert f"PID {session} is in use by" in outcome.errors()
    assert "--shell-job" in outcome.log
    wait_until(lambda: state(subject.pid) is None, "nothing is left")
    os.kill(other, 9)
    reap(other)
    assert host.restore().ok
    assert subject.go() == ["ids True"]
