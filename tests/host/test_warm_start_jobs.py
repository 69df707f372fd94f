# SPDX-License-Identifier: GPL-2.0-only
"""Warm starts as jobs: signals, stops, terminals; whoever looks at the process that he has started sees the program."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.host.conftest import DEADLINE, alive, children, wait_until
from tests.host.warmth import APP, Starts, starts

__all__ = ["starts"]

# Says each signal that comes, and ready.
WAITING = (
    APP.replace("report()\n", "")
    + """
import signal, time
for number in {*signal.valid_signals()} - {1, 9, 11, 15, 17, 19, 20, 2}:
    signal.signal(number, lambda number, _: os.write(1, f"got {number}\\n".encode()))
try:
    os.write(1, f"ready {os.getpid()}\\n".encode())
    while True: time.sleep(0.05)
except KeyboardInterrupt:
    os.write(1, b"interrupted\\n")
    time.sleep(0.3)  # a second one would be an error
    sys.exit(5)
"""
)


def ready(process: subprocess.Popen[str]) -> int:
    """The PID of the program, once it says that it runs."""
    assert process.stdout is not None
    return int(process.stdout.readline().split()[1])


@contextmanager
def waiting(starts: Starts, **options: object) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A restored program that waits, and its PID."""
    starts.write("app.py", WAITING)
    first = starts.popen("app.py")
    ready(first)
    first.terminate()
    first.communicate()
    process = starts.popen("app.py", **options)
    pid = ready(process)
    assert children(process.pid) == [pid], starts.why_not()
    try:
        yield process, pid
    finally:
        process.kill()
        process.communicate()


def state(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(") ")[2][0]


def test_all_signals(starts: Starts) -> None:
    with waiting(starts) as (process, _):
        assert process.stdout is not None
        for number in (3, 6, 10, 12, 13, 14, 23, 24, 27, 28, 29, 30, 34, 40, 64):
            process.send_signal(number)
            assert process.stdout.readline() == f"got {number}\n"


def test_it_is_stopped_and_goes_on(starts: Starts) -> None:
    """By a signal to the process that is known; by one to the program itself, such as its own.

    In a group of its own: in one whose parents are all in other sessions, as ours may be, the kernel stops nobody.
    """
    with waiting(starts, process_group=0) as (process, pid):
        for target, number in ((process.pid, signal.SIGTSTP), (pid, signal.SIGSTOP)):
            os.kill(target, number)
            wait_until(lambda: state(pid) == state(process.pid) == "T", "both are stopped")
            process.send_signal(signal.SIGCONT)
            wait_until(lambda: "T" not in state(pid) + state(process.pid), "both go on")


def test_below_timeout(starts: Starts) -> None:
    """It, too, ends."""
    with waiting(starts):
        pass
    command = ["timeout", "0.7", sys.executable, "app.py"]
    done = subprocess.run(
        command, cwd=starts.folder, env=starts.environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert done.returncode == 124
    pids = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("ready")]
    wait_until(lambda: not any(alive(pid) for pid in pids), "it has ended")


class Shell:
    """bash with job control on a terminal."""

    def __init__(self, starts: Starts) -> None:
        pid, self._leader = pty.fork()
        if not pid:
            os.chdir(starts.folder)
            os.execvpe("bash", ["bash", "--norc", "--noediting", "-i"], starts.environment(PS1="$ "))
        self._pid, self.said = pid, ""

    def type(self, text: str) -> None:
        os.write(self._leader, text.encode())

    def expect(self, text: str) -> None:
        """What is on the screen behind all that was expected before."""
        end = time.monotonic() + DEADLINE
        while text not in self.said:
            left = end - time.monotonic()
            if left < 0 or not select.select([self._leader], [], [], left)[0]:
                raise AssertionError(f"no {text!r} in {self.said!r}")
            self.said += os.read(self._leader, 4096).decode(errors="replace")
        self.said = self.said.partition(text)[2]

    def wait_for_job(self) -> None:
        """Until keys are for its job, no longer for itself."""
        wait_until(lambda: os.tcgetpgrp(self._leader) != self._pid, "the job in the foreground")

    def close(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.close(self._leader)
        os.waitpid(self._pid, 0)


def test_job_control(starts: Starts) -> None:
    """Ctrl-Z, fg, bg, Ctrl-C in an interactive shell: as with any program."""
    with waiting(starts):
        pass
    shell = Shell(starts)
    try:
        shell.type(f"{sys.executable} app.py\n")
        shell.expect("ready ")
        for again in ("fg\n", "bg\nfg\n"):
            shell.type("\x1a")
            shell.expect("Stopped")
            shell.type("echo $?\n")
            shell.expect("148")  # 128 + SIGTSTP
            shell.type(again)
            shell.expect("got 18")
            shell.wait_for_job()
        shell.type("\x1c")
        shell.expect("got 3")
        shell.type("\x03")
        shell.expect("interrupted")
        shell.type("\necho ended $?\n")
        shell.expect("ended 5")
    finally:
        shell.close()


def test_at_the_end_of_its_terminal(starts: Starts) -> None:
    """SIGHUP ends the program with the process that is known."""
    with waiting(starts):
        pass
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        ["setsid", "-c", "-w", sys.executable, "app.py"], cwd=starts.folder, env=starts.environment(), stdin=follower,
        stdout=follower, stderr=follower,
    )  # fmt: skip
    os.close(follower)
    pid = int(os.read(leader, 4096).split()[1])
    os.close(leader)
    assert process.wait(DEADLINE) in (-signal.SIGHUP, 128 + signal.SIGHUP, 129)
    wait_until(lambda: not alive(pid), "it has ended")
