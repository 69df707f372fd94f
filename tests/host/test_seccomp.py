# SPDX-License-Identifier: GPL-2.0-only
"""seccomp filters of tasks that could not install them again themselves, and images that lie about filters."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.host.conftest import reap

if TYPE_CHECKING:
    from tests.host.conftest import Host

FILTER = """
def install(number, error, flags=0):
    code = b"".join(struct.pack("HBBI", *one) for one in (
        (0x20, 0, 0, 0), (0x15, 0, 1, number), (6, 0, 0, 0x50000 | error), (6, 0, 0, 0x7fff0000)))
    program = ctypes.create_string_buffer(code, len(code))
    fprog = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 4, ctypes.addressof(program)), 16)
    assert libc.syscall(317, 1, flags, fprog) == 0
"""
UNPRIVILEGED = """
import threading
install(110, 33)
def other():
    install(121, 34, 2)
    wait_for_go()
    found.append(answers())
def answers():
    ctypes.set_errno(0)
    return [libc.syscall(number, 0) >= 0 or ctypes.get_errno() for number in (110, 121)]
found = []
thread = threading.Thread(target=other)
thread.start()
while open("/proc/self/task/" + os.listdir("/proc/self/task")[-1] + "/status").read().count("filters:\\t2") == 0:
    time.sleep(0.01)
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
libc.prctl(4, 1, 0, 0, 0)
pause_for_dump()
thread.join()
say(answers(), *found, libc.prctl(39, 0, 0, 0, 0), os.getresuid())
"""


def test_filters_of_somebody_without_privileges(host: Host) -> None:
    """Installed while it was root, without no_new_privs."""
    host.folder.chmod(0o755)  # it looks for `go` as nobody
    subject = host.python(FILTER + UNPRIVILEGED)
    host.round_trip(subject)
    host.round_trip(subject)
    assert subject.go() == ["[33, True] [33, 34] 0 (65534, 65534, 65534)"]


def test_a_filter_that_is_none(host: Host) -> None:
    subject = host.python(FILTER + "libc.prctl(38, 1, 0, 0, 0)\ninstall(110, 33)\npause_for_dump()\nsay('ok')")
    assert host.dump(subject).ok
    reap(subject.pid)
    image = host.images / "seccomp.img"
    content = image.read_bytes()
    instruction = bytes.fromhex("2000000000000000")  # ld [0]
    assert content.count(instruction) == 1
    image.write_bytes(content.replace(instruction, bytes.fromhex("9400000000000000")))  # a modulo that seccomp lacks
    outcome = host.restore()
    assert not outcome.ok
    assert not os.path.exists(f"/proc/{subject.pid}")
    assert "seccomp" in outcome.errors()
