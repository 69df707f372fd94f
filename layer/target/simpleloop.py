# SPDX-License-Identifier: GPL-2.0-only
"""The simple loop, as its users know it: a script writes the date every second; it is dumped and restored.

What is typed here is what the walk-through has one type. The demo shows it, the runtime tests judge it.
"""

from __future__ import annotations

import re
import time

from layer.target import looplog
from layer.target.deadline import Deadline
from layer.target.faults import DeadlinePassed
from layer.target.shell import Result, Shell

SCRIPT = """#!/bin/sh
while :; do
    sleep 1
    date
done
"""
_PS_LINE = re.compile(r"^\s*(\d+)\s.*\s\./test\.sh", re.MULTILINE)


class Loop:
    """The loop in one folder of a guest."""

    def __init__(self, shell: Shell, folder: str) -> None:
        self.shell = shell
        self.folder = folder

    def start(self) -> int:
        """Write the script, start it in the background as a job of the shell, look its PID up with ps."""
        self.shell.run(f"mkdir -p {self.folder}/checkpoint")
        self.shell.put(f"{self.folder}/test.sh", SCRIPT.encode(), mode=0o755)
        self.shell.run(f"cd {self.folder}", inside=True)
        self.shell.run("./test.sh  < /dev/null &> test.log &", inside=True)
        deadline = Deadline.after(10 * self.shell.slowness)
        while not (pids := self.pids()):
            if deadline.passed:
                raise DeadlinePassed("ps does not show ./test.sh", log=self.shell.console.log_path)
        return pids[0]

    def pids(self) -> list[int]:
        """The PIDs that `ps` shows for the script."""
        return [int(found) for found in _PS_LINE.findall(self.shell.run("ps").out)]

    def dump(self, pid: int, *options: str) -> Result:
        """Dump it as the walk-through does."""
        words = " ".join(["pycriu dump -D checkpoint/", f"-t {pid}", "--shell-job", *options])
        return self.shell.run(words, timeout=60, inside=True)

    def restore(self) -> Result:
        """Restore it as the walk-through does: detached, and without --shell-job."""
        return self.shell.run("pycriu restore -d -D checkpoint/", timeout=60, inside=True)

    def notices(self, word: str, timeout: float = 10) -> str:
        """What the shell says about its jobs by itself, until it says `word` or the time is over."""
        said = ""
        deadline = Deadline.after(timeout * self.shell.slowness)
        while word not in said and not deadline.passed:
            said += self.shell.run("true", inside=True).notices
            time.sleep(0.1)
        return said

    def log(self) -> str:
        """The log's text."""
        return self.shell.run(f"cat {self.folder}/test.log").out

    def stamps(self) -> tuple[int, ...]:
        """The log's times."""
        return looplog.stamps(self.log())

    def grown(self, than: int, lines: int = 3, timeout: float = 30) -> tuple[int, ...]:
        """The log's times once it has `lines` more than `than`; DeadlinePassed when it does not grow."""
        deadline = Deadline.after(timeout * self.shell.slowness)
        while len(times := self.stamps()) < than + lines:
            if deadline.passed:
                raise DeadlinePassed(f"the log has {len(times)} lines, not {than + lines}: it does not grow",
                                     log=self.shell.console.log_path)  # fmt: skip
            time.sleep(0.3)
        return times
