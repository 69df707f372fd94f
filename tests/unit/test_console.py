# SPDX-License-Identifier: GPL-2.0-only
"""The console against real far ends: small programs that behave as guests, emulators and serial lines do."""

from __future__ import annotations

import fcntl
import itertools
import os
import re
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from layer.target import faults
from layer.target.console import Console, first_to_say
from layer.target.deadline import Deadline

SAMPLES = Path(__file__).parent / "samples" / "console"
FarEnd = Callable[..., Console]
DONE = re.compile(r"done\n")


@pytest.fixture
def far_end(tmp_path: Path) -> Iterator[FarEnd]:
    """Starts a Python program whose standard output is the far end of a console."""
    with ExitStack() as scope:

        def start(program: str, name: str = "serial", *, kernel: bool = True) -> Console:
            ours, theirs = socket.socketpair()
            with theirs:
                words = [sys.executable, "-u", "-c", f"import os, sys, time\n{program}"]
                process = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL)
            scope.callback(process.wait)
            scope.callback(process.kill)
            scope.enter_context(ours)
            console = Console(ours.fileno(), tmp_path / f"{name}.log", kernel=kernel)
            scope.callback(console.finish)
            console.ended = lambda: None if process.poll() is None else f"it ended with {process.returncode}"
            return console

        yield start


def test_a_pattern_is_found_behind_double_carriage_returns(far_end: FarEnd) -> None:
    console = far_end(r"os.write(1, b'one\r\r\ndone\r\r\n'); time.sleep(9)")
    console.wait(DONE, Deadline.after(5), "done")
    assert console.before == "one\n"


def test_a_character_cut_in_two_arrives_whole(far_end: FarEnd) -> None:
    program = r"e = 'é€'.encode(); [(os.write(1, e[i:i+1]), time.sleep(.05)) for i in range(5)]; os.write(1, b'done\n')"
    console = far_end(program + "; time.sleep(9)")
    console.wait(DONE, Deadline.after(5), "done")
    assert console.before == "é€"


def test_bytes_that_are_no_text_are_replaced(far_end: FarEnd) -> None:
    console = far_end(r"os.write(1, b'\xff\xfe ok done\n'); time.sleep(9)")
    console.wait(DONE, Deadline.after(5), "done")
    assert console.before == "\ufffd\ufffd ok "


def test_an_escape_sequence_cut_in_two_is_gone(far_end: FarEnd) -> None:
    console = far_end(r"os.write(1, b'a\x1b[6'); time.sleep(.2); os.write(1, b'nb\x1b[1;31mc done\n'); time.sleep(9)")
    console.wait(DONE, Deadline.after(5), "done")
    assert console.before == "abc "


def test_a_slow_line_is_waited_for_and_the_log_has_it_all(far_end: FarEnd) -> None:
    console = far_end(r"[(os.write(1, c.encode()), time.sleep(.02)) for c in 'slowly done\n']; time.sleep(9)")
    console.wait(DONE, Deadline.after(5), "done")
    assert console.log_path.read_text() == "slowly done\n"


def test_a_deadline_is_kept_while_output_goes_on(far_end: FarEnd) -> None:
    console = far_end(r"[(print('noise'), time.sleep(.01)) for _ in range(3000)]")
    console.wait(re.compile("noise\n"), Deadline.after(20), "noise")
    start = time.monotonic()
    with pytest.raises(faults.DeadlinePassed, match=r"the shell: nothing of it within 0\.5 s") as caught:
        console.wait(DONE, Deadline.after(0.5), "the shell")
    assert 0.4 < time.monotonic() - start < 10
    assert "| noise" in str(caught.value) and str(console.log_path) in str(caught.value)


def test_a_deadline_is_kept_although_the_wall_clock_goes_back(far_end: FarEnd, monkeypatch: pytest.MonkeyPatch) -> None:
    console = far_end(r"[(print('noise'), time.sleep(.01)) for _ in range(3000)]")
    moments = itertools.count(1_000_000_000.0, -3600)
    monkeypatch.setattr(time, "time", lambda: next(moments))
    start = time.monotonic()
    with pytest.raises(faults.DeadlinePassed):
        console.wait(DONE, Deadline.after(0.5), "done")
    assert time.monotonic() - start < 10


def test_what_came_while_we_were_not_let_run_is_no_missed_deadline(far_end: FarEnd) -> None:
    console = far_end(r"os.write(1, b'done\n'); time.sleep(60)")  # print() writes the end of the line by itself
    deadline = Deadline.after(0)
    end = time.monotonic() + 20
    while struct.unpack("i", fcntl.ioctl(console.child_fd, termios.FIONREAD, bytes(4)))[0] < len("done\n"):
        assert time.monotonic() < end, "the end of the line comes behind its words"
        time.sleep(0.001)
    console.wait(DONE, deadline, "done")


