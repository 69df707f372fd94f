# SPDX-License-Identifier: GPL-2.0-only
"""Calls with a timeout, dumped again and again while they last: they end when they would have, and never before."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.host.conftest import alive, reap

if TYPE_CHECKING:
    from tests.host.conftest import Host

SECONDS = 3
CALLS = {
    "nanosleep": "r = libc.nanosleep(spec, None)",
    "nanosleep with a rest": "r = libc.nanosleep(spec, rest)",
    "clock_nanosleep": "r = libc.clock_nanosleep(1, 0, spec, None)",
    "absolute": "r = libc.clock_nanosleep(1, 1, then, None)",
    "poll": "r = libc.poll(fds, 1, 3000)",
    "futex": "r = 1 + libc.syscall(202, word, 0, 5, spec, None, 0)",
    "epoll_wait": "r = libc.epoll_wait(set_, events, 1, 3000)",
    "epoll_pwait": "r = libc.epoll_pwait(set_, events, 1, 3000, mask)",
    "epoll_pwait2": "r = libc.epoll_pwait2(set_, events, 1, spec, mask)",
}
PROGRAM = """
spec = ctypes.create_string_buffer(struct.pack("qq", 3, 0), 16)
rest = ctypes.create_string_buffer(16)
word = ctypes.create_string_buffer(struct.pack("i", 5), 4)
fds = ctypes.create_string_buffer(struct.pack("ihh", os.pipe()[0], 1, 0), 8)
now = time.clock_gettime_ns(1) + 3 * 10**9
then = ctypes.create_string_buffer(struct.pack("qq", now // 10**9, now % 10**9), 16)
watches, events, mask = select.epoll(), ctypes.create_string_buffer(16), bytes(8)
watches.register(os.pipe()[0], 1)
set_ = watches.fileno()
ready()
begin = time.monotonic()
CALL
say("after", r, time.monotonic() - begin)
"""


@pytest.mark.parametrize("call", CALLS)
def test_dumps_that_leave_it_do_not_lengthen_a_sleep(host: Host, call: str) -> None:
    subject = host.python(PROGRAM.replace("CALL", CALLS[call]))
    dumps = 0
    while alive(subject.pid):
        dumps += host.dump(subject, "-R").ok
        time.sleep(0.1)
    assert dumps > 1
    said = subject.go()[-1].split()
    assert said[:2] == ["after", "0"], said
    assert SECONDS <= float(said[2]) < SECONDS + 0.5, said


@pytest.mark.parametrize("call", ["epoll_wait", "epoll_pwait2", "poll"])
def test_a_wait_for_events_goes_on_with_the_rest_of_its_limit(host: Host, call: str) -> None:
    """Dumped, once left and once away: it is not told of that, and counts the time that it was there."""
    subject = host.python(PROGRAM.replace("CALL", CALLS[call]))
    time.sleep(1)
    if call != "poll":  # which the kernel restarts in a way of its own, once it has been left
        left = host.dump(subject, "-R")
        assert left.ok, left
    begin = time.monotonic()
    assert host.dump(subject).ok
    reap(subject.pid)
    time.sleep(1)
    assert host.restore().ok
    away = time.monotonic() - begin
    said = subject.go()[-1].split()
    assert said[:2] == ["after", "0"], said
    assert SECONDS + 1 - 0.01 <= float(said[2]) < SECONDS + away + 0.5, said
