# SPDX-License-Identifier: GPL-2.0-only
# ruff: noqa: E501 - the tables of small programs read better one to a line
"""What cannot be kept is refused by name, and whoever is refused goes on unharmed."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.host.conftest import reap, state, traced, untouched, wait_until

if TYPE_CHECKING:
    from tests.host.conftest import Host

# name: what the subject does, words of the message
UNSUPPORTED = {
    "connection": (
        "import socket\nx = socket.create_server(('127.0.0.1', 0))\ny = socket.create_connection(x.getsockname())",
        ("accepted", "--skip-in-flight"),
    ),
    "thread with a descriptor table of its own": (
        "import threading\nis_alone = threading.Event()\n"
        "def alone():\n    libc.unshare(0x400)\n    is_alone.set()\n    wait_for_go()\n"
        "threading.Thread(target=alone).start()\nis_alone.wait()",
        ("thread ", "descriptor table of its own"),
    ),
    "thread with a directory of its own": (
        "import threading\nis_alone = threading.Event()\n"
        "def alone():\n    libc.unshare(0x200)\n    is_alone.set()\n    wait_for_go()\n"
        "threading.Thread(target=alone).start()\nis_alone.wait()",
        ("thread ", "working directory of its own"),
    ),
    "net namespace": ("assert libc.unshare(0x40000000) == 0", ("net namespace",)),
    "uts namespace": ("assert libc.unshare(0x04000000) == 0", ("uts namespace",)),
    "mount namespace": ("assert libc.unshare(0x00020000) == 0", ("mnt namespace",)),
    "pid namespace for children": ("assert libc.unshare(0x20000000) == 0", ("pid",)),
    "time namespace for children": ("assert libc.unshare(0x00000080) == 0", ("time",)),
    "directory of a process": ("x = os.open('/proc/1', os.O_RDONLY)", ("/proc/1",)),
    "a name that is no UTF-8": ("libc.prctl(15, b'\\xff\\xfe\\x80z', 0, 0, 0)", ("name", "UTF-8")),
    "a file whose name is no UTF-8": ("x = open(b'\\xff\\xfe', 'w')", ("UTF-8",)),
    "a mapped file whose name is no UTF-8": (
        "open(b'\\xff\\xfe', 'wb').write(bytes(5))\nlibc.mmap(None, 4096, 1, 2, os.open(b'\\xff\\xfe', 0), 0)\nos.close(3)",
        ("UTF-8",),
    ),
    "userfaultfd": ("x = libc.syscall(323, 0x80001)\nif x < 0: lacks('userfaultfd')", ("userfaultfd",)),
    "io_uring": (
        "p = ctypes.create_string_buffer(120)\nx = libc.syscall(425, 4, p)\nif x < 0: lacks('io_uring')",
        ("io_uring",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_unsupported_is_named(host: Host, kind: str) -> None:
    body, needles = UNSUPPORTED[kind]
    host.refused_by_name(body, *needles)


def test_pipe_to_the_outside(host: Host) -> None:
    reader, writer = os.pipe()
    host.refused_by_name(f"x = {writer}", "pipe", "outside", pass_fds=[writer])
    os.close(reader)
    os.close(writer)


def test_busy_registers_survive_a_refusal(host: Host) -> None:
    """A refused dump that is retried in vain a few times does not disturb a computation."""
    subject = host.python(
        "import socket\nx = socket.create_server(('127.0.0.1', 0))\ny = socket.create_connection(x.getsockname())\nready()\nv = 1\nwhile not os.path.exists('go'):\n"
        "    for _ in range(1000): v = (v * 6364136223846793005 + 1442695040888963407) & (1 << 64) - 1\n"
        "w = 1\nn = 0\nwhile w != v:\n    w = (w * 6364136223846793005 + 1442695040888963407) & (1 << 64) - 1\n"
        "    n += 1\n    assert n < 10**9\nsay('ok')"
    )
    for _ in range(3):
        host.refused(subject, "socket")
    assert subject.go() == ["ok"]


def test_traced_process_names_the_tracer(host: Host) -> None:
    subject = host.python("pause_for_dump()\nsay('ok')")
    with traced(subject) as tracer:
        outcome = host.dump(subject)
    assert not outcome.ok
    assert f"traced by {tracer}" in outcome.log
    assert subject.go() == ["ok"]


def test_session_with_a_controlling_terminal(host: Host) -> None:
    """Nobody has the terminal open, yet the session has it."""
    import pty

    ours, theirs = pty.openpty()
    subject = host.python(f"os.close(os.open({os.ttyname(theirs)!r}, os.O_RDWR))\npause_for_dump()\nsay('ok')")
    assert subject.proc("stat").rpartition(") ")[2].split()[4] != "0"
    host.refused(subject, "terminal", str(subject.pid))
    assert subject.go() == ["ok"]
    os.close(ours)
    os.close(theirs)


def test_no_such_process(host: Host) -> None:
    outcome = host.run("dump", "-t", "4194000", "-D", str(host.images))
    assert outcome.status == 1
    assert "no process has PID 4194000" in outcome.log


def test_zombie_root(host: Host) -> None:
    process = subprocess.Popen(["/bin/true"])
    wait_until(lambda: state(process.pid) == "Z", "a zombie")
    outcome = host.run("dump", "-t", str(process.pid), "-D", str(host.images))
    assert outcome.status == 1
    assert "zombie" in outcome.log
    process.wait()


def test_kernel_thread(host: Host) -> None:
    if state(2) is None or "kthreadd" not in Path("/proc/2/comm").read_text():
        pytest.skip("no kernel thread is visible in this PID namespace")
    outcome = host.run("dump", "-t", "2", "-D", str(host.images), "-j")
    assert outcome.status == 1
    assert "this is a bug" not in outcome.log


def test_itself_below_the_root(host: Host) -> None:
    outcome = host.run("dump", "-t", str(os.getpid()), "-D", str(host.images), "-j")
    assert outcome.status == 1
    assert "pycriu itself" in outcome.log or "threads" in outcome.log


def test_foreign_session_needs_shell_job(host: Host) -> None:
    subject = host.python(
        "pid = os.fork()\nif pid:\n    time.sleep(30); os._exit(0)\nsay(os.getpid())\npause_for_dump()\nsay('ok')"
    )
    child = int(subject.said()[0])
    before = untouched(child)
    outcome = host.run("dump", "-t", str(child), "-D", str(host.images))
    assert not outcome.ok
    assert "--shell-job" in outcome.log
    assert untouched(child) == before
    assert not list(host.images.iterdir())


def test_session_id_of_nobody_in_the_tree(host: Host) -> None:
    """With --shell-job, and a member in a session that is neither the root's nor the tree's."""
    subject = host.python(
        "a = os.fork()\nif a == 0:\n    os.setsid()\n    b = os.fork()\n    if b == 0:\n"
        "        os.setpgid(0, 0)\n        wait_for_go()\n        os._exit(0)\n    os._exit(0)\n"
        "os.waitpid(a, 0)\npause_for_dump()\nsay('ok')"
    )
    assert host.dump(subject).ok, "the orphan has left the tree"
    reap(subject.pid)


def test_connected_socket_between_two_tests_stays_usable(host: Host) -> None:
    ours, theirs = socket.socketpair()
    subject = host.python(
        f"import socket\nx = socket.socket(fileno={theirs.fileno()})\nready()\nwhile (d := x.recv(10)): x.send(d)",
        pass_fds=(theirs.fileno(),),
    )
    theirs.close()
    for n in range(5):
        host.refused(subject, "socket")
        ours.send(b"%d" % n)
        assert ours.recv(10) == b"%d" % n
    ours.close()


GRANDPARENT = """
clone = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
def child():
    return libc.syscall(clone, 0x200 | 17, 0, 0, 0, 0)
if not child():
    if not child():
        say("grandchild", os.getpid())
        wait_for_go(); os._exit(0)
    libc.unshare(0x200)
    say("alone")
    wait_for_go(); os._exit(0)
while not {"grandchild", "alone"} <= {line.split()[0] for line in open("out")}: time.sleep(0.002)
pause_for_dump()
say("ok")
"""


def test_sharing_with_a_grandparent_is_refused(host: Host) -> None:
    subject = host.python(GRANDPARENT)
    grandchild = next(line.split()[1] for line in subject.said() if line.startswith("grandchild"))
    host.refused(
        subject, f"process {grandchild} (python", "working directory (CLONE_FS)", f"process {subject.pid}", "neither"
    )
    assert subject.go() == ["ok"]
