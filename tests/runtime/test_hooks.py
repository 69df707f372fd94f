# SPDX-License-Identifier: GPL-2.0-only
"""Programs in Python on the target: told of checkpoints, interrupted as jobs, started warm."""

from __future__ import annotations

import textwrap

import pytest

from layer.target import guest

FOLDER = "/root/hooks"
TOLD = """
import os, time
import pycriu

def say(*words):
    with open("said", "a") as file:
        print(*words, file=file)

@pycriu.before_checkpoint
def before():
    if os.path.exists("busy"):
        raise pycriu.NotNow("busy")
    say("before")

@pycriu.after_checkpoint
def after():
    say("after", pycriu.moment().outcome)

@pycriu.after_restore
async def back():
    say("back", pycriu.moment().outcome)

say("ready")
while True:
    time.sleep(0.1)
"""
OWN = """
import pycriu
outcome = pycriu.checkpoint("own")
with open("own.said", "a") as file:
    print(outcome, file=file)
"""
COUNTING = """
import time
number = 0
while number < 1000:
    number += 1
    print(number, flush=True)
    time.sleep(0.1)
"""
WARM = """
import json, sys
import asyncio
print(json.dumps(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def shell(target: guest.Guest) -> guest.Guest:
    target.shell.run(f"mkdir -p {FOLDER}/images {FOLDER}/state")
    for name, code in (("told.py", TOLD), ("own.py", OWN), ("counting.py", COUNTING), ("warm.py", WARM)):
        target.shell.put(f"{FOLDER}/{name}", textwrap.dedent(code).encode())
    return target


def in_folder(target: guest.Guest, words: str, *, status: int = 0, timeout: float = 120) -> str:
    done = target.shell.run(f"cd {FOLDER} && {words}", check=False, timeout=timeout)
    assert done.status == status, done.out
    return str(done.out)


def until(target: guest.Guest, words: str) -> None:
    in_folder(target, f"n=0; until {words}; do n=$((n + 1)); [ $n -lt 600 ] || exit 9; sleep 0.1; done")


def test_hooks(shell: guest.Guest) -> None:
    in_folder(shell, "(setsid python3 told.py </dev/null >log 2>&1 & echo $! >pid)")
    until(shell, "grep -q ready said")
    in_folder(shell, "touch busy")
    assert "asks to come again later: before: busy" in in_folder(
        shell, "pycriu dump -D images -t $(cat pid) 2>&1", status=75
    )
    in_folder(shell, "rm busy")
    in_folder(shell, "pycriu dump -D images -R -t $(cat pid)")
    until(shell, "grep -q continued said")
    for _ in range(2):
        in_folder(shell, "pycriu dump -D images -t $(cat pid) && pycriu restore -d -D images")
    said = in_folder(shell, "cat said log").split("\n")
    again = ["before", "back restored"]
    assert [line for line in said if line] == ["ready", "after failed", "before", "after continued", *again, *again]
    in_folder(shell, "kill $(cat pid)")


def test_a_program_that_has_itself_dumped(shell: guest.Guest) -> None:
    in_folder(shell, "python3 own.py </dev/null >own.log 2>&1")
    for _ in range(2):
        in_folder(shell, "pycriu restore -D own --shell-job </dev/null")
    assert in_folder(shell, "cat own.said own.log").split() == ["continued", "restored", "restored"]


def test_a_job(shell: guest.Guest) -> None:
    run = "pycriu job run -D state -- python3 counting.py"
    for number in (1, 2):
        in_folder(shell, f"({run} </dev/null >out.{number} 2>err.{number}; echo $? >status.{number}) & echo $! >job")
        until(shell, f"[ $(wc -l <out.{number}) -gt 3 ]")
        in_folder(shell, "kill $(pgrep -f 'pycriu job' | tail -n 1)")
        until(shell, f"[ -e status.{number} ]")
        assert in_folder(shell, f"cat status.{number} err.{number}").strip() == "0"
    numbers = [int(line) for line in in_folder(shell, "cat out.1 out.2").split()]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_warm_start(shell: guest.Guest) -> None:
    run = "PYCRIU_SNAPSHOTS=$PWD/kept PYCRIU_SNAPSHOT_LOG=$PWD/restores.log pycriu snapshot run -- python3 warm.py"
    for words in ("one", "two three"):
        said = in_folder(shell, f"{run} {words} 2>&1").strip()
        assert said == str(words.split()).replace("'", '"'), in_folder(shell, "cat kept/*.failed restores.log; true")
    assert "inventory.img" in in_folder(shell, "ls kept/*")
    assert in_folder(shell, "[ ! -e restores.log ] || cat restores.log").strip() == ""
