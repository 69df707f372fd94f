# SPDX-License-Identifier: GPL-2.0-only
"""Clocks that would go back after another boot: the images say so here, because a test cannot boot its host."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from pycriu.images import store
from pycriu.resources import clocks
from tests import manifest
from tests.host import test_victims
from tests.host.conftest import reap
from tests.images import framed

if TYPE_CHECKING:
    from tests.host.conftest import Host, Subject

HOUR = 3600
PROGRAM = """
import threading
def clocks():
    return time.clock_gettime(time.CLOCK_MONOTONIC), time.clock_gettime(time.CLOCK_BOOTTIME)
before = clocks()
timer = libc.timerfd_create(1, 0)
then = struct.pack("qqqq", 0, 0, int(before[0]) + 3, 0)
assert libc.timerfd_settime(timer, 1, then, None) == 0
def sleeps():
    spec = struct.pack("qq", int(before[0]) + 3, 0)
    libc.clock_nanosleep(1, 1, spec, None)
    woken.append(clocks()[0] - int(before[0]))
woken = []
sleeper = threading.Thread(target=sleeps)
sleeper.start()
pause_for_dump()
after = clocks()
say("passed", *(int(now - then) for now, then in zip(after, before)))
os.read(timer, 8)
say("timer", 3 <= clocks()[0] - int(before[0]) < 20)
sleeper.join()
say("sleeper", 3 <= woken[0] < 20)
"""

pytestmark = pytest.mark.skipif(not clocks.can_enter(), reason="no time namespace can be made here")


def pretend_another_boot(host: Host, subject: Subject, hours: int) -> None:
    """Let the images be of a boot in which the machine had been up for so much longer."""
    for name in (f"pycriu-task-{subject.pid}.img", "pycriu-timerfd.img"):
        with store.ImagesDir(str(host.images)) as images:
            entries: list[Any] = images.read_if_there(name)
        for entry in entries:
            if entry.boot:
                entry.boot = bytes(range(16))
            if name.startswith("pycriu-task"):
                entry.clocks[:] = [value + hours * HOUR * 10**9 for value in entry.clocks]
        if entries:
            (host.images / name).write_bytes(framed(name, entries))


def test_clocks_go_on_after_another_boot(host: Host) -> None:
    """Twice: the second dump is of a tree in a time namespace, which it gets again."""
    subject = host.python(PROGRAM)
    assert host.dump(subject).ok
    reap(subject.pid)
    pretend_another_boot(host, subject, 0)
    restored = host.restore()
    assert restored.ok, restored
    assert os.readlink(f"/proc/{subject.pid}/ns/time") != os.readlink("/proc/self/ns/time")
    host.round_trip(subject)
    said = subject.go()
    assert said[1:] == ["timer True", "sleeper True"]
    assert all(0 <= int(seconds) < 20 for seconds in said[0].split()[1:]), said


def test_clocks_never_go_back(host: Host) -> None:
    subject = host.python(PROGRAM.split("timer =")[0] + "pause_for_dump()\nafter = clocks()\n"
                          "say('passed', *(int(now - then) for now, then in zip(after, before)))")  # fmt: skip
    assert host.dump(subject).ok
    reap(subject.pid)
    pretend_another_boot(host, subject, 5)
    assert host.restore().ok
    left = host.dump(subject, "-R")
    assert left.ok, left
    host.round_trip(subject)
    passed = [int(seconds) for seconds in subject.go()[-1].split()[1:]]
    assert all(5 * HOUR <= seconds < 5 * HOUR + 30 for seconds in passed), passed


@pytest.mark.parametrize("name", ["clocks", "itimers", "posix_timers", "sleepers", "timerfd", "threads", "families"])
def test_victim_in_a_time_namespace(host: Host, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is hours ahead of us from the start."""
    enter = f"import sys\nsys.path.insert(0, {str(manifest.TOP)!r})\nfrom pycriu.resources import clocks\n"
    enter += f"clocks.enter(({7 * HOUR * 10**9}, {8 * HOUR * 10**9}))\nimport os\n"
    enter += f"os.execv(sys.executable, [sys.executable, '-u', {str(manifest.FOLDER / f'{name}.py')!r}])\n"
    (host.folder / f"{name}.py").write_text(enter)
    monkeypatch.setattr(manifest, "FOLDER", host.folder)
    subject = test_victims.start(host, name)
    assert os.readlink(f"/proc/{subject.pid}/ns/time") != os.readlink("/proc/self/ns/time")
    options = manifest.read(manifest.TOP / "tests" / "victims" / f"{name}.py").options
    left = host.dump(subject, "-R", *options)
    assert left.ok, left
    host.round_trip(subject, *options)
    host.round_trip(subject, *options)
    assert test_victims.judge(subject) == "PASS"


def test_children_that_would_be_in_another_time_namespace(host: Host) -> None:
    """The process itself is not: what becomes of its next child nobody could keep."""
    host.refused_by_name("assert libc.unshare(0x80) == 0", "time namespace")
