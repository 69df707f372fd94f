# SPDX-License-Identifier: GPL-2.0-only
"""Hooks that do what no hook should: fork, exec, exit, raise what ends programs, wait for themselves, block signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.host.conftest import DEADLINE, Host, below, state, wait_until
from tests.host.hooked import COUNTING, since_ready, start, wait_said

WATCHED = """
hook("before_checkpoint", "before")
hook("after_checkpoint", "after")
hook("after_restore", "back")
"""
CATCHING = """
ready()
try:
    while not os.path.exists("go"):
        time.sleep(0.01)
except BaseException as error:
    say("raised", repr(error))
wait_for_go()
say("end")
"""
# Says when the dumper is between the answers of the programs and the freeze, and waits there.
SLOW_DUMPER = """
import os, sys, time, pycriu.dump
from pycriu.cli import main
preload = pycriu.dump.preload
def wait(*words):
    open("asked", "w").close()
    while not os.path.exists("freeze"): time.sleep(0.01)
    preload(*words)
pycriu.dump.preload = wait
main(sys.argv[1:])
"""


@pytest.mark.parametrize("error", ["KeyboardInterrupt()", "SystemExit(3)", "BaseException('x')"])
def test_what_ends_programs_is_raised_when_all_have_been_called(host: Host, error: str) -> None:
    """What other hooks have put away is put back before that."""
    code = f"""
@pycriu.before_checkpoint
def interrupted():
    if not os.path.exists("calm"): raise {error}
"""
    subject = start(host, WATCHED + code + CATCHING)
    outcome = host.dump(subject)
    assert outcome.status == 75, outcome
    assert f"asks to come again later: interrupted: {error.partition('(')[0]}" in outcome.log
    wait_said(subject, "before", "after failed", f"raised {error}")
    (host.folder / "calm").touch()
    host.round_trip(subject)
    assert subject.go()[-1] == "end"


def test_an_interrupt_while_it_stands(host: Host) -> None:
    """The dump has its program standing until it is done; then Ctrl-C has its effect."""
    subject = start(host, WATCHED + CATCHING)
    words = ("dump", "-t", str(subject.pid), "-D", str(host.images), "-R")
    with subprocess.Popen([sys.executable, "-c", SLOW_DUMPER, *words], cwd=host.folder) as dumper:
        wait_until((host.folder / "asked").exists, "its hooks have been called")
        os.kill(subject.pid, signal.SIGINT)
        wait_until(lambda: int(subject.status("ShdPnd"), 16) == 0, "it has had the signal")
        (host.folder / "freeze").touch()
        assert dumper.wait(DEADLINE) == 0
    wait_said(subject, "before", "after continued", "raised KeyboardInterrupt()")
    assert subject.go()[-1] == "end"
    (host.folder / "go").unlink()
    (host.folder / "out").write_text("ready\nbefore\n")  # as it was then
    assert host.restore("--file-validation", "filesize").ok
    wait_until(lambda: "back restored" in since_ready(subject), "so it is in the other life")
    assert subject.go()[-1] == "end"


def test_a_hook_that_ends_its_program(host: Host) -> None:
    subject = start(host, "hook('before_checkpoint', 'b')\npycriu.before_checkpoint(lambda: os._exit(3))\n" + COUNTING)
    outcome = host.run("dump", "-t", str(subject.pid), "-D", str(host.images))
    assert outcome.status == 1, outcome
    assert f"process {subject.pid} is a zombie: it has ended" in outcome.log
    assert not list(host.images.iterdir())


def test_a_hook_that_becomes_another_program(host: Host) -> None:
    """That one knows of nothing, and is dumped as any other."""
    code = """
@pycriu.before_checkpoint
def become():
    os.execv("/bin/sh", ["sh", "-c", "while ! [ -e go ]; do sleep 0.01; done; echo end"])
"""
    subject = start(host, code + COUNTING)
    host.round_trip(subject)
    assert subject.go() == ["end"]


def test_a_hook_that_forks(host: Host) -> None:
    """The child comes back from the hook, too: for it that was a checkpoint that has failed."""
    code = """
