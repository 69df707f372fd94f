# SPDX-License-Identifier: GPL-2.0-only
"""Programs that are told of checkpoints: who hears of them, in which order, and how it ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from tests.host.conftest import Host, reap, state
from tests.host.hooked import BEFORE, CONTINUED, COUNTING, ORDER, RESTORED, since_ready, start, wait_said


def test_in_which_order_and_how_it_ended(host: Host) -> None:
    """Left running, then restored twice in a row."""
    subject = start(host, ORDER + COUNTING)
    left = host.dump(subject, "-R")
    assert left.ok, left
    wait_said(subject, *BEFORE, *CONTINUED)
    host.round_trip(subject)
    assert since_ready(subject) == [*BEFORE, *CONTINUED, *BEFORE, *RESTORED]  # a restore waits for the hooks
    host.round_trip(subject)
    assert since_ready(subject) == [*BEFORE, *CONTINUED, *BEFORE, *RESTORED, *BEFORE, *RESTORED]
    assert subject.go()[-1] == "end True"


def test_left_stopped(host: Host) -> None:
    subject = start(host, ORDER + COUNTING)
    dumped = host.dump(subject, "--leave-stopped")
    assert dumped.ok, dumped
    assert state(subject.pid) == "T"
    assert since_ready(subject) == BEFORE
    os.kill(subject.pid, signal.SIGCONT)
    wait_said(subject, *BEFORE, *CONTINUED)
    assert subject.go()[-1] == "end True"


def test_nobody_else_is_touched(host: Host) -> None:
    """No signal goes to a program that has not registered, not even to one that would take it."""
    subject = host.python('signal.signal(signal.SIGURG, lambda *_: say("touched"))\n' + COUNTING)
    host.round_trip(subject)
    assert subject.go() == ["end True"]


def test_a_tree_without_hooks_pays_nothing(host: Host) -> None:
    """Nothing of them is imported on the way of its dump and restore."""
    subject = host.python(COUNTING)
    for words in (("dump", "-t", str(subject.pid)), ("restore", "-d")):
        command = [sys.executable, "-X", "importtime", *host.command(*words, "-D", str(host.images))[1:]]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=host.folder)
        assert "pycriu.images" in done.stderr
        assert "pycriu.hooks" not in done.stderr
        if words[0] == "dump":
            reap(subject.pid)
    assert subject.go() == ["end True"]


def test_all_of_a_tree_that_have_registered(host: Host) -> None:
    """A child by fork has its parent's hooks and a channel of its own; one that has called exec has neither."""
    code = """
import subprocess
hook("before_checkpoint", "parent")
hook("after_restore", "parent")
tail = subprocess.Popen(["sleep", "1000"])
if not (child := os.fork()):
    hook("before_checkpoint", "child")
    open("child", "w").close()
    while not os.path.exists("go"):
        time.sleep(0.01)
    say("end of child")
    os._exit(0)
while not os.path.exists("child"):
    time.sleep(0.01)
ready()
wait_for_go()
os.waitpid(child, 0)
tail.kill()
tail.wait()
"""
    subject = start(host, code)
    host.round_trip(subject)
    said = since_ready(subject)
    # The child calls both that it has inherited, and its own first.
    assert sorted(said) == sorted(["parent", "child", "parent", "parent restored", "parent restored"])
    assert subject.go()[-1] == "end of child"


def test_a_pre_dump_asks_nobody(host: Host) -> None:
    subject = start(host, ORDER + COUNTING)
    saved = host.run("pre-dump", "-t", str(subject.pid), "-D", str(host.images))
    assert saved.ok, saved
    (host.folder / "second").mkdir()
    dumped = host.dump(subject, "--prev-images-dir", "../images", images=host.folder / "second")
    assert dumped.ok, dumped
    assert host.restore(images=host.folder / "second").ok
    assert since_ready(subject) == [*BEFORE, *RESTORED]
    assert subject.go()[-1] == "end True"


def test_it_can_be_another_signal(host: Host) -> None:
    number = signal.SIGRTMIN + 7
    subject = start(host, ORDER + COUNTING, env={**os.environ, "PYCRIU_HOOKS_SIGNAL": str(int(number))})
    assert int(subject.status("SigCgt"), 16) & 1 << number - 1
    host.round_trip(subject)
    assert since_ready(subject) == [*BEFORE, *RESTORED]
    assert subject.go()[-1] == "end True"


def test_a_dumper_that_is_killed(host: Host) -> None:
    """While the program stands and waits for it: it finds out, and goes on."""
    code = """
hook("before_checkpoint", "before")
hook("after_checkpoint", "after")
"""
    subject = start(host, code + COUNTING)
    killer = "import os, sys, pycriu.dump as d\nfrom pycriu.cli import main\n"
    killer += "d.copy_pages = lambda *_: os.kill(os.getpid(), 9)\nmain(sys.argv[1:])"
    words = ("dump", "-t", str(subject.pid), "-D", str(host.images))
    done = subprocess.run([sys.executable, "-c", killer, *words], check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == -signal.SIGKILL
    wait_said(subject, "before", "after failed")
    host.round_trip(subject)
    assert subject.go()[-1] == "end True"
