# SPDX-License-Identifier: GPL-2.0-only
# ruff: noqa: E501 - the tables of small programs read better one to a line
"""Processes caught inside a system call: after the restore, and after a dump that leaves them, it goes on as if nothing
had happened."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.host.conftest import state, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.host.conftest import Host

USR1 = 10
# call: (result, errno, caught signal); ends by itself
CALLS = {
    "read": (1, 0, 0), "write": (4096, 0, 0), "poll": (1, 0, 0), "poll_timeout": (1, 0, 0), "ppoll": (1, 0, 0),
    "select": (1, 0, 0), "select_timeout": (1, 0, 0), "wait4": (5, 0, 0), "waitid": (5, 0, 0),
    "futex": (-1, 4, USR1), "futex_long": (-1, 4, USR1), "pause": (-1, 4, USR1), "sigsuspend": (-1, 4, USR1),  "nanosleep_long": (-1, 4, USR1),
    "clock_long": (-4, 4, USR1), "sigtimedwait": (USR1, 0, 0),
}  # fmt: skip
BY_ITSELF = {
    "nanosleep": (0, 0, 0), "clock_absolute": (0, 0, 0), "poll_short": (0, 0, 0), "futex_short": (-1, 110, 0),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "running"),
    [(name, False) for name in (*CALLS, *BY_ITSELF)]
    + [(name, True) for name in ("read", "poll_timeout", "sigsuspend", "futex_short", "wait4", "nanosleep_long")],
)
def test_call_goes_on(host: Host, compiled: Callable[[str], str], name: str, running: bool) -> None:
    subject = host.start(compiled("interrupted"), name)
    wait_until(lambda: state(subject.pid) == "S", "inside its call")
    for _ in range(2):  # the second time the call may be a restarted one
        if running:
            dumped = host.dump(subject, "-R")
            assert dumped.ok, dumped
        else:
            host.round_trip(subject)
        if name in BY_ITSELF:
            break
        assert subject.said() == ["ready"], "the call came back"
    if name in BY_ITSELF:
        subject.wait_for("returned")
    (said,) = subject.go()
    result, errno, caught = (CALLS | BY_ITSELF)[name]
    assert said.startswith(f"returned {result} errno {errno} after ")
    assert said.endswith(f" caught {caught}")
    assert name in CALLS or " enough " in said, said


@pytest.mark.parametrize("name", ["nanosleep", "poll_short", "futex_short"])
def test_call_that_was_interrupted_before(host: Host, compiled: Callable[[str], str], name: str) -> None:
    """The kernel lets it go on as restart_syscall(2), which knows nothing in a new process."""
    subject = host.start(compiled("interrupted"), name)
    wait_until(lambda: state(subject.pid) == "S", "inside its call")
    dumped = host.dump(subject, "-R")
    assert dumped.ok, dumped
    wait_until(lambda: state(subject.pid) == "S", "inside its call again")
    host.round_trip(subject)
    subject.wait_for("returned")
    (said,) = subject.go()
    result, errno, caught = BY_ITSELF[name]
    assert said == f"returned {result} errno {errno} after enough caught {caught}"


def test_call_with_a_limit_is_interrupted_as_by_any_stop(host: Host, compiled: Callable[[str], str]) -> None:
    """The kernel itself ends this call with EINTR when a process is stopped, and alone knows its rest: see signal(7)."""
    subject = host.start(compiled("interrupted"), "sigtimedwait_long")
    wait_until(lambda: state(subject.pid) == "S", "inside its call")
    host.round_trip(subject)
    assert subject.go()[0].startswith("returned -1 errno 4 after ")