@pycriu.before_checkpoint
def twice():
    if not os.path.exists("forked"):
        open("forked", "w").close()
        os.fork()
"""
    subject = start(host, WATCHED + code + COUNTING)
    left = host.dump(subject, "-R")
    assert left.ok, left
    wait_until(lambda: len(since_ready(subject)) == 4, "both have called theirs")
    assert sorted(since_ready(subject)) == ["after continued", "after failed", "before", "before"]
    assert len(below(subject.pid)) == 1
    host.round_trip(subject)
    assert sorted(since_ready(subject)[4:]) == ["back restored", "back restored", "before", "before"]
    assert subject.go().count("end True") >= 1


def test_a_child_that_cannot_have_a_channel(host: Host) -> None:
    """It is not told, and a signal of somebody else's does not end it."""
    code = """
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
if not (child := os.fork()):
    signal.raise_signal(signal.SIGURG)
    say("child")
    wait_for_go()
    os._exit(0)
time.sleep(0.1)
"""
    subject = start(host, WATCHED + code + COUNTING)
    host.round_trip(subject)
    assert "child" in subject.said()
    assert since_ready(subject) == ["before", "back restored"]
    assert subject.go()[-1] == "end True"


@pytest.mark.parametrize("how", ["itself", "thread"])
def test_a_hook_that_asks_for_a_checkpoint(host: Host, how: str) -> None:
    code = """
import threading
def ask():
    try:
        say("inner", pycriu.checkpoint("inner").what)
    except RuntimeError as error:
        say("inner", error)
@pycriu.before_checkpoint
def recursive():
    if "%s" == "itself":
        ask()
    else:
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
"""
    subject = start(host, WATCHED + code % how + COUNTING)
    host.round_trip(subject)
    said = "a hook is called because of a checkpoint, and cannot ask for another" if how == "itself" else "failed"
    assert since_ready(subject) == [f"inner {said}", "before", "back restored"]
    assert subject.go()[-1] == "end True"


def test_a_checkpoint_out_of_a_critical_section(host: Host) -> None:
    code = """
ready()
try:
    with pycriu.critical_section():
        pycriu.checkpoint("images")
except RuntimeError as error:
    say(error)
try:
    pycriu.checkpoint("images", options=["--hooks", "skip"])
except ValueError as error:
    say(error)
wait_for_go()
"""
    assert start(host, WATCHED + code).go() == [
        "a checkpoint waits for the end of all critical sections, and this is in one",
        "--hooks=skip: it is by its hooks that a program hears of its checkpoint",
    ]


def test_one_that_is_registered_twice_is_called_twice(host: Host) -> None:
    subject = start(host, "def one(): say('one')\nfor _ in range(2): pycriu.before_checkpoint(one)\n" + COUNTING)
    host.round_trip(subject)
    assert subject.go() == ["one", "one", "end True"]


@pytest.mark.parametrize("where", ["program", "hook"])
def test_one_that_blocks_all_signals(host: Host, where: str) -> None:
    block = "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\n"
    code = "@pycriu.before_checkpoint\ndef block():\n    " + block if where == "hook" else block
    subject = start(host, WATCHED + code + COUNTING)
    if where == "hook":  # it stands, and looks for itself
        host.round_trip(subject)
        assert since_ready(subject) == ["before", "back restored"]
    outcome = host.dump(subject, "--hook-timeout", "1")
    assert outcome.status == 75, outcome
    assert "it blocks signal 23, by which it would hear of it" in outcome.log
    assert subject.go()[-1] == "end True"


def test_one_that_forgets_what_it_has_imported(host: Host) -> None:
    code = """
import gc
for name in [name for name in sys.modules if name.startswith("pycriu")]:
    del sys.modules[name]
gc.collect()
"""
    subject = start(host, WATCHED + code + COUNTING)
    host.round_trip(subject)
    assert subject.go() == ["before", "back restored", "end True"]


