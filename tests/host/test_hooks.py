# SPDX-License-Identifier: GPL-2.0-only
"""Programs that are told of checkpoints: in which order, what they can refuse, how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests import interop
from tests.host.conftest import DEADLINE, Host, Outcome, Subject, alive, below, reap, state, untouched, wait_until
from tests.host.test_interop import criu  # noqa: F401 - a fixture

ROOT = Path(__file__).parents[2]
HERE = f"import sys; sys.path[:0] = {[str(ROOT)]!r}; import pycriu\n"

# Each hook says its name, and how it ended.
TALKATIVE = """
def hook(kind, name, **options):
    def call():
        moment = pycriu.moment()
        say(name, *([moment.outcome] if moment.outcome else []))
    call.__qualname__ = name
    getattr(pycriu, kind)(**options)(call)
"""
COUNTING = """
number = 1
ready()
while not os.path.exists("go"):
    number += 1
    time.sleep(0.01)
say("end", number > 0)
"""


def start(host: Host, code: str, **options: object) -> Subject:
    return host.python(HERE + TALKATIVE + code, **options)


def since_ready(subject: Subject) -> list[str]:
    said = subject.said()
    return said[said.index("ready") + 1 :]


def wait_said(subject: Subject, *lines: str) -> None:
    wait_until(lambda: since_ready(subject)[: len(lines)] == list(lines), f"{lines} but {since_ready(subject)}")


ORDER = """
hook("before_checkpoint", "pool")
hook("before_checkpoint", "cache")
hook("before_checkpoint", "first", priority=1)
hook("before_checkpoint", "last", priority=-1)
for kind in ("after_checkpoint", "after_restore"):
    hook(kind, kind + " pool")
    hook(kind, kind + " cache")
    hook(kind, kind + " last", priority=1)
    hook(kind, kind + " first", priority=-1)
"""
BEFORE = ["first", "cache", "pool", "last"]
RESTORED = [f"after_restore {name} restored" for name in ("first", "pool", "cache", "last")]
CONTINUED = [f"after_checkpoint {name} continued" for name in ("first", "pool", "cache", "last")]


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


# ---------------------------------------------------------------------------------------------------------- refusals


def refused(host: Host, subject: Subject, status: int, *words: str, options: tuple[str, ...] = ()) -> Outcome:
    before = {pid: untouched(pid) for pid in (subject.pid, *below(subject.pid))}
    outcome = host.dump(subject, *options)
    assert outcome.status == status, outcome
    for word in words:
        assert word in outcome.log, outcome
    assert {pid: untouched(pid) for pid in before} == before
    assert not list(host.images.iterdir())
    return outcome


def test_a_hook_refuses(host: Host) -> None:
    """All others are called all the same, and told that it is off; each error is in the message."""
    code = """
@pycriu.before_checkpoint
def never():
    raise ValueError("3 transactions are open")
@pycriu.before_checkpoint
def later():
    raise pycriu.NotNow("busy")
hook("before_checkpoint", "willing")
hook("after_checkpoint", "willing")
"""
    subject = start(host, code + COUNTING)
    refused(
        host, subject, 77, f"process {subject.pid}", "refuses to be saved",
        "later: busy; never: ValueError: 3 transactions are open",
    )  # fmt: skip
    assert since_ready(subject) == ["willing", "willing failed"]
    assert subject.go()[-1] == "end True"


def test_not_now_and_then_yes(host: Host) -> None:
    code = """
@pycriu.before_checkpoint
def later():
    if not os.path.exists("calm"):
        raise pycriu.NotNow("busy")
"""
    subject = start(host, code + COUNTING)
    refused(host, subject, 75, "asks to come again later: later: busy")
    (host.folder / "calm").touch()
    host.round_trip(subject)
    assert subject.go() == ["end True"]


def test_one_of_two_refuses(host: Host) -> None:
    code = """
hook("before_checkpoint", "willing")
hook("after_checkpoint", "willing")
if not (child := os.fork()):
    @pycriu.before_checkpoint
    def no():
        raise RuntimeError("no")
    open("child", "w").close()
    wait_for_go()
    os._exit(0)
while not os.path.exists("child"):
    time.sleep(0.01)
ready()
wait_for_go()
os.waitpid(child, 0)
say(pycriu.moment().why)
"""
    subject = start(host, code)
    child = below(subject.pid)[0]
    refused(host, subject, 77, f"process {child}")
    wait_until(lambda: since_ready(subject).count("willing failed") == 2, "both know that it is off")
    (said,) = subject.go()[-1:]
    assert f"process {child}" in said
    assert "RuntimeError: no" in said


def test_a_dump_that_fails_for_other_reasons_is_told(host: Host) -> None:
    """What hooks put away is not refused any more; what stays is, after they have been called."""
    code = """
