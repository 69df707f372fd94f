# SPDX-License-Identifier: GPL-2.0-only
"""A PID that somebody else has at the restore: who that is, and the ways out of it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pycriu import api
from pycriu.errors import KernelError, PidTaken, UserError
from pycriu.images import messages as m
from pycriu.kernel import libc
from pycriu.kernel.procfs import parse_status, text
from pycriu.restoring import holders, newlife, spawn
from tests.host.conftest import DEADLINE, Host, Subject, alive, below, reap, state, wait_until

CAP_SYS_RESOURCE = 24
HOLD = "pause_for_dump()\nsay('ok')"
# The child has lost its parent, and stays in the session and group that the root leads.
LEFT_BEHIND = """
if os.fork() == 0:
    if os.fork() == 0:
        while not os.path.exists('leave'):
            time.sleep(0.01)
    os._exit(0)
os.wait()
pause_for_dump()
say('ok')
"""


def begin_restore(host: Host, *words: str) -> subprocess.Popen[str]:
    """A restore that has to wait, and says so."""
    log = host.folder / "restore.log"
    process = subprocess.Popen(
        host.command("restore", "-d", "-v4", "-o", str(log), "-D", str(host.images), *words),
        cwd=host.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    wait_until(lambda: (log.exists() and ": waiting" in log.read_text()) or process.poll() is not None, "it waits")
    assert process.poll() is None, log.read_text()
    return process


def end(subject: Subject) -> None:
    os.kill(subject.pid, signal.SIGKILL)
    reap(subject.pid)


def test_the_ways_out_are_named(host: Host) -> None:
    subject = host.python(HOLD)
    assert host.dump(subject, "-R").ok
    outcome = host.restore()
    assert not outcome.ok
    assert f"PID {subject.pid} is in use by python" in outcome.errors()
    assert f"kill {subject.pid}" in outcome.errors()
    assert "--wait-pid SECONDS" in outcome.errors()
    assert subject.go() == ["ok"]


def test_a_restore_waits_until_the_pid_is_free(host: Host) -> None:
    subject = host.python(HOLD)
    assert host.dump(subject, "-R").ok
    restore = begin_restore(host, "--wait-pid", "60")
    end(subject)
    assert restore.wait(DEADLINE) == 0, (host.folder / "restore.log").read_text()
    assert subject.go() == ["ok"]


def test_a_zombie_is_waited_for(host: Host) -> None:
    subject = host.python(HOLD)
    assert host.dump(subject, "-R").ok
    os.kill(subject.pid, signal.SIGKILL)
    wait_until(lambda: state(subject.pid) == "Z", "it has ended, and nobody has asked how")
    restore = begin_restore(host, "--wait-pid", "60")
    reap(subject.pid)
    assert restore.wait(DEADLINE) == 0, (host.folder / "restore.log").read_text()
    assert subject.go() == ["ok"]


def test_waiting_has_a_limit(host: Host) -> None:
    subject = host.python(HOLD)
    assert host.dump(subject, "-R").ok
    outcome = host.restore("--wait-pid", "1")
    assert not outcome.ok
    assert "after 1 s of waiting" in outcome.errors()
    assert alive(subject.pid)
    assert subject.go() == ["ok"]


def test_what_else_stands_in_the_way_is_said_before_the_waiting(host: Host) -> None:
    subject = host.python(
        "low = 1 << 20\nresource.setrlimit(resource.RLIMIT_MEMLOCK, (low, low))\npause_for_dump()\nsay('ok')"
    )
    assert host.dump(subject, "-R").ok
    begun = time.monotonic()
    if int(parse_status(text("self", "status"))["CapEff"], 16) >> CAP_SYS_RESOURCE & 1:
        pytest.skip("who has CAP_SYS_RESOURCE can raise every limit")
    outcome = host.restore("--wait-pid", "600", "--edit", "limits:memlock:%=unlimited")
    assert not outcome.ok
    assert "memlock" in outcome.errors().lower()
    assert time.monotonic() - begun < 60
    assert subject.go() == ["ok"]


def test_a_group_that_has_outlived_its_leader_holds_the_number(host: Host) -> None:
    subject = host.python(LEFT_BEHIND)
    (member,) = [pid for pid in below(os.getpid()) if pid != subject.pid and os.getpgid(pid) == subject.pid]
    assert host.dump(subject).ok
    outcome = host.restore()
    assert not outcome.ok
    assert f"PID {subject.pid} is the number of a process group in which process {member} (" in outcome.errors()
    restore = begin_restore(host, "--wait-pid", "60")
    (host.folder / "leave").touch()
    reap(member)
    assert restore.wait(DEADLINE) == 0, (host.folder / "restore.log").read_text()
    assert subject.go() == ["ok"]


def test_the_process_of_a_thread_is_named() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert thread.native_id is not None
        error = holders.taken(thread.native_id)
    finally:
        done.set()
        thread.join()
    assert f"is the id of a thread of another process, {os.getpid()} (" in error.message
    assert f"kill {os.getpid()}" in str(error.hint)


@pytest.mark.parametrize("seconds", ["soon", "0", "-1", "0.5", "inf", "", " 1", "1e3"])
def test_seconds_are_a_number(host: Host, seconds: str) -> None:
    outcome = host.restore("--wait-pid", seconds)
    assert not outcome.ok
    assert f"--wait-pid {seconds}: not a positive number" in outcome.errors()


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), 10**400])
def test_seconds_from_python(tmp_path: Path, seconds: float) -> None:
    with pytest.raises(UserError) as caught:
        api.restore(tmp_path, wait_pid=seconds)
    assert "not a number of seconds" in caught.value.message


def test_the_holder_changes(host: Host) -> None:
    """It runs, then it is a zombie; the log has each once."""
    subject = host.python(HOLD)
    assert host.dump(subject, "-R").ok
    restore = begin_restore(host, "--wait-pid", "60")
    log = host.folder / "restore.log"
    os.kill(subject.pid, signal.SIGKILL)
    wait_until(lambda: "still held by a zombie" in log.read_text(), "it is a zombie")
    time.sleep(0.3)
    reap(subject.pid)
    assert restore.wait(DEADLINE) == 0, log.read_text()
    told = [line.count("is in use by") + 2 * line.count("held by a zombie") for line in waiting_lines(log)]
    assert [who for who in told if who] == [1, 2], log.read_text()  # or it was in use a moment ago
    assert subject.go() == ["ok"]


def waiting_lines(log: Path) -> list[str]:
    return [line for line in log.read_text().splitlines() if line.endswith(": waiting")]


def test_a_session_that_has_outlived_its_leader(host: Host) -> None:
    """Its only member has a group of its own: nobody has the number but the session."""
    code = "os.setsid()\nif os.fork() == 0:\n    os.setpgid(0, 0)\n    time.sleep(60)\nos._exit(0)"
    leader = subprocess.Popen([sys.executable, "-c", f"import os, time\n{code}"], stdin=subprocess.DEVNULL)
    leader.wait()
    wait_until(lambda: os.getpgid(below(os.getpid())[0]) == below(os.getpid())[0], "it has a group of its own")
    (member,) = below(os.getpid())
    (error,) = holders.by_members([leader.pid])
    assert f"PID {leader.pid} is the number of a session in which process {member} (" in error.message
    with pytest.raises(KernelError) as caught:
        libc.clone3_set_tid(leader.pid, flags=0, exit_signal=signal.SIGCHLD)
    assert caught.value.errno == errno.EEXIST


def test_a_leader_that_ends_while_it_is_asked_for() -> None:
    """Between two looks at a PID whoever has it may end: then there is no such session, and nobody to name."""
    leader = newlife.free_ids(1)[0]
    comes_and_goes = os.fork()
    if not comes_and_goes:
        while True:
            if not libc.clone3_set_tid(leader, flags=0, exit_signal=signal.SIGCHLD):
                os._exit(0)
            os.waitpid(leader, 0)
    root = spawn.Member(m.pstree_entry(pid=leader + 1, ppid=0, pgid=leader, sid=leader, threads=[leader + 1]), None)
    met = 0
    end = time.monotonic() + 0.7
    try:
        while time.monotonic() < end:
            try:
                spawn.plan(root, shell_job=False)
            except PidTaken:
                met += 1
    finally:
        os.kill(comes_and_goes, signal.SIGKILL)
        os.waitpid(comes_and_goes, 0)
    assert met


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_waiting(host: Host, number: signal.Signals) -> None:
    subject = host.python(HOLD)
    assert host.dump(subject, "-R").ok
    restore = begin_restore(host, "--wait-pid", "60", "--pidfile", "root")
    restore.send_signal(number)
    assert restore.wait(DEADLINE) == 1
    assert (
        f"interrupted by signal {int(number)}; what was begun has been undone"
        in (host.folder / "restore.log").read_text()
    )
    assert not (host.images / "root").exists()
    assert subject.go() == ["ok"]
