# SPDX-License-Identifier: GPL-2.0-only
"""What tasks have in the kernel, between CRIU and pycriu both ways: timers, filters, scheduling, a stop, families."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.host.conftest import state, wait_until
from tests.host.test_peer import WAYS, Both
from tests.host.test_peer import criu as criu

if TYPE_CHECKING:
    from tests.host.conftest import Host

STATE = """
def timer(clock, number, how, value):
    event = ctypes.create_string_buffer(struct.pack("<QiiI44x", value, number, how, os.getpid()), 64)
    made = ctypes.c_int(-1)
    assert libc.syscall(222, clock, event, ctypes.byref(made)) == 0
    return made.value
def left(number):
    room = ctypes.create_string_buffer(32)
    assert libc.syscall(224, number, room) == 0
    return struct.unpack("<4q", room.raw)
for number in range(3):
    timer(1, 10, 0, 7)
libc.syscall(226, 0)
silent = timer(0, 0, 1, 5)
for number, spec in ((1, (5, 0, 5000, 0)), (silent, (0, 0, 4000, 0))):
    assert libc.syscall(223, number, 0, struct.pack("<4q", *spec), None) == 0
with open("/proc/self/timers") as file:
    timers = file.read()

code = b"".join(struct.pack("HBBI", *one) for one in (
    (0x20, 0, 0, 0), (0x15, 0, 1, 110), (6, 0, 0, 0x50021), (6, 0, 0, 0x7fff0000)))
program = ctypes.create_string_buffer(code, len(code))
fprog = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 4, ctypes.addressof(program)), 16)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.syscall(317, 1, 0, fprog) == 0
assert libc.syscall(110) == -1
os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
os.setpriority(os.PRIO_PROCESS, 0, 3)
pause_for_dump()
with open("/proc/self/timers") as file:
    say("timers", file.read() == timers)
periodic, once = left(1), left(silent)
say("left", periodic[:2], 4900 < periodic[2] <= 5000, once[:2], 3900 < once[2] <= 4000, left(2))
say("filter", libc.syscall(110), libc.prctl(21, 0, 0, 0, 0))
say("scheduling", os.sched_getscheduler(0) == os.SCHED_BATCH, os.nice(0))
"""
EXPECTED = [
    "timers True", "left (5, 0) True (0, 0) True (0, 0, 0, 0)", "filter -1 2", "scheduling True 3",
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_timers_filters_and_scheduling(host: Host, criu: tuple[str, ...], way: object) -> None:
    subject = host.python(STATE)
    way(Both(host, criu), subject)  # type: ignore[operator]
    assert subject.go() == EXPECTED


@pytest.mark.parametrize("way", WAYS)
def test_stopped(host: Host, criu: tuple[str, ...], way: object) -> None:
    subject = host.python("pause_for_dump()\nsay('ok')")
    os.kill(subject.pid, signal.SIGSTOP)
    wait_until(lambda: state(subject.pid) == "T", "stopped")
    way(Both(host, criu), subject)  # type: ignore[operator]
    wait_until(lambda: state(subject.pid) == "T", "stopped again")
    os.kill(subject.pid, signal.SIGCONT)
    assert subject.go() == ["ok"]


FAMILY = """
r, w = os.pipe()
end, tell = os.pipe()
leader = os.fork()
if not leader:
    os.setpgid(0, 0)
    member = os.fork()
    if member:
        os.read(end, 1)
        os._exit(0)
    os.close(w)
    while os.read(r, 1): pass
    os._exit(0)
os.close(r)
libc.prctl(36, 1, 0, 0, 0)
os.write(tell, b"x")
os.waitpid(leader, 0)
with open(f"/proc/self/task/{os.getpid()}/children") as file:
    member = int(file.read())
before = os.getpgid(member), os.getsid(member)
assert before[0] == leader
pause_for_dump()
say("group", (os.getpgid(member), os.getsid(member)) == before)
os.close(w)
say("status", os.waitpid(member, 0) == (member, 0))
"""


@pytest.mark.parametrize("way", WAYS)
def test_group_left_by_its_leader(host: Host, criu: tuple[str, ...], way: object) -> None:
    subject = host.python(FAMILY)
    way(Both(host, criu), subject)  # type: ignore[operator]
    assert subject.go() == ["group True", "status True"]
