# SPDX-License-Identifier: GPL-2.0-only
"""Terminals as people use them: a job of a shell on this test's terminal, a shell on a terminal of the tree."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pycriu.kernel import terminal, typeahead
from tests.host.conftest import alive, below, state, wait_until
from tests.host.programs import PROMPT, Shell

if TYPE_CHECKING:
    from tests.host.conftest import Host

LISTENER = """
import os, signal, sys
signal.signal(signal.SIGWINCH, lambda *a: print("size", *os.get_terminal_size(0), flush=True))
signal.signal(signal.SIGINT, lambda *a: print("interrupted", flush=True))
print("pid", os.getpid(), "has begun", flush=True)
for line in sys.stdin:
    print("got", line.strip(), "foreground" if os.tcgetpgrp(0) == os.getpgrp() else "background", flush=True)
print("end of file", flush=True)
"""


# Numbers of pseudo terminals that others on this machine do not take meanwhile: run first, and `low()` at the end.
HIGH = """
import pty
held = [os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY) for _ in range(20 + os.getpid() % 50)]
def low():
    for fd in held: os.close(fd)
"""


@pytest.fixture
def shell(host: Host) -> Iterator[Shell]:
    one = Shell(host.folder, term="dumb")
    yield one
    one.close()


def start_listener(host: Host, shell: Shell) -> int:
    (host.folder / "listener.py").write_text(LISTENER)
    shell.type(f"{sys.executable} -IS listener.py")
    return int(shell.expect(r"pid (\d+) has begun")[1])


def dump(host: Host, pid: int, *words: str) -> object:
    return host.run("dump", "-t", str(pid), "-D", str(host.images), *words)


def test_a_job_of_this_shell_becomes_a_job_of_that_shell(host: Host, shell: Shell) -> None:
    """Keys, stops, the window, and who is in the foreground: as if the other shell had started it."""
    pid = start_listener(host, shell)
    shell.type("one")
    shell.expect("got one foreground")
    outcome = host.run("dump", "-t", str(pid), "-D", str(host.images))
    assert not outcome.ok
    assert "add --shell-job" in outcome.log
    outcome = host.run("dump", "-t", str(pid), "-D", str(host.images), "--shell-job")
    assert outcome.ok, outcome
    shell.expect("Killed")
    shell.bash.close(force=True)
    other = Shell(host.folder)
    other.bash.setwinsize(40, 90)
    other.type(f"{sys.executable} -m pycriu restore -D images --shell-job")
    other.expect("size 90 40")
    other.type("two")
    other.expect("got two foreground")
    other.bash.sendintr()
    other.expect("interrupted")
    other.bash.sendcontrol("z")
    other.expect("Stopped")
    other.expect(PROMPT)
    assert state(pid) == "T"
    other.type("fg")
    other.expect("restore")
    wait_until(lambda: state(pid) == "S", "it goes on")
    other.type("three")
    other.expect("got three foreground")
    other.bash.sendcontrol("d")
    other.expect("end of file")
    other.expect(PROMPT)
    other.type("echo status $?")
    other.expect("status 0")
    other.bash.close(force=True)


def test_settings_of_the_terminal_come_along(host: Host, shell: Shell) -> None:
    """A program that has made its terminal raw finds it raw, and the shell has its own settings when it is gone."""
    (host.folder / "raw.py").write_text(
        "import os, termios, tty\nbefore = termios.tcgetattr(0)\ntty.setcbreak(0)\n"
        "print('pid', os.getpid(), 'has begun')\nwhile (key := os.read(0, 1)) != b'q':\n"
        "    print('key', key.decode(), 'echo', bool(termios.tcgetattr(0)[3] & termios.ECHO))\n"
        "termios.tcsetattr(0, 0, before)\n"
    )
    shell.type(f"{sys.executable} -IS raw.py")
    pid = int(shell.expect(r"pid (\d+) has begun")[1])
    assert host.run("dump", "-t", str(pid), "-D", str(host.images), "--shell-job").ok
    shell.expect(PROMPT)
    shell.type(f"{sys.executable} -m pycriu restore -D images --shell-job")
    wait_until(lambda: state(pid) == "S", "it is back")
    shell.bash.send("x")
    shell.expect("key x echo False")
    shell.bash.send("q")
    shell.expect(PROMPT)
    shell.type("stty -a")
    shell.expect(r"\sicanon")
    shell.expect(r"\secho\s")


def test_restore_without_a_terminal_is_refused(host: Host, shell: Shell) -> None:
    pid = start_listener(host, shell)
    assert host.run("dump", "-t", str(pid), "-D", str(host.images), "--shell-job").ok
    without = host.restore()
    assert not without.ok
    assert "add --shell-job" in without.log
    nowhere = host.restore("--shell-job")
    assert not nowhere.ok
    assert "none to take its place" in nowhere.errors()
    assert state(pid) is None


def test_a_shell_on_a_terminal_of_the_tree(host: Host) -> None:
    """A terminal program with bash inside: jobs, a pipeline half done, a line half typed, history of the shell."""
    keeper = host.python(
        HIGH + "import select\nopen('screen', 'w').close()\npid, master = pty.fork()\nlow()\n"
        "if not pid:\n    os.environ.update(PS1='ready> ', TERM='dumb')\n"
        "    os.execvp('bash', ['bash', '--norc', '--noprofile', '-i'])\n"
        "ready()\nlog = open('screen', 'wb', buffering=0)\nkeys = 0\n"
        "while True:\n    if select.select([master], [], [], 0.01)[0]:\n        try: log.write(os.read(master, 4096))\n"
        "        except OSError: break\n"
        "    if os.path.exists('keys'):\n        typed = open('keys', 'rb').read()\n        os.unlink('keys')\n"
        "        os.write(master, typed)\nos.waitpid(pid, 0)\nsay('over')\n"
    )  # fmt: skip
    screen = host.folder / "screen"

    def type_(text: str) -> None:
        (host.folder / "keys.new").write_text(text)
        (host.folder / "keys.new").rename(host.folder / "keys")
        wait_until(lambda: not (host.folder / "keys").exists(), "typed")

    def shows(text: str) -> None:
        wait_until(lambda: text in screen.read_text(), f"{text!r} on the screen: {screen.read_text()[-500:]!r}")

    shows("ready> ")
    type_("mark=before; sleep 1000 & cat | tr a-z A-Z | sed s/^/:/\n")
    shows("sed s/^/:/")
    type_("half a ")
    wait_until(lambda: "half a " in screen.read_text(), "echo")
    host.round_trip(keeper)
    type_("line\n\x04")
    shows(":HALF A LINE")
    type_("echo $mark $((40+2)); jobs; kill %1; wait\n")
    shows("before 42")
    shows("Running                 sleep 1000")
    type_("sleep 1000\n")
    time.sleep(0.2)
    host.round_trip(keeper)
    type_("\x1a")
    shows("Stopped                 sleep 1000")
    type_("bg; kill %%; history | tail -1; exit\n")
    shows("history | tail -1; exit")
    keeper.wait_for("over")


@pytest.mark.parametrize("option", [(), ("--shell-job",)], ids=["without", "with"])
def test_a_session_whose_terminal_is_held_outside(host: Host, option: tuple[str, ...]) -> None:
    """Its leader is in the tree, the other end of its terminal is not."""
    ours, theirs = pty.openpty()
    subject = host.python(f"x = os.open({os.ttyname(theirs)!r}, os.O_RDWR)\npause_for_dump()\nsay('ok', os.ttyname(x))")
    outcome = host.refused(subject, os.ttyname(theirs), "outside", options=option)
    assert "add --shell-job" in outcome.log or option
    assert subject.go() == [f"ok {os.ttyname(theirs)}"]
    os.close(ours)
    os.close(theirs)


def test_the_number_of_a_terminal_is_taken(host: Host) -> None:
    """The message names who has it; when that is gone, all is well."""
    subject = host.python(
        "import pty\nmany = [pty.openpty() for _ in range(30)]\nx = many.pop()\n"
        "for pair in many: os.close(pair[0]), os.close(pair[1])\n"
        "say(os.ttyname(x[1]))\npause_for_dump()\nsay(os.ttyname(x[1]))"
    )
    name = subject.said()[0]
    assert host.dump(subject).ok
    taken = []
    while not taken or os.ttyname(taken[-1][1]) != name:
        taken.append(pty.openpty())
        assert len(taken) < 90
    outcome = host.restore()
    assert not outcome.ok
    assert f"{name} is in use by process {os.getpid()}" in outcome.errors()
    for pair in taken:
        for fd in pair:
            os.close(fd)
    assert host.restore().ok
    assert subject.go() == [name]


def test_a_killed_dumper_leaves_what_waits(host: Host) -> None:
    """SIGKILL at any moment of the dump: lines and a half line wait in the terminal as before."""
    subject = host.python(
        HIGH + "import select, termios\nm, s = pty.openpty()\nlow()\nos.write(m, b'one\\ntwo\\x04half')\n"
        "time.sleep(0.2)\nos.write(s, b'out')\n"
        "time.sleep(0.1)\nbefore = termios.tcgetattr(s)\npause_for_dump()\nread = []\nos.write(m, b' done\\n')\n"
        "time.sleep(0.1)\nwhile select.select([s], [], [], 0)[0]: read.append(os.read(s, 100))\n"
        "say(read, os.read(m, 100), termios.tcgetattr(s) == before)"
    )
    whole = host.run("dump", "-R", "-t", str(subject.pid), "-D", str(host.images)).seconds
    for step in range(12):
        process = subprocess.Popen(
            host.command("dump", "-R", "-t", str(subject.pid), "-D", str(host.images)), cwd=host.folder,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(whole * (0.4 + 0.05 * step))
        process.kill()
        process.wait()
    wait_until(lambda: subject.status("TracerPid") == "0", "nobody traces it")
    time.sleep(0.1)
    assert subject.go() == ["[b'one\\n', b'two', b'half done\\n'] b'one\\r\\ntwohalfout done\\r\\n' True"]


def test_nothing_is_warned_of() -> None:
    """Python warns of numbers that are no signals, and where warnings are errors that is the end."""
    master, slave = pty.openpty()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert [one.size for one in typeahead.look([master])] == [0]
            fd = terminal.open_alias(master, os.O_RDWR)
        assert os.fstat(fd).st_rdev == os.makedev(5, 0)
        os.close(fd)
    finally:
        os.close(master)
        os.close(slave)


def test_another_line_discipline_is_refused(host: Host) -> None:
    subject = host.python(
        "import pty, termios\nm, s = pty.openpty()\ntry: fcntl.ioctl(s, 0x5423, struct.pack('i', 3))\n"
        "except OSError as e: lacks('a line discipline but N_TTY', e)\npause_for_dump()\nsay('ok')"
    )  # fmt: skip
    host.refused(subject, "line discipline 3", "N_TTY")
    assert subject.go() == ["ok"]


def test_no_echo_of_what_is_put_back(host: Host) -> None:
    """Dumps that leave the tree running do not make it see its input again."""
    subject = host.python(
        "import pty\nm, s = pty.openpty()\nos.write(m, b'typed\\n')\ntime.sleep(0.1)\npause_for_dump()\n"
        "say(os.read(s, 100), os.read(m, 100))"
    )
    for _ in range(3):
        assert host.dump(subject, "-R").ok
    assert subject.go() == ["b'typed\\n' b'typed\\r\\n'"]


def test_input_that_is_told_by_a_signal(host: Host) -> None:
    subject = host.python(
        HIGH + "m, s = pty.openpty()\nlow()\ncaught = []\nsignal.signal(29, lambda *a: caught.append(29))\n"
        "fcntl.fcntl(s, fcntl.F_SETOWN, os.getpid())\nfcntl.fcntl(s, fcntl.F_SETFL, os.O_RDWR | os.O_ASYNC)\n"
        "pause_for_dump()\nbefore = len(caught)\nos.write(m, b'line\\n')\ntime.sleep(0.2)\n"
        "say(before, len(caught) > 0, os.read(s, 10))"
    )
    host.round_trip(subject)
    assert subject.go() == ["0 True b'line\\n'"]


def nobody_is_left() -> bool:
    """Whether all of our children have ended; they are reaped."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return True
    return False


