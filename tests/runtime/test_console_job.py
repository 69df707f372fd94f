# SPDX-License-Identifier: GPL-2.0-only
"""A job on the guest's console: it reads from and writes to the serial line, and is dumped and restored there."""

from __future__ import annotations

import re
import time

from layer.target import guest
from layer.target.deadline import Deadline

FOLDER = "/root/console-job"
SCRIPT = """#!/bin/sh
exec 3<>/dev/console
while :; do
    [ -t 0 ] && [ -t 2 ] && stty -g <&3 >> test.log || echo lost >> test.log
    sleep 1
done
"""


def lines(target: guest.Guest) -> list[str]:
    return target.shell.run(f"cat {FOLDER}/test.log", check=False).out.splitlines()


def grown(target: guest.Guest, than: int) -> list[str]:
    deadline = Deadline.after(30 * target.slowness)
    while len(found := lines(target)) < than + 3:
        assert not deadline.passed, found
        time.sleep(0.3)
    return found


def pid_of(target: guest.Guest) -> int | None:
    found = re.findall(r"^\s*(\d+)\s.*\s\./job\.sh", target.shell.run("ps").out, re.MULTILINE)
    return int(found[0]) if found else None


def test_a_job_on_the_console(target: guest.Guest) -> None:
    shell = target.shell
    shell.run(f"mkdir -p {FOLDER}/images")
    shell.put(f"{FOLDER}/job.sh", SCRIPT.encode(), mode=0o755)
    shell.run(f"cd {FOLDER}", inside=True)
    device = shell.run("readlink /proc/$$/fd/1", inside=True).out.strip()
    shell.run(f"./job.sh < {device} > /dev/null 2> {device} &", inside=True)
    assert device.startswith("/dev/")
    before = grown(target, 0)
    pid = pid_of(target)
    assert pid
    shell.run(f"pycriu dump -t {pid} -D images --shell-job", timeout=60, inside=True)
    assert pid_of(target) is None
    shell.run("pycriu restore -d -D images --shell-job", timeout=60, inside=True)
    assert pid_of(target) == pid
    after = grown(target, len(before))
    assert set(after) == set(before[:1])
    shell.run(f"kill {pid}")
