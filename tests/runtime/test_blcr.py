# SPDX-License-Identifier: GPL-2.0-only
"""BLCR's commands on a target: a program is saved and goes on, comes back from a file and a pipe, and saves itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from layer.target import guest

FOLDER = "/tmp/blcr"
COUNTER = b"n=0; until [ -e finish ]; do echo $n; n=$((n+1)); sleep 0.2; done; exit 7\n"
# Is saved with all that it has started, itself and the cr_checkpoint among them; its child does not end before that.
OUTER = b"""
import os, subprocess, time
child = os.fork()
if not child:
    for number in range(16):
        print(number, "Hello", flush=True)
        time.sleep(0.1)
        while number == 7 and not os.path.exists("finish"):
            time.sleep(0.1)
    os._exit(0)
time.sleep(1)
subprocess.run(["cr_checkpoint", "--file=whole", "--term", str(os.getpid())], check=True)
os.wait()
print("16 DONE", flush=True)
"""


@pytest.fixture(scope="module", autouse=True)
def folder(target: guest.Guest) -> Iterator[None]:
    target.shell.run(f"mkdir {FOLDER}")
    target.shell.put(f"{FOLDER}/counter.sh", COUNTER)
    target.shell.put(f"{FOLDER}/outer.py", OUTER)
    yield
    target.shell.run(f"rm -rf {FOLDER}")


def run(target: guest.Guest, words: str, timeout: float = 120) -> str:
    """What a line says, in the folder."""
    return target.shell.run(f"cd {FOLDER}; {words}", timeout=timeout).out


def started(target: guest.Guest) -> str:
    """The PID of a counter, on its way; a child of a shell that waits for it, not of PID 1."""
    line = "echo $$ >pid; exec setsid cr_run sh counter.sh </dev/null >log 2>&1"
    until = "until grep -q 5 log 2>/dev/null; do sleep 0.2; done"
    return run(target, f"rm -f finish log; ((sh -c '{line}'; :) &); {until}; cat pid").strip()


def ended(pid: str) -> str:
    """The command that waits until nobody has this PID."""
    return f"while [ -d /proc/{pid} ]; do sleep 0.2; done"


def counted(target: guest.Guest, name: str) -> int:
    """How many numbers a log has, each once and in order."""
    numbers = run(target, f"cut -d' ' -f1 {name}").split()
    assert numbers == [str(number) for number in range(len(numbers))]
    return len(numbers)


def back(target: guest.Guest, words: str) -> str:
    """The exit status of a restart, after which the counter counts on for a while and is let end."""
    count = "n=$(wc -l <log); until [ $(wc -l <log) -gt $((n + 2)) ]; do sleep 0.2; done; touch finish"
    return run(target, f"rm -f finish; {words} --run-on-success='{count}'; echo $?").split()[-1]


def test_it_goes_on_and_comes_back_from_the_file(target: guest.Guest) -> None:
    pid = started(target)
    run(target, f"cr_checkpoint {pid} && ls context.{pid}")
    assert run(target, f"ps | grep -c '^ *{pid} '").strip() == "1"
    run(target, f"cr_checkpoint -f two --term {pid} && {ended(pid)}")
    saved = counted(target, "log")
    assert back(target, "cr_restart two") == "7"
    assert counted(target, "log") > saved
    assert run(target, f"cr_restart context.{pid}; echo $?").split()[-1] == "7"  # it finds that it is to end
    assert counted(target, "log") <= saved
    assert f"tree {pid}" in run(target, "cr_info two | head -n 4")


def test_it_comes_back_from_a_pipe(target: guest.Guest) -> None:
    pid = started(target)
    assert back(target, f"cr_checkpoint -F 1 --term {pid} | cr_restart -F 0") == "7"
    counted(target, "log")


def test_a_python_saves_itself_with_what_it_has_started(target: guest.Guest) -> None:
    run(target, "rm -f finish; setsid python3 -B outer.py </dev/null >said 2>&1; sleep 1")
    assert "DONE" not in run(target, "cat said")
    assert run(target, "touch finish; cr_restart whole; echo $?").split()[-1] == "0"
    assert counted(target, "said") == 17
