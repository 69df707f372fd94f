# SPDX-License-Identifier: GPL-2.0-only
"""What programs with hooks refuse, what a dump refuses after them, and how long it waits for them."""

from __future__ import annotations

import os
import signal
import socket
import time

import pytest

from pycriu import api
from pycriu.errors import PycriuError
from tests.host.conftest import Host, Outcome, Subject, below, state, untouched, wait_until
from tests.host.hooked import COUNTING, ORDER, since_ready, start, wait_said


def refused(host: Host, subject: Subject, status: int, *words: str, options: tuple[str, ...] = ()) -> Outcome:
    before = {pid: untouched(pid) for pid in (subject.pid, *below(subject.pid))}
    outcome = host.dump(subject, *options)
    assert outcome.status == status, outcome
    for word in words:
        assert word in outcome.log, outcome
    assert {pid: untouched(pid) for pid in before} == before
    assert not list(host.images.iterdir())
    return outcome


def test_a_hook_refuses(host: Host) -> None:
    """All others are called all the same, and told that it is off; each error is in the message."""
    code = """
@pycriu.before_checkpoint
def never():
    raise ValueError("3 transactions are open")
@pycriu.before_checkpoint
def later():
    raise pycriu.NotNow("busy")
hook("before_checkpoint", "willing")
hook("after_checkpoint", "willing")
"""
    subject = start(host, code + COUNTING)
    refused(
        host, subject, 77, f"process {subject.pid}", "refuses to be saved",
        "later: busy; never: ValueError: 3 transactions are open",
    )  # fmt: skip
    assert since_ready(subject) == ["willing", "willing failed"]
    assert subject.go()[-1] == "end True"


def test_not_now_and_then_yes(host: Host) -> None:
    code = """
@pycriu.before_checkpoint
def later():
    if not os.path.exists("calm"):
        raise pycriu.NotNow("busy")
"""
    subject = start(host, code + COUNTING)
    refused(host, subject, 75, "asks to come again later: later: busy")
    (host.folder / "calm").touch()
    host.round_trip(subject)
    assert subject.go() == ["end True"]


def test_one_of_two_refuses(host: Host) -> None:
    code = """
hook("before_checkpoint", "willing")
hook("after_checkpoint", "willing")
if not (child := os.fork()):
    @pycriu.before_checkpoint
    def no():
        raise RuntimeError("no")
    open("child", "w").close()
    wait_for_go()
    os._exit(0)
while not os.path.exists("child"):
    time.sleep(0.01)
ready()
wait_for_go()
os.waitpid(child, 0)
say(pycriu.moment().why)
"""
    subject = start(host, code)
    child = below(subject.pid)[0]
    refused(host, subject, 77, f"process {child}")
    wait_until(lambda: since_ready(subject).count("willing failed") == 2, "both know that it is off")
    (said,) = subject.go()[-1:]
    assert f"process {child}" in said
    assert "RuntimeError: no" in said


def test_a_dump_that_fails_for_other_reasons_is_told(host: Host) -> None:
    """What hooks put away is not refused any more; what stays is, after they have been called."""
    code = """
from fcntl import flock, LOCK_EX, LOCK_UN
file = open("lock", "w")
flock(file, LOCK_EX)
@pycriu.before_checkpoint
def unlock():
    if os.path.exists("unlock"):
        flock(file, LOCK_UN)
hook("after_checkpoint", "after")
"""
    subject = start(host, code + COUNTING)
    refused(host, subject, 1, "--file-locks")
    wait_said(subject, "after failed")
    (host.folder / "unlock").touch()
    host.round_trip(subject)
    assert subject.go() == ["after failed", "end True"]


def test_a_connection_that_a_hook_closes(host: Host) -> None:
    code = """
import socket
peer = socket.create_connection(("127.0.0.1", int(open("port").read())))
@pycriu.before_checkpoint
def close():
    peer.close()
"""
    with socket.create_server(("127.0.0.1", 0)) as server:
        (host.folder / "port").write_text(str(server.getsockname()[1]))
        subject = start(host, code + COUNTING)
        peer, _ = server.accept()
        with peer:
            refused(host, subject, 1, "--tcp-established", options=("--hooks=skip",))
            host.round_trip(subject)
            assert peer.recv(1) == b""
    assert subject.go() == ["end True"]


LATE = """
@pycriu.before_checkpoint
def slow():
    while not os.path.exists("on"):
        time.sleep(0.01)
hook("after_checkpoint", "after")
hook("after_restore", "after")
"""


def test_it_has_only_so_much_time(host: Host) -> None:
    subject = start(host, LATE + COUNTING)
    refused(
        host, subject, 75, f"process {subject.pid}", "has not answered within 1 s", "its hook slow is not done",
        "--hooks=try", options=("--hook-timeout", "1"),
    )  # fmt: skip
    (host.folder / "on").touch()
    wait_said(subject, "after failed")
    assert subject.go()[-1] == "end True"


def test_a_hook_with_a_limit_of_its_own(host: Host) -> None:
    code = """
@pycriu.before_checkpoint(timeout=0.1)
def slow():
    time.sleep(0.3)
"""
    subject = start(host, code + COUNTING)
    refused(host, subject, 77, "slow: took 0.3 s, 0.1 s are allowed")
    assert subject.go() == ["end True"]


@pytest.mark.parametrize(("how", "said"), [("try", ["after restored"]), ("skip", ["after restored"])])
def test_whoever_does_not_answer_is_dumped_all_the_same(host: Host, how: str, said: list[str]) -> None:
    """With try, in the middle of its hook; with skip nobody has asked it, and the restore tells it nevertheless."""
    subject = start(host, LATE + COUNTING)
    dumped = host.dump(subject, f"--hooks={how}", "--hook-timeout", "1")
    assert dumped.ok, dumped
    assert ("is not waited for" in dumped.log) == (how == "try")
    (host.folder / "on").touch()
    restored = host.restore()
    assert restored.ok, restored
    assert since_ready(subject) == said
    assert subject.go()[-1] == "end True"


def test_one_that_has_lost_its_handler(host: Host) -> None:
    subject = start(host, 'hook("before_checkpoint", "a"); signal.signal(signal.SIGURG, signal.SIG_DFL)\n' + COUNTING)
    refused(host, subject, 77, "no longer handles signal 23")
    assert subject.go() == ["end True"]


def test_one_of_two_has_lost_its_handler(host: Host) -> None:
    """Then nobody is asked, nor later, by a signal of somebody else's, while whoever wanted the dump lives on."""
    code = """
hook("before_checkpoint", "before")
if not (child := os.fork()):
    signal.signal(signal.SIGURG, signal.SIG_DFL)
    open("child", "w").close()
    wait_for_go()
    os._exit(0)
while not os.path.exists("child"):
    time.sleep(0.01)
"""
    subject = start(host, code + COUNTING)
    with pytest.raises(PycriuError, match="no longer handles signal 23"):
        api.dump(subject.pid, str(host.images))
    os.kill(subject.pid, signal.SIGURG)
    time.sleep(0.2)
    assert subject.go() == ["end True"]


def test_one_that_is_stopped(host: Host) -> None:
    subject = start(host, ORDER + COUNTING)
    os.kill(subject.pid, signal.SIGSTOP)
    wait_until(lambda: state(subject.pid) == "T", "it is stopped")
    outcome = host.dump(subject, "--hook-timeout", "1")
    assert outcome.status == 75, outcome
    assert "has not answered within 1 s: it is stopped" in outcome.log
    os.kill(subject.pid, signal.SIGCONT)
    assert subject.go()[-1] == "end True"
