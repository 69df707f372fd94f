# SPDX-License-Identifier: GPL-2.0-only
"""Processes that a signal has stopped: whatever becomes of a dump, they stay stopped, and SIGCONT lets them go on."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.host.conftest import alive, reap, state, wait_until
from tests.host.test_killed_dumper import deaths

if TYPE_CHECKING:
    from tests.host.conftest import Host, Subject

PROGRAM = "import threading\nthreading.Thread(target=wait_for_go).start()\npause_for_dump()\nsay('ok')"


def stopped(host: Host, program: str = PROGRAM) -> Subject:
    subject = host.python(program)
    os.kill(subject.pid, signal.SIGSTOP)
    wait_until(lambda: state(subject.pid) == "T", "stopped")
    return subject


def goes_on(subject: Subject) -> None:
    assert state(subject.pid) == "T"
    os.kill(subject.pid, signal.SIGCONT)
    assert subject.go() == ["ok"]


def test_a_dump_that_leaves_it_leaves_it_stopped(host: Host) -> None:
    subject = stopped(host)
    assert host.dump(subject, "-R").ok
    wait_until(lambda: state(subject.pid) == "T", "stopped")
    assert host.dump(subject, "-s").ok
    wait_until(lambda: state(subject.pid) == "T", "stopped")
    goes_on(subject)


def test_a_dump_that_is_refused_leaves_it_stopped(host: Host) -> None:
    subject = stopped(host, "x = libc.syscall(323, 0x80001)\n" + PROGRAM)
    assert not host.dump(subject).ok
    wait_until(lambda: state(subject.pid) == "T", "stopped")
    goes_on(subject)


def test_the_root_comes_back_stopped(host: Host) -> None:
    subject = stopped(host)
    host.round_trip(subject)
    wait_until(lambda: state(subject.pid) == "T", "stopped")
    host.round_trip(subject)
    wait_until(lambda: state(subject.pid) == "T", "stopped")
    goes_on(subject)


def test_continued_and_stopped_while_it_is_dumped(host: Host) -> None:
    subject = host.python(PROGRAM)
    sender = os.fork()
    if not sender:
        try:
            while True:
                os.kill(subject.pid, signal.SIGSTOP)
                os.kill(subject.pid, signal.SIGCONT)
        finally:
            os._exit(0)
    try:
        for _ in range(10):
            outcome = host.dump(subject, "-R")
            assert outcome.ok, outcome
    finally:
        os.kill(sender, signal.SIGKILL)
        reap(sender)
    os.kill(subject.pid, signal.SIGCONT)
    assert subject.go() == ["ok"]


def test_a_dumper_that_is_killed_leaves_it_stopped(host: Host) -> None:
    subject = stopped(host)
    for number in deaths(subject, host.images):
        wait_until(lambda: subject.status("TracerPid") == "0", "still traced")
        wait_until(lambda: state(subject.pid) == "T", f"stopped after a kill before request {number}")
    goes_on(subject)


@pytest.mark.parametrize("signo", [signal.SIGTSTP, signal.SIGTTOU])
def test_another_signal_in_an_orphaned_group(host: Host, signo: signal.Signals) -> None:
    """The restored root has no parent in its session, so nothing but SIGSTOP can stop it again."""
    subject = stopped(host)
    assert host.dump(subject).ok
    reap(subject.pid)
    core = host.images / f"core-{subject.pid}.img"
    content = core.read_bytes()
    assert content.count(b"\xa8\x01\x13") == 1, "stop_signo, field 21, SIGSTOP"
    core.write_bytes(content.replace(b"\xa8\x01\x13", bytes([0xA8, 1, signo])))
    host.restore()
    wait_until(lambda: state(subject.pid) == "T", "stopped")
    goes_on(subject)


def test_an_image_with_a_signal_that_stops_nobody(host: Host) -> None:
    subject = stopped(host)
    assert host.dump(subject).ok
    reap(subject.pid)
    core = host.images / f"core-{subject.pid}.img"
    core.write_bytes(core.read_bytes().replace(b"\xa8\x01\x13", b"\xa8\x01\x09"))
    outcome = host.restore()
    assert not outcome.ok
    assert "stopped by signal 9" in outcome.errors()
    assert not alive(subject.pid)
