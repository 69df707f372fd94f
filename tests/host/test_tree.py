# SPDX-License-Identifier: GPL-2.0-only
"""Trees of processes: the simple loop, zombies, groups and sessions, many members, members that come and go."""

from __future__ import annotations

import os
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.host.conftest import Subject, alive, below, state, wait_until

if TYPE_CHECKING:
    from tests.host.conftest import Host

LOOP = "echo ready; i=0; while :; do sleep 0.05; i=$((i+1)); echo n $i; done"


def test_loop_goes_on_where_it_was(host: Host) -> None:
    loop = host.start("/bin/sh", "-c", LOOP)
    loop.wait_for("n 3")
    for _ in range(3):
        host.round_trip(loop)
        reached = len(loop.said())
        wait_until(lambda at=reached: len(loop.said()) > at + 2, "the log grows again")
    said = loop.said()  # it goes on saying more
    assert said == ["ready", *(f"n {n}" for n in range(1, len(said)))]


def test_loop_left_running_ten_times(host: Host) -> None:
    loop = host.start("/bin/sh", "-c", LOOP)
    for _ in range(10):
        dumped = host.dump(loop, "--leave-running")
        assert dumped.ok, dumped
        assert alive(loop.pid)
    reached = len(loop.said())
    wait_until(lambda: len(loop.said()) > reached + 2, "the log grows")
    said = loop.said()  # it goes on saying more
    assert said == ["ready", *(f"n {n}" for n in range(1, len(said)))]


FAMILY = """
def child(body, status=0):
    pid = os.fork()
    if pid == 0:
        body()
        os._exit(status)
    return pid
def wait_for_zombies(*pids):
    while any(open(f"/proc/{pid}/stat").read().rpartition(") ")[2][0] != "Z" for pid in pids): time.sleep(0.002)
"""

ZOMBIE = (
    FAMILY
    + """
caught = []
signal.signal(signal.SIGCHLD, lambda *a: caught.append(1))
pids = [child(way, 1) for way in WAYS]
wait_for_zombies(*pids)
time.sleep(0.01)
before = len(caught)
pause_for_dump()
say("caught", len(caught) - before)
for pid in pids:
    try:
        say(pid == os.waitpid(pid, os.WNOHANG)[0])
    except ChildProcessError:
        say("no child")
"""
)


@pytest.mark.parametrize(
    ("ways", "count"),
    [
        ("[lambda: os._exit(7)]", 1),
        ("[lambda: os._exit(7), lambda: os._exit(8)]", 2),
        ("[lambda: os.kill(os.getpid(), signal.SIGKILL)]", 1),
        ("[lambda: os.kill(os.getpid(), signal.SIGTERM)]", 1),
        ("[lambda: os.abort()]", 1),
        ("[lambda: os._exit(3), lambda: os.kill(os.getpid(), 15), lambda: os._exit(0)]", 3),
    ],
    ids=["exit", "two exits", "SIGKILL", "SIGTERM", "abort", "three"],
)
def test_zombies_come_back_and_can_be_waited_for(host: Host, ways: str, count: int) -> None:
    parent = host.python(ZOMBIE.replace("WAYS", ways))
    host.round_trip(parent)
    assert parent.go() == ["caught 0"] + ["True"] * count


STATUSES = (
    FAMILY
    + """
ways = [lambda: os._exit(7), lambda: os.kill(os.getpid(), 9), lambda: os.kill(os.getpid(), 15)]
pids = [child(way, 1) for way in ways]
wait_for_zombies(*pids)
pause_for_dump()
say([os.waitpid(pid, 0)[1] & ~0x80 for pid in pids])
"""
)


def test_zombies_keep_their_exit_status(host: Host) -> None:
    parent = host.python(STATUSES)
    host.round_trip(parent)
    assert parent.go() == ["[1792, 9, 15]"]


