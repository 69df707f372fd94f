# SPDX-License-Identifier: GPL-2.0-only
"""A dumper that is killed outright, before each of its ptrace requests in turn: the application must not notice.

A tracer that dies leaves its tracee where it stands, which may be in the middle of a call that it makes for the tracer.
See pycriu/tracing/home.py for why it finds back.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from pycriu.dump import dump
from pycriu.kernel import ptrace
from pycriu.log import Log
from pycriu.options import DumpOptions
from tests.host.conftest import DEADLINE, Host, Subject, alive, wait_until

BUSY = """
signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGUSR1, signal.SIGRTMIN + 3})
ready()
turns, wrong = 0, 0
while not os.path.exists("go"):
    x = 1.0
    for i in range(1, 2000):
        x = (x * 1.0000001 + i) / 1.0000001 - i + 1e-9 * (i % 3)
    first = x if turns == 0 else first
    wrong += x != first
    turns += 1
    if turns % 40 == 0:
        say("turn", turns)
say("wrong", wrong, "mask", sorted(int(s) for s in signal.pthread_sigmask(signal.SIG_BLOCK, ())))
"""

ASLEEP = """
signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGUSR1, signal.SIGRTMIN + 3})
ready()
turns, early = 0, 0
while not os.path.exists("go"):
    begin = time.monotonic()
    libc.usleep(30000)
    early += time.monotonic() - begin < 0.03
    turns += 1
    say("turn", turns)
say("wrong", early, "mask", sorted(int(s) for s in signal.pthread_sigmask(signal.SIG_BLOCK, ())))
"""

# Under a filter that answers some of what it has to call for a dump with an errno (rt_sigaction, prctl, getitimer).
FILTERED = """
code = struct.pack("HBBI", 0x20, 0, 0, 0)
for n in (13, 157, 36):
    code += struct.pack("HBBI", 0x15, 0, 1, n) + struct.pack("HBBI", 6, 0, 0, 0x50001)
code += struct.pack("HBBI", 6, 0, 0, 0x7fff0000)
program = ctypes.create_string_buffer(code, len(code))
fprog = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(program)), 16)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.syscall(317, 1, 0, fprog) == 0
assert libc.prctl(38, 1, 0, 0, 0) == -1
"""

# Three threads, of which two sleep in C (a handler, which runs often, must not find its stack or registers changed) and
# one computes; each has a mask and an alternate stack of its own.
THREADED = """
import threading
signal.signal(signal.SIGALRM, lambda *a: None)
signal.setitimer(signal.ITIMER_REAL, 0.003, 0.003)
kept = [signal.SIGUSR1, signal.SIGRTMIN + 3]
problems = []
def compute():
    x = 1.0
    for i in range(1, 300):
        x = (x * 1.0000001 + i) / 1.0000001 - i + 1e-9 * (i % 3)
    return x
right = compute()
def nap():
    begin = time.monotonic()
    while libc.usleep(3000): pass
    return 0.0
def work(number, act, wanted):
    signal.pthread_sigmask(signal.SIG_SETMASK, {*kept, signal.SIGRTMIN + 4 + number})
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    stack = ctypes.create_string_buffer(32768)
    libc.sigaltstack(struct.pack("QiiQ", ctypes.addressof(stack), 0, 0, 32768), None)
    turns = 0
    while not os.path.exists("go"):
        if act() != wanted:
            problems.append(f"{number}: a wrong result")
        if signal.pthread_sigmask(signal.SIG_BLOCK, ()) != mask:
            problems.append(f"{number}: another mask")
        turns += 1
        if turns % 3 == 0:
            say("turn", number, turns)
    now = ctypes.create_string_buffer(24)
    libc.sigaltstack(None, now)
    if struct.unpack("QiiQ", now.raw)[0] != ctypes.addressof(stack):
        problems.append(f"{number}: another stack")
threads = [threading.Thread(target=work, args=(n, *one)) for n, one in enumerate([(compute, right), (nap, 0.0)])]
for one in threads: one.start()
ready()
signal.pthread_sigmask(signal.SIG_SETMASK, kept)
while not os.path.exists("go"):
    libc.usleep(2000)
for one in threads: one.join()
say(*problems[:3])
say("wrong", len(problems), "mask", sorted(int(s) for s in signal.pthread_sigmask(signal.SIG_BLOCK, ())))
"""

FINE = f"wrong 0 mask {sorted((int(signal.SIGUSR1), int(signal.SIGRTMIN) + 3))}"


def dump_and_die(pid: int, images: Path, *, before: int) -> int:
    """Dump in a process of its own that is killed before its ptrace request number `before`; its wait status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    status = 1
    try:
        kill_before(before)
        options = DumpOptions(pid=pid, images_dir=str(images), work_dir=str(images), leave_running=True)
        with open(os.devnull, "w") as nowhere:
            dump(options, Log(1, nowhere.fileno()))
        status = 0
    finally:
        os._exit(status)


def deaths(subject: Subject, images: Path) -> Iterator[int]:
    """Dumps, each killed before a later request, whose number this is, until one lives to do its work."""
    for number in count(1):
        status = dump_and_die(subject.pid, images, before=number)
        if os.WIFEXITED(status):
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        yield number
    assert os.WEXITSTATUS(status) == 0, "the dump that nobody killed failed"
    assert number > 20, f"only {number - 1} requests were tried"


def kill_before(number: int) -> None:
    """Make the real ptrace(2) wrapper count, and kill this process before request `number`."""
    real: Callable[..., int] = ptrace._ptrace  # the one place through which every request goes
    left = [number]

    def counting(*arguments: int) -> int:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)

    ptrace._ptrace = counting


def goes_on(subject: Subject) -> None:
    """It is nobody's tracee, and its work advances."""
    wait_until(lambda: subject.status("TracerPid") == "0", "still traced")
    before = len(subject.said())
    workers = {line.split()[1] for line in subject.said() if line.startswith("turn") and len(line.split()) == 3}

    def advanced() -> bool:
        new = [line.split() for line in subject.said()[before:]]
        return bool(new) and workers <= {line[1] for line in new}

    wait_until(lambda: advanced() or not alive(subject.pid), "no more turns", DEADLINE)
    assert alive(subject.pid), f"the application died: {subject.said()[-3:]}"


@pytest.mark.parametrize(
    "program",
    [BUSY, ASLEEP, FILTERED + ASLEEP, THREADED],
    ids=["busy", "asleep", "under a filter", "threads"],
)
def test_application_survives_a_kill_before_any_request(host: Host, program: str) -> None:
    survives(host, host.python(program))


def test_a_program_on_a_stack_of_its_own_survives(host: Host, compiled: Callable[[str], str]) -> None:
    """There is no room for a frame below its stack pointer."""
    survives(host, host.start(compiled("ownstack")), "wrong 0")


def survives(host: Host, subject: Subject, fine: str = FINE) -> None:
    """Dump it again and again, each time killed one request later."""
    for _ in deaths(subject, host.images):
        goes_on(subject)
    time.sleep(0.05)
    assert subject.go()[-1] == fine
