# SPDX-License-Identifier: GPL-2.0-only
"""What a task has that cannot be kept, or not be given here, is refused by name, and whoever is refused goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pycriu.images import messages as m
from tests.host.conftest import PRELUDE, reap
from tests.images import framed

if TYPE_CHECKING:
    from tests.host.conftest import Host

FILTER = """
def install(number, action, flags=0):
    code = struct.pack("HBBI", 0x20, 0, 0, 0) + struct.pack("HBBI", 0x15, 0, 1, number)
    code += struct.pack("HBBI", 6, 0, 0, action) + struct.pack("HBBI", 6, 0, 0, 0x7fff0000)
    program = ctypes.create_string_buffer(code, len(code))
    fprog = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 4, ctypes.addressof(program)), 16)
    libc.prctl(38, 1, 0, 0, 0)
    return libc.syscall(317, 1, flags, fprog)
"""

# name: what the subject does, words of the message
UNSUPPORTED = {
    "Syscall User Dispatch": (
        "allow = ctypes.create_string_buffer(1)\n"
        "if libc.prctl(59, 1, 0, 0, ctypes.byref(allow)): lacks('Syscall User Dispatch')",
        ("dispatched",),
    ),
    "strict seccomp": (
        "hold, release = os.pipe()\nr, w = os.pipe()\nchild = os.fork()\nif not child:\n"
        "    b = ctypes.create_string_buffer(1)\n    os.close(release)\n    libc.prctl(22, 1, 0, 0, 0)\n"
        "    libc.write(w, b'x', 1)\n    libc.read(hold, b, 1)\n    libc.syscall(60, 0)\n"
        "os.read(r, 1)\nos.close(hold)\nsay = lambda *a, say=say: (os.close(release), os.waitpid(child, 0), say(*a))"
        " if a == ('ok',) else say(*a)",
        ("strict seccomp",),
    ),
    "a filter that kills": (FILTER + "install(36, 0x80000000)", ("forbids getitimer",)),
    "a filter in the way home": (FILTER + "install(15, 0x50001)", ("forbids rt_sigreturn",)),
    "a filter that asks": (FILTER + "os.close(install(201, 0x7fc00000, 8))", ("SECCOMP_RET_USER_NOTIF",)),
    "a timer on the clock of a thread": (
        "import threading\nthreading.Thread(target=wait_for_go).start()\n"
        "t = ctypes.c_int()\nassert libc.syscall(222, 3, 0, ctypes.byref(t)) == 0",
        ("timer 0", "CPU time"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_unsupported_is_named(host: Host, kind: str) -> None:
    body, needles = UNSUPPORTED[kind]
    host.refused_by_name(body, *needles)


def test_cpus_that_are_not_here(host: Host) -> None:
    subject = host.python("os.sched_setaffinity(0, {0})\npause_for_dump()\nsay('ok')")
    assert host.dump(subject).ok
    reap(subject.pid)
    image = host.images / f"pycriu-task-{subject.pid}.img"
    image.write_bytes(framed(image.name, [m.pycriu_task_entry(tid=subject.pid, affinity=[5000])]))
    outcome = host.restore()
    assert not outcome.ok
    assert "bound to the CPUs 5000" in outcome.errors()
    assert not os.path.exists(f"/proc/{subject.pid}")
    image.write_bytes(framed(image.name, [m.pycriu_task_entry(tid=subject.pid, affinity=[0, 5000])]))
    outcome = host.restore()
    assert outcome.ok
    assert "lacks: 5000" in outcome.log
    assert subject.go() == ["ok"]


def test_a_fact_of_another_process(host: Host) -> None:
    subject = host.python("pause_for_dump()\nsay('ok')")
    assert host.dump(subject).ok
    reap(subject.pid)
    image = host.images / f"pycriu-task-{subject.pid}.img"
    image.write_bytes(framed(image.name, [m.pycriu_task_entry(tid=1, timer_slack=5)]))
    outcome = host.restore()
    assert not outcome.ok
    assert "1 is no thread" in outcome.errors()


def test_a_nice_value_that_may_not_be_granted(host: Host) -> None:
    """As in a container without CAP_SYS_NICE."""
    without = "import ctypes, os, sys\nctypes.CDLL(None).prctl(24, 23, 0, 0, 0)\nos.execvp(sys.argv[1], sys.argv[1:])"
    (host.folder / "subject.py").write_text(PRELUDE + "pause_for_dump()\nsay('ok')")
    subject = host.start(sys.executable, "-c", without, sys.executable, "-IS", "subject.py")
    os.setpriority(os.PRIO_PROCESS, subject.pid, -3)
    assert host.dump(subject).ok
    reap(subject.pid)
    words = host.command("restore", "-d", "-v4", "-o", "-", "-D", str(host.images))
    command = [sys.executable, "-c", without, *words]
    done = subprocess.run(command, cwd=host.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "nice value -3" in done.stdout + done.stderr
    assert "CAP_SYS_NICE" in done.stdout + done.stderr
    assert not os.path.exists(f"/proc/{subject.pid}")
