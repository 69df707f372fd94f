# SPDX-License-Identifier: GPL-2.0-only
"""A job of a shell on a terminal, saved there and restarted on another one: its words, its keys, its place as a job."""

from __future__ import annotations

import re
import sys

import pexpect
import pytest

from tests.host.blcr import Blcr
from tests.host.conftest import DEADLINE, Host, alive, wait_until

PROGRAM = """
import os, signal, sys
print("I am", os.getpid(), flush=True)
for line in sys.stdin:
    print("heard", line.strip(), flush=True)
"""


@pytest.fixture
def blcr(host: Host) -> Blcr:
    return Blcr(host)


def shell(blcr: Blcr) -> pexpect.spawn:
    """A bash on a terminal of its own, with a prompt that is known."""
    environment = blcr.environment | {"PS1": "prompt> ", "TERM": "dumb"}
    child = pexpect.spawn(
        "bash", ["--norc", "--noprofile", "-i"], cwd=str(blcr.folder), env=environment, encoding="utf-8",
        timeout=2 * DEADLINE,
    )  # fmt: skip
    child.setecho(False)
    child.expect("prompt> ")
    return child


def job(blcr: Blcr) -> tuple[pexpect.spawn, int]:
    """A shell, and the program that it runs in the foreground."""
    (blcr.folder / "program.py").write_text(PROGRAM)
    child = shell(blcr)
    child.sendline(f"{sys.executable} -IS program.py")
    child.expect(r"I am (\d+)")
    assert isinstance(child.match, re.Match)
    return child, int(child.match[1])


def test_a_job_goes_on_on_another_terminal(blcr: Blcr) -> None:
    first, pid = job(blcr)
    first.sendline("one")
    first.expect("heard one")
    done = blcr.run("checkpoint", "--term", "-f", "saved", pid)
    assert done.returncode == 0, done
    first.expect("prompt> ")
    wait_until(lambda: not alive(pid), "the end of the job")

    second = shell(blcr)
    second.sendline("cr_restart --run-on-success='echo $((6 * 7)) runs' saved")
    second.expect("42 runs")
    second.sendline("two")
    second.expect("heard two")
    second.sendcontrol("z")
    second.expect("Stopped")
    second.expect("prompt> ")
    second.sendline("fg")
    second.expect("cr_restart")
    second.sendline("three")
    second.expect("heard three")
    second.sendcontrol("c")
    second.expect("prompt> ")
    second.sendline("echo status $?")
    second.expect(r"status (130|1)\b")
    assert not alive(pid)
    for one in (first, second):
        one.close(force=True)


def test_the_terminal_is_found_where_the_standard_files_are_others(blcr: Blcr) -> None:
    first, pid = job(blcr)
    done = blcr.run("checkpoint", "--term", "-f", "saved", pid)
    assert done.returncode == 0, done
    first.expect("prompt> ")
    wait_until(lambda: not alive(pid), "the end of the job")
    first.sendline("cr_restart saved </dev/null >log 2>&1")
    first.sendline("four")
    first.expect("heard four")
    first.sendcontrol("d")
    first.expect("prompt> ")
    first.close(force=True)
    assert (blcr.folder / "log").read_text() == ""