def both_run(pid: int) -> bool:
    """Whether a process and its child run, and nobody else is below us: the restore was killed when it was through."""
    pids = below(os.getpid())
    try:
        traced = [Path(f"/proc/{one}/status").read_text().partition("TracerPid:\t")[2][:2] != "0\n" for one in pids]
    except FileNotFoundError:
        return False
    return len(pids) == 2 and pid in pids and all(alive(one) for one in pids) and not any(traced)


def test_a_killed_restore_leaves_no_terminal(host: Host) -> None:
    """SIGKILL at any moment: nobody is left, nothing has the terminal, and the next restore does it."""
    subject = host.python(
        HIGH + "pid, m = pty.fork()\nlow()\nif not pid:\n    t = os.open('/dev/tty', os.O_RDWR)\n"
        "    os.write(1, b'here')\n"
        "    wait_for_go()\n    os._exit(os.tcgetpgrp(t) == os.getpid() and os.read(t, 10) == b'half a lin')\n"
        "time.sleep(0.2)\nos.write(m, b'half a ')\npause_for_dump()\n"
        "os.write(m, b'line\\n')\nsay(os.read(m, 4), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    )
    assert host.dump(subject).ok
    for step in range(12):
        process = subprocess.Popen(
            host.command("restore", "-d", "-D", str(host.images)), cwd=host.folder,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(0.03 + 0.012 * step)
        process.kill()
        if process.wait() == 0:
            break
        wait_until(lambda: nobody_is_left() or both_run(subject.pid), "nobody is left, or both run")
        time.sleep(0.1)  # whom a guard has killed may take its time to go
        if both_run(subject.pid):
            break
        wait_until(nobody_is_left, "nobody is left")
    else:
        outcome = host.restore()
        assert outcome.ok, outcome
    assert subject.go() == ["b'here' 1"]