from fcntl import flock, LOCK_EX, LOCK_UN
file = open("lock", "w")
flock(file, LOCK_EX)
@pycriu.before_checkpoint
def unlock():
    if os.path.exists("unlock"):
        flock(file, LOCK_UN)
hook("after_checkpoint", "after")
"""
    subject = start(host, code + COUNTING)
    refused(host, subject, 1, "--file-locks")
    wait_said(subject, "after failed")
    (host.folder / "unlock").touch()
    host.round_trip(subject)
    assert subject.go() == ["after failed", "end True"]


def test_a_connection_that_a_hook_closes(host: Host) -> None:
    code = """
import socket
peer = socket.create_connection(("127.0.0.1", int(open("port").read())))
@pycriu.before_checkpoint
def close():
    peer.close()
"""
    with socket.create_server(("127.0.0.1", 0)) as server:
        (host.folder / "port").write_text(str(server.getsockname()[1]))
        subject = start(host, code + COUNTING)
        peer, _ = server.accept()
        with peer:
            refused(host, subject, 1, "--tcp-established", options=("--hooks=skip",))
            host.round_trip(subject)
            assert peer.recv(1) == b""
    assert subject.go() == ["end True"]


LATE = """
@pycriu.before_checkpoint
def slow():
    time.sleep(3)
hook("after_checkpoint", "after")
hook("after_restore", "after")
"""


def test_it_has_only_so_much_time(host: Host) -> None:
    subject = start(host, LATE + COUNTING)
    outcome = refused(
        host, subject, 75, f"process {subject.pid}", "has not answered within 1 s", "its hook slow is not done",
        "--hooks=try", options=("--hook-timeout", "1"),
    )  # fmt: skip
    assert outcome.seconds < 3
    wait_said(subject, "after failed")
    assert subject.go()[-1] == "end True"


def test_a_hook_with_a_limit_of_its_own(host: Host) -> None:
    code = """
@pycriu.before_checkpoint(timeout=0.1)
def slow():
    time.sleep(0.3)
"""
    subject = start(host, code + COUNTING)
    refused(host, subject, 77, "slow: took 0.3 s, 0.1 s are allowed")
    assert subject.go() == ["end True"]


@pytest.mark.parametrize(("how", "said"), [("try", ["after restored"]), ("skip", ["after restored"])])
def test_whoever_does_not_answer_is_dumped_all_the_same(host: Host, how: str, said: list[str]) -> None:
    """With try, in the middle of its hook; with skip nobody has asked it, and the restore tells it nevertheless."""
    subject = start(host, LATE + COUNTING)
    dumped = host.dump(subject, f"--hooks={how}", "--hook-timeout", "1")
    assert dumped.ok, dumped
    assert ("is not waited for" in dumped.log) == (how == "try")
    restored = host.restore()
    assert restored.ok, restored
    assert since_ready(subject) == said
    assert subject.go()[-1] == "end True"


def test_one_that_has_lost_its_handler(host: Host) -> None:
    subject = start(host, 'hook("before_checkpoint", "a"); signal.signal(signal.SIGURG, signal.SIG_DFL)\n' + COUNTING)
    refused(host, subject, 77, "no longer handles signal 23")
    assert subject.go() == ["end True"]


def test_one_that_is_stopped(host: Host) -> None:
    subject = start(host, ORDER + COUNTING)
    os.kill(subject.pid, signal.SIGSTOP)
    wait_until(lambda: state(subject.pid) == "T", "it is stopped")
    outcome = host.dump(subject, "--hook-timeout", "1")
    assert outcome.status == 75, outcome
    assert "has not answered within 1 s: it is stopped" in outcome.log
    os.kill(subject.pid, signal.SIGCONT)
    assert subject.go()[-1] == "end True"


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


# ------------------------------------------------------------------------------------- where the main thread may be


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


# ---------------------------------------------------------------------------------------------------- other engines


def test_criu_restores_what_pycriu_has_dumped(host: Host, criu: interop.Tool) -> None:  # noqa: F811
    """CRIU tells nobody anything: the program, which stands and waits, finds out that it has been restored."""
    subject = start(host, ORDER + COUNTING)
    dumped = host.dump(subject)
    assert dumped.ok, dumped
    criu.restore(host.folder)
    wait_said(subject, *BEFORE, *RESTORED)
    again = host.dump(subject)
    assert again.ok, again
    assert host.restore().ok
    assert since_ready(subject) == (BEFORE + RESTORED) * 2
    assert subject.go()[-1] == "end True"


def test_pycriu_restores_what_criu_has_dumped(host: Host, criu: interop.Tool) -> None:  # noqa: F811
    """Nobody has asked the program; it is told of the restore."""
    subject = start(host, ORDER + COUNTING)
    criu.dump(host.folder, subject.pid)
    reap(subject.pid)
    restored = host.restore()
    assert restored.ok, restored
    assert since_ready(subject) == RESTORED
    assert subject.go()[-1] == "end True"