def test_one_that_has_given_up_its_rights(host: Host) -> None:
    host.folder.chmod(0o755)
    subject = start(host, WATCHED + "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n" + COUNTING)
    left = host.dump(subject, "-R")
    assert left.ok, left
    host.round_trip(subject)
    assert subject.go() == ["before", "after continued", "before", "back restored", "end True"]


def test_one_to_whom_proc_does_not_show_others(host: Host) -> None:
    """hidepid=2: whoever asks is there all the same."""
    host.folder.chmod(0o755)
    code = """
import ctypes, subprocess
ctypes.CDLL(None).unshare(0x20000)
subprocess.run(["mount", "--make-rslave", "/"], check=True)
subprocess.run(["mount", "-t", "proc", "-o", "hidepid=2", "proc", "/proc"], check=True)
os.setgroups([]); os.setgid(65534); os.setuid(65534)
"""
    subject = start(host, WATCHED + code + COUNTING)
    words = ["nsenter", "-t", str(subject.pid), "-m", "--wd=.", *host.command("dump", "-R", "-D", str(host.images))]
    done = subprocess.run(
        [*words, "-t", str(subject.pid)], check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done
    assert subject.go() == ["before", "after continued", "end True"]


@pytest.mark.parametrize("how", ["fork", "spawn", "forkserver"])
def test_children_of_multiprocessing(host: Host, how: str) -> None:
    code = f"""
import multiprocessing
def work(number):
    open("child", "w").close()
    wait_for_go()
    os._exit(number)
if __name__ == "__main__":
    child = multiprocessing.get_context("{how}").Process(target=work, args=(7,))
    child.start()
    while not os.path.exists("child"): time.sleep(0.01)
    ready()
    wait_for_go()
    child.join()
    say("end", child.exitcode)
"""
    subject = start(host, WATCHED + code)
    host.round_trip(subject)
    assert since_ready(subject) == ["before"] * 2 + ["back restored"] * 2
    assert subject.go()[-1] == "end 7"


def test_another_interpreter_of_the_same_process(host: Host) -> None:
    code = """
try:
    import _interpreters as interpreters
    run = interpreters.exec
except ImportError:
    import _xxsubinterpreters as interpreters
    run = interpreters.run_string
run(interpreters.create(), f'''
import sys
sys.path[:0] = {sys.path[:1]!r}
import pycriu
try:
    pycriu.listen()
except RuntimeError as error:
    with open("refused", "w") as file: file.write(str(error))
''')
"""
    subject = start(host, WATCHED + code + COUNTING)
    assert "the main thread of the main interpreter" in (host.folder / "refused").read_text()
    host.round_trip(subject)
    assert subject.go() == ["before", "back restored", "end True"]


# --------------------------------------------------------------------------------- what happens to whoever asks it


def test_a_dump_while_another_has_asked(host: Host) -> None:
    """The second says so, and does not disturb the first."""
    subject = start(host, WATCHED + COUNTING)
    words = ("dump", "-t", str(subject.pid), "-D", str(host.images), "-R")
    with subprocess.Popen([sys.executable, "-c", SLOW_DUMPER, *words], cwd=host.folder) as dumper:
        wait_until((host.folder / "asked").exists, "its hooks have been called")
        (host.folder / "second").mkdir()
        outcome = host.dump(subject, images=host.folder / "second")
        assert outcome.status == 75, outcome
        assert f"process {subject.pid} (python" in outcome.log
        assert "is being dumped by somebody else" in outcome.log
        (host.folder / "freeze").touch()
        assert dumper.wait(DEADLINE) == 0
    wait_said(subject, "before", "after continued")
    host.round_trip(subject)
    assert subject.go() == ["before", "after continued", "before", "back restored", "end True"]


def test_a_dumper_that_is_killed_before_the_freeze(host: Host) -> None:
    subject = start(host, WATCHED + COUNTING)
    words = ("dump", "-t", str(subject.pid), "-D", str(host.images))
    with subprocess.Popen([sys.executable, "-c", SLOW_DUMPER, *words], cwd=host.folder) as dumper:
        wait_until((host.folder / "asked").exists, "its hooks have been called")
        dumper.kill()
    wait_said(subject, "before", "after failed")
    host.round_trip(subject)
    assert subject.go()[-1] == "end True"


@pytest.mark.parametrize("signal_number", [0, 9, 19, 34, 1000, 0xFFFFFFFF])
def test_a_channel_with_a_signal_that_is_none(host: Host, signal_number: int) -> None:
    """It goes to nobody, neither at the dump nor at the restore, and both say so."""
    code = f"""
from pycriu.hooks import channel
from pycriu.hooks.listener import here
here.page.put(channel.SIGNAL, {signal_number})
"""
    subject = start(host, WATCHED + code + COUNTING)
    said = f"no longer handles signal {signal_number}, by which it would hear of"
    outcome = host.dump(subject)
    assert outcome.status == 77, outcome
    assert said in outcome.log
    assert host.dump(subject, "--hooks=skip").ok
    restored = host.restore()
    assert restored.ok, restored
    assert said in restored.log
    assert restored.seconds < 5
    assert subject.go() == ["end True"]


# What a program that means harm may write into its own channel, all the time and from another thread.
LIES = """
import random, threading
from pycriu.hooks import channel
from pycriu.hooks.listener import here
def lie():
    begin = time.monotonic()
    while time.monotonic() < begin + 5 and not os.path.exists("go"):
        for at in range(8, 64, 4):
            if at != channel.SIGNAL:
                here.page._map[at : at + 4] = random.randbytes(4)
        here.page._map[64:256] = b"\\x1b[31m\\n%s" * 21 + b"%n%"
        time.sleep(0)
thread = threading.Thread(target=lie)
thread.start()
"""


@pytest.mark.parametrize("seed", range(5))
def test_a_channel_full_of_lies(host: Host, seed: int) -> None:
    """The dump is refused, or not; it ends in time, says nothing that a terminal obeys, and the program goes on."""
    subject = start(host, WATCHED + LIES + f"random.seed({seed})\n" + COUNTING)
    outcome = host.dump(subject, "--hook-timeout", "1")
    assert outcome.status in (0, 75, 77), outcome
    assert "\x1b" not in outcome.log
    assert outcome.seconds < 10
    if outcome.ok:
        restored = host.restore("--hook-timeout", "1")
        assert restored.ok, restored
        assert restored.seconds < 10
    assert state(subject.pid) in ("R", "S")
    assert subject.go()[-1] == "end True"


def test_a_channel_that_is_gone(host: Host) -> None:
    """It is a program without hooks, then."""
    code = """
from pycriu.hooks.listener import here
at = next(int(line.partition("-")[0], 16) for line in open("/proc/self/maps") if "pycriu-hooks" in line)
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
assert not libc.munmap(at, 1 << 18)
here.page._map = None
"""
    subject = start(host, WATCHED + code + COUNTING)
    host.round_trip(subject)
    assert subject.go() == ["end True"]


def test_a_mapping_of_the_same_name_that_is_none(host: Host) -> None:
    code = """
fd = os.memfd_create("pycriu-hooks")
os.ftruncate(fd, 4096)
page = mmap.mmap(fd, 4096)
page[:12] = b"pycriuH1" + struct.pack("<I", os.getpid())
"""
    subject = start(host, code + COUNTING)
    outcome = host.dump(subject)
    assert outcome.status == 77, outcome
    assert "no longer handles signal 0" in outcome.log
    assert subject.go() == ["end True"]


def test_hooks_that_are_late_after_a_restore_are_told(host: Host) -> None:
    """The program runs, and the restore has succeeded; whoever waits for it hears that it is not ready."""
    code = "@pycriu.after_restore\ndef slow(): time.sleep(3)\n"
    subject = start(host, code + COUNTING)
    assert host.dump(subject).ok
    restored = host.restore("--hook-timeout", "1")
    assert restored.ok, restored
    assert "has not come to the end of its hooks within 1 s: its hook slow is not done" in restored.log
    assert subject.go() == ["end True"]