LIVE_BESIDE_ZOMBIE = (
    FAMILY
    + """
dead = child(lambda: None, 5)
wait_for_zombies(dead)
a, b = child(wait_for_go, 5), child(lambda: (os.setpgid(0, 0), wait_for_go()), 5)
time.sleep(0.05)
pause_for_dump()
say(sorted(os.waitpid(pid, 0)[1] >> 8 for pid in (dead, a, b)))
"""
)


def test_live_children_beside_a_zombie(host: Host) -> None:
    parent = host.python(LIVE_BESIDE_ZOMBIE)
    host.round_trip(parent)
    assert parent.go() == ["[5, 5, 5]"]


ZOMBIE_LEADS_GROUP = (
    FAMILY
    + """
read, write = os.pipe()
leader = child(lambda: os.read(read, 1))
os.setpgid(leader, leader)
mate = child(lambda: (os.setpgid(0, leader), os.write(write, b"x"), os.close(read), os.close(write), wait_for_go()))
wait_for_zombies(leader)
os.close(read)
os.close(write)
pause_for_dump()
say(os.getpgid(mate) == leader, os.waitpid(leader, 0)[1], os.waitpid(mate, 0)[1])
"""
)


def test_group_whose_leader_is_a_zombie(host: Host) -> None:
    """`true | sleep` in a shell with job control, before its next prompt."""
    parent = host.python(ZOMBIE_LEADS_GROUP)
    host.round_trip(parent)
    assert parent.go() == ["True 0 0"]


LEADER_THREAD_GONE = (
    FAMILY
    + """
import threading
pid = os.fork()
if pid == 0:
    threading.Thread(target=wait_for_go).start()
    libc.syscall(60, 0)  # exit(2) of the first thread only
wait_for_zombies(pid)
pause_for_dump()
say(os.waitpid(pid, 0)[1])
"""
)


def test_a_process_whose_first_thread_ended_is_no_zombie(host: Host) -> None:
    parent = host.python(LEADER_THREAD_GONE)
    host.refused(parent, "has lost its first thread (1 live on)", str(below(parent.pid)[0]))
    assert parent.go() == ["0"]


SPAWNING = """
import subprocess
ready()
i = 0
while not os.path.exists("go"):
    subprocess.run(["/bin/true"], check=True)
    i += 1
    say("n", i)
say("done")
"""


def test_parent_that_spawns_all_the_time(host: Host) -> None:
    """vfork(2) again and again: what two processes share for a moment must not refuse a dump."""
    parent = host.python(SPAWNING)
    for _ in range(5):
        host.round_trip(parent)
    said = parent.go()
    assert said == [f"n {n}" for n in range(1, len(said))] + ["done"]


def test_shell_that_forks_all_the_time(host: Host) -> None:
    loop = host.start("/bin/sh", "-c", "echo ready; while :; do /bin/true; (:); done")
    for _ in range(10):
        host.round_trip(loop)
    assert alive(loop.pid)


MANY = """
pids = []
for _ in range(COUNT):
    pid = os.fork()
    if pid == 0:
        signal.pause()
    pids.append(pid)
pause_for_dump()
for pid in pids: os.kill(pid, 9)
say(sum(os.waitpid(pid, 0)[1] == 9 for pid in pids))
"""