def test_a_panic_in_the_middle_of_output_ends_the_wait_with_its_trace(far_end: FarEnd) -> None:
    log = SAMPLES / "panic.txt"
    program = f"os.write(1, b'output of a comm' + open({str(log)!r}, 'rb').read()); time.sleep(.2); print('last words')"
    console = far_end(program + "; time.sleep(30)")
    start = time.monotonic()
    with pytest.raises(faults.KernelPanic, match="Attempted to kill init") as caught:
        console.wait(DONE, Deadline.after(30), "done")
    assert time.monotonic() - start < 10
    assert "last words" in str(caught.value), "what the kernel says after the first line belongs to the report"


def test_a_panic_on_the_other_line_ends_a_wait_on_this_one(far_end: FarEnd) -> None:
    shell = far_end("time.sleep(30)", "shell", kernel=False)
    serial = far_end("time.sleep(.3); print('[    1.000000] Kernel panic - not syncing: VFS'); time.sleep(30)")
    shell.watched = (serial,)
    start = time.monotonic()
    with pytest.raises(faults.KernelPanic):
        shell.wait(DONE, Deadline.after(30), "done")
    assert time.monotonic() - start < 5


def test_an_oops_that_turns_into_a_panic_is_a_panic(far_end: FarEnd) -> None:
    program = "print('[    1.000000] Oops: 0002 [#1]'); time.sleep(.2);"
    console = far_end(program + "print('[    1.200000] Kernel panic - not syncing: Fatal exception'); time.sleep(30)")
    with pytest.raises(faults.KernelPanic):
        console.wait(DONE, Deadline.after(30), "done")


def test_words_on_a_command_line_are_no_panic(far_end: FarEnd) -> None:
    console = far_end("print('Kernel panic - not syncing: quoted'); print('done'); time.sleep(9)", kernel=False)
    console.wait(DONE, Deadline.after(5), "done")


def test_the_end_of_the_emulator_is_noticed_at_once_with_what_it_said(far_end: FarEnd) -> None:
    console = far_end("print('starting'); time.sleep(.2); sys.exit(3)")
    start = time.monotonic()
    with pytest.raises(faults.QemuDied, match="it ended with 3") as caught:
        console.wait(DONE, Deadline.after(30), "done")
    assert time.monotonic() - start < 5
    assert "| starting" in str(caught.value)


def test_a_line_that_is_closed_by_a_living_process_says_so(far_end: FarEnd) -> None:
    console = far_end("os.close(0); os.close(1); time.sleep(30)")
    with pytest.raises(faults.ConsoleClosed, match="the shell: the line was closed"):
        console.wait(DONE, Deadline.after(10), "the shell")


def test_an_emulator_that_leaves_after_a_panic_panicked(far_end: FarEnd) -> None:
    console = far_end("print('[    1.000000] Kernel panic - not syncing: x'); sys.exit(0)")
    with pytest.raises(faults.KernelPanic):
        console.wait(DONE, Deadline.after(10), "done")


def test_the_last_forty_lines_are_shown(far_end: FarEnd) -> None:
    console = far_end("[print(f'line {n}') for n in range(100)]; print('[    1.000000] Oops: 1 [#1]'); time.sleep(30)")
    with pytest.raises(faults.KernelOops) as caught:
        console.wait(DONE, Deadline.after(10), "done")
    shown = re.findall(r"\| (.*)", str(caught.value))
    assert len(shown) == faults.TAIL and shown[0] == "line 61" and shown[-1].endswith("Oops: 1 [#1]")


def test_whichever_line_says_the_word_first_is_taken(far_end: FarEnd) -> None:
    serial = far_end("time.sleep(30)")
    shell = far_end("time.sleep(.1); print('guest ready: xyz'); time.sleep(30)", "shell", kernel=False)
    assert first_to_say((serial, shell), "guest ready: xyz", Deadline.after(10), "the guest's shell") is shell


def test_an_emulator_that_ends_before_it_says_the_word_ends_the_wait(far_end: FarEnd) -> None:
    start = time.monotonic()
    with pytest.raises(faults.QemuDied, match="it ended with 1"):
        first_to_say((far_end("sys.exit(1)"),), "ready", Deadline.after(20), "the guest's shell")
    assert time.monotonic() - start < 5


def test_a_mark_that_never_comes_is_a_passed_deadline(far_end: FarEnd) -> None:
    with pytest.raises(faults.DeadlinePassed, match="the guest's shell"):
        first_to_say((far_end("time.sleep(30)"),), "ready", Deadline.after(0.3), "the guest's shell")


def test_a_large_result_is_read_in_time(far_end: FarEnd) -> None:
    console = far_end("[os.write(1, b'x' * 79 + b'\\n') for _ in range(50000)]; print('done'); time.sleep(9)")
    console.wait(DONE, Deadline.after(20), "done", window=64)
    assert len(console.before or "") == 50000 * 80
    assert os.path.getsize(console.log_path) >= 50000 * 80
