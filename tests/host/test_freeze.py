# SPDX-License-Identifier: GPL-2.0-only
"""Processes that end, or are killed, while their tree is being stopped or stands: nobody waits for them in vain.

The first thread of a process that dies has nothing to tell its tracer before that has read how all others have ended.
"""

from __future__ import annotations

import os
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable

import pytest

from pycriu import arch
from pycriu.errors import PycriuError, TraceeGone
from pycriu.kernel import procfs
from pycriu.tracing.pstree import Freeze, Process, scan
from pycriu.tracing.tracee import Remote
from tests.host.conftest import DEADLINE, Host, alive, children, wait_until

SLEEPERS = """
import threading
for _ in range({}):
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
"""
# Between PTRACE_SEIZE of the first thread and PTRACE_INTERRUPT lie the seizures of all others.
SEIZED = """
own = os.open("/proc/self/status", os.O_RDONLY)
while b"TracerPid:\\t0\\n" in os.pread(own, 4096, 0):
    pass
"""


def apart(work: Callable[[], None]) -> None:
    """Do it in a child, which may hang: the test would hang with it."""
    child = os.fork()
    if not child:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    found = [0, 0]

    def ended() -> bool:
        found[:] = os.waitpid(child, os.WNOHANG)
        return bool(found[0])

    wait_until(ended, "the tracer hangs")
    assert not found[1]


def killed_in_its_sleep(pid: int) -> None:
    wait_until(lambda: procfs.stat(pid).state == "S", "it sleeps for us")
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("busy", [False, True], ids=["alone", "beside a zombie"])
def test_killed_while_it_works_for_us(host: Host, busy: bool) -> None:
    subject = host.python(SLEEPERS.format(3) + "ready()\ntime.sleep(600)")

    def work() -> None:
        if busy and not os.fork():
            os._exit(0)  # who forked it reads its status when it likes
        late = threading.Thread(target=killed_in_its_sleep, args=(subject.pid,))
        with pytest.raises(TraceeGone, match="killed by SIGKILL"), Freeze(subject.pid, arch.native(), 5) as tree:
            late.start()
            with Remote(tree.tasks[subject.pid]) as remote:
                remote.call("nanosleep", remote.data(struct.pack("qq", 60, 0)), 0)

    apart(work)


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGTERM)", "os._exit(0)"], ids=["killed", "exits"])
def test_ends_while_it_is_asked_to_stop(host: Host, end: str) -> None:
    subject = host.python(f"{SLEEPERS.format(100)}\nready()\n{SEIZED}\n{end}")

    def work() -> None:
        begin = time.monotonic()
        try:
            with Freeze(subject.pid, arch.native(), DEADLINE / 2):
                pass  # all stood before it came to that
        except PycriuError as error:
            assert "could not be stopped" not in str(error)
        assert time.monotonic() - begin < DEADLINE / 2

    apart(work)


def test_children_that_end_meanwhile_are_forgotten(host: Host) -> None:
    end = f"""
for _ in range(3):
    if not os.fork():
        say("child")
        {SEIZED.replace(chr(10), chr(10) + " " * 8)}
        os._exit(0)
{SLEEPERS.format(100)}
ready()
time.sleep(600)
"""
    subject = host.python(end)
    wait_until(lambda: subject.said().count("child") == 3, "three children")
    with Freeze(subject.pid, arch.native(), DEADLINE) as tree:
        assert {procfs.stat(tid).state for tid in tree.tasks} == {"t"}


def test_parents_hear_of_who_was_killed_as_long_as_the_tracer_lives(host: Host) -> None:
    subject = host.python(f"""
child = os.fork()
if not child:
    {SLEEPERS.format(3).replace(chr(10), chr(10) + " " * 4)}
    ready()
    time.sleep(600)
say("ended by", os.waitpid(child, 0)[1])
""")
    (child,) = children(subject.pid)
    with Freeze(subject.pid, arch.native(), DEADLINE):
        os.kill(child, signal.SIGKILL)
        wait_until(lambda: "Z" in procfs.text(child, "stat").rpartition(")")[2], "the end of the child")
    wait_until(lambda: "ended by 9" in subject.said(), "the parent to hear of it")
    assert not alive(child)


def test_who_goes_on_between_two_rounds_is_not_taken_for_stopped(host: Host) -> None:
    """A parent in vfork(2) does not stop as long as its child stands, so all are let go of, and asked once more."""
    subject = host.python("""
stopped = os.fork()
if not stopped:
    say("stopped", os.getpid())
    time.sleep(600)
number = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
if not os.fork():
    if not libc.syscall(number, 0x4000 | signal.SIGCHLD, 0, 0, 0, 0):  # CLONE_VFORK
        pause_for_dump()
        os._exit(0)
time.sleep(600)
""")
    (pid,) = (int(line.split()[1]) for line in subject.said() if line.startswith("stopped"))
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: procfs.stat(pid).state == "T", "the stop")
    rounds = []

    def find() -> Process:
        rounds.append(scan(subject.pid))
        if len(rounds) == 2:
            os.kill(pid, signal.SIGCONT)
            (host.folder / "go").touch()
            (child,) = children(*(one for one in children(subject.pid) if one != pid))
            wait_until(lambda: procfs.stat(pid).state == "S" and procfs.stat(child).state == "Z", "all go on")
        return scan(subject.pid)

    with Freeze(subject.pid, arch.native(), DEADLINE, find) as tree:
        assert len(rounds) > 2
        assert [process.stop_signal for process in tree.root.walk() if process.pid == pid] == [0]


def test_each_thread_reads_the_registers_of_its_own_tasks(host: Host) -> None:
    subjects = [host.python("ready()\ntime.sleep(600)"), host.python("ready()\ntime.sleep(600)")]
    wrong: list[int] = []

    def look(pid: int) -> None:
        with Freeze(pid, arch.native(), DEADLINE) as tree:
            right = tree.tasks[pid].registers()
            for _ in range(4000):
                if tree.tasks[pid].registers() != right:
                    wrong.append(pid)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=look, args=(subject.pid,)) for subject in subjects]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert not wrong