def test_more_processes_than_descriptors(host: Host) -> None:
    """Several hundred members, with the usual soft limit of descriptors and less."""
    import resource

    parent = host.python(MANY.replace("COUNT", "150"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        host.round_trip(parent)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert parent.go() == ["150"]


DEEP = """
def deep(n):
    pid = os.fork()
    if pid == 0:
        if n: deep(n - 1)
        else: open("deepest", "w").close()
        wait_for_go()
        if n: os.wait()
        os._exit(0)
deep(60)
while not os.path.exists("deepest"): time.sleep(0.002)
pause_for_dump()
say(os.wait()[1])
"""


def test_sixty_generations(host: Host) -> None:
    parent = host.python(DEEP)
    host.round_trip(parent)
    assert len(below(parent.pid)) == 61
    assert parent.go() == ["0"]


SESSIONS = (
    FAMILY
    + """
def leader():
    os.setsid()
    kids = [child(lambda: (os.setpgid(0, 0), wait_for_go())), child(wait_for_go)]
    wait_for_go()
    for kid in kids: os.waitpid(kid, 0)
def stays():  # its child is born before it leaves the session
    kid = child(wait_for_go)
    os.setsid()
    wait_for_go()
    os.waitpid(kid, 0)
kids = [child(leader), child(stays)]
ids = lambda: sorted((p, os.getpgid(p), os.getsid(p)) for p in everybody())
def everybody(pid=None):
    pid = pid or os.getpid()
    out = [pid]
    for kid in open(f"/proc/{pid}/task/{pid}/children").read().split(): out += everybody(int(kid))
    return out
while [len(set(some)) for some in zip(*ids())] != [6, 4, 3]: time.sleep(0.002)
before = ids()
pause_for_dump()
"""
)


def test_sessions_and_groups(host: Host) -> None:
    parent = host.python(
        SESSIONS.replace("pause_for_dump()", "ready()\nwhile not os.path.exists('look'): time.sleep(0.002)")
        + "say(ids() == before, len(before))\nwait_for_go()\nsay([os.waitpid(k, 0)[1] for k in kids])"
    )
    host.round_trip(parent)
    (host.folder / "look").touch()
    parent.wait_for("True 6")
    assert parent.go() == ["True 6", "[0, 0]"]


def test_attached_restore_ends_with_the_root(host: Host) -> None:
    import subprocess

    loop = host.python("pause_for_dump()\nsay('ok')\nsys.exit(5)")
    assert host.dump(loop).ok
    attached = subprocess.Popen(
        host.command("restore", "-D", str(host.images)),
        cwd=host.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    wait_until(lambda: alive(loop.pid), "the restored root")
    time.sleep(0.1)
    assert attached.poll() is None, "the attached restore did not wait"
    assert [int(pid) for pid in below(attached.pid)] == [loop.pid]
    (host.folder / "go").touch()
    assert attached.wait(10) == 0, attached.communicate()
    assert loop.said()[-1] == "ok"
    assert state(loop.pid) is None


def test_pidfile(host: Host) -> None:
    subject = host.python("pause_for_dump()\nsay('ok')")
    assert host.dump(subject).ok
    assert host.restore("--pidfile", str(host.folder / "pid")).ok
    assert (host.folder / "pid").read_text() == str(subject.pid)
    assert subject.go() == ["ok"]
    assert os.stat(host.folder / "pid").st_mode & 0o077 == 0


@pytest.mark.parametrize("words", [(), ("--shell-job",)])
def test_a_job_of_a_session_that_is_still_there(host: Host, words: tuple[str, ...]) -> None:
    """Dumped with --shell-job; a restore needs no word, as it always gave the job to the session that it runs in."""
    job = "echo ready; n=0; while :; do n=$((n+1)); echo $n; sleep 0.02; done"
    line = f"exec >out; sh -c '{job}' & echo $! >pid; wait; sleep 60"
    with open(host.folder / "shell", "wb") as out:
        shell = subprocess.Popen(
            ["sh", "-c", line],
            cwd=host.folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    subject = Subject(shell, host.folder)
    wait_until(lambda: (host.folder / "pid").exists() and (host.folder / "out").exists() and subject.said(), "the job")
    subject.pid = int((host.folder / "pid").read_text())
    assert host.dump(subject, "--shell-job").ok
    wait_until(lambda: state(subject.pid) is None, "the shell has read how the job ended")
    before = len(subject.said())
    restored = host.restore(*words)
    assert restored.ok, restored
    wait_until(lambda: len(subject.said()) > before, "the job goes on")
