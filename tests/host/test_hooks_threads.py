# SPDX-License-Identifier: GPL-2.0-only
"""Where a program with hooks may be when it is asked: in calls, in event loops, in critical sections of any thread."""

from __future__ import annotations

import subprocess

import pytest

from tests.host.conftest import DEADLINE, Host, alive, reap, wait_until
from tests.host.hooked import COUNTING, since_ready, start, wait_said

SLEEPS = {
    "sleep": "time.sleep(2)",
    "read": "threading.Timer(2, os.write, (end, b'x')).start(); os.read(begin, 1)",
    "select": "select.select([begin], [], [], 2)",
    "join": "thread = threading.Timer(2, int); thread.start(); thread.join()",
    "lock": "lock = threading.Lock(); lock.acquire(); threading.Timer(2, lock.release).start(); lock.acquire()",
}


@pytest.mark.parametrize("call", SLEEPS)
def test_calls_are_not_disturbed(host: Host, call: str) -> None:
    """A signal comes in the middle of a call, hooks are called, and the call goes on for what is left of it."""
    code = f"""
import threading
hook("before_checkpoint", "before")
begin, end = os.pipe()
ready()
begun = time.monotonic()
{SLEEPS[call]}
say("slept", time.monotonic() - begun >= 1.99)
wait_for_go()
"""
    subject = start(host, code)
    left = host.dump(subject, "-R")
    assert left.ok, left
    wait_until(lambda: len(since_ready(subject)) == 2, "it has slept")
    assert sorted(subject.go()) == ["before", "slept True"]  # on a busy machine it may sleep no more when it is asked


ASYNCIO = """
import asyncio
log = []
@pycriu.before_checkpoint
async def close():
    await asyncio.sleep(0.05)
    say("closed")
@pycriu.before_checkpoint
def plain():
    say("plain", asyncio.get_running_loop() is loop)
@pycriu.after_restore
async def reopen():
    await asyncio.sleep(0)
    say("reopened", pycriu.moment().outcome)
@pycriu.after_checkpoint
async def go_on():
    say("goes on", pycriu.moment().outcome)
async def work():
    global loop
    loop = asyncio.get_running_loop()
    ready()
    while not os.path.exists("go"):
        await asyncio.sleep(0.01)
    say("end")
asyncio.run(work())
"""


def test_coroutines_are_awaited_in_the_loop_of_the_program(host: Host) -> None:
    subject = start(host, ASYNCIO)
    left = host.dump(subject, "-R")
    assert left.ok, left
    wait_said(subject, "plain True", "closed", "goes on continued")
    host.round_trip(subject)
    assert since_ready(subject)[3:] == ["plain True", "closed", "reopened restored"]
    assert subject.go()[-1] == "end"


def test_coroutines_without_a_loop_get_one(host: Host) -> None:
    code = """
import asyncio
@pycriu.before_checkpoint
async def close():
    await asyncio.sleep(0.01)
    say("closed")
@pycriu.before_checkpoint(timeout=0.05)
async def endless():
    if os.path.exists("endless"):
        await asyncio.sleep(60)
"""
    subject = start(host, code + COUNTING)
    host.round_trip(subject)
    (host.folder / "endless").touch()
    outcome = host.dump(subject)
    assert outcome.status == 77, outcome
    assert "endless: is not done after 0.05 s" in outcome.log
    assert subject.go() == ["closed", "closed", "end True"]


@pytest.mark.parametrize("thread", ["main", "other"])
def test_critical_sections(host: Host, thread: str) -> None:
    code = f"""
import threading
hook("before_checkpoint", "before")
def section():
    with pycriu.critical_section(), pycriu.critical_section():
        while not os.path.exists("leave"):
            time.sleep(0.01)
        say("left")
worker = threading.Thread(target=section)
ready()
if {thread == "main"}:
    section()
else:
    worker.start()
wait_for_go()
"""
    subject = start(host, code)
    outcome = host.dump(subject, "--hook-timeout", "1")
    assert outcome.status == 75, outcome
    assert "it is in a critical section" in outcome.log
    command = host.command("dump", "-t", str(subject.pid), "-D", str(host.images))
    with subprocess.Popen(command, cwd=host.folder, stdin=subprocess.DEVNULL) as dumper:
        wait_until(lambda: alive(dumper.pid), "it runs")
        assert dumper.poll() is None
        (host.folder / "leave").touch()
        assert dumper.wait(DEADLINE) == 0
    reap(subject.pid)
    assert since_ready(subject) == ["left", "before"]
    restored = host.restore()
    assert restored.ok, restored
    assert subject.go() == ["left", "before"]


def test_nobody_enters_a_section_while_a_checkpoint_is_under_way(host: Host) -> None:
    code = """
import threading
inside = 0
def work():
    global inside
    while not os.path.exists("go"):
        with pycriu.critical_section():
            inside += 1
            time.sleep(0.001)
            inside -= 1
@pycriu.before_checkpoint
def check():
    time.sleep(0.05)
    say("inside", inside)
@pycriu.after_restore
def check():
    say("inside", inside)
workers = [threading.Thread(target=work) for _ in range(3)]
for one in workers:
    one.start()
ready()
wait_for_go()
for one in workers:
    one.join()
say("end")
"""
    subject = start(host, code)
    host.round_trip(subject)
    host.round_trip(subject)
    assert subject.go() == ["inside 0"] * 4 + ["end"]
