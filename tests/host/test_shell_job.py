# SPDX-License-Identifier: GPL-2.0-only
"""The oldest description of checkpointing a job, word for word, in an interactive shell on a terminal: dumped with
--shell-job, restored without, in whatever shell."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from tests.host.conftest import alive, wait_until
from tests.host.programs import PROMPT, Shell

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.host.conftest import Host

SCRIPT = "#!/bin/sh\nwhile :; do\n    sleep 0.1\n    date\ndone\n"
PYCRIU = f"{sys.executable} -m pycriu"


class Text:
    """The steps of the text."""

    def __init__(self, host: Host) -> None:
        self.folder = host.folder
        self.log = host.folder / "test.log"
        script = host.folder / "test.sh"
        script.write_text(SCRIPT)
        script.chmod(0o755)
        (host.folder / "checkpoint").mkdir()
        self.shells: list[Shell] = []

    def shell(self) -> Shell:
        """Somebody sits down at a terminal."""
        self.shells.append(Shell(self.folder))
        return self.shells[-1]

    def lines(self) -> int:
        """Of the log."""
        return len(self.log.read_text().splitlines())

    def grows(self) -> None:
        """tail -f test.log."""
        before = self.lines()
        wait_until(lambda: self.lines() > before + 2, "the log grows")


@pytest.fixture
def text(host: Host) -> Iterator[Text]:
    """A folder with the script in it."""
    made = Text(host)
    yield made
    for shell in made.shells:
        shell.close()


def dumped(text: Text, shell: Shell) -> int:
    """Steps c to h; the PID."""
    shell.type("./test.sh  < /dev/null &> test.log &")
    pid = int(shell.expect(r"\[1\] (\d+)\r\n")[1])
    wait_until(text.log.exists, "the script has begun")
    text.grows()
    shell.type(f"{PYCRIU} dump -D checkpoint/ -t {pid} --shell-job")
    shell.expect(r"\[1\]\+  Killed +./test.sh < /dev/null &> ?test.log")
    assert not alive(pid)
    (text.folder / "stopped").write_bytes(text.log.read_bytes())
    assert {f"core-{pid}.img", "inventory.img"} <= set(os.listdir(text.folder / "checkpoint"))
    return pid


@pytest.mark.parametrize("where", ["the same shell", "another shell", "another shell, the first has ended"])
def test_restored_without_shell_job(text: Text, where: str) -> None:
    first = text.shell()
    pid = dumped(text, first)
    leader = first.bash.pid
    assert leader
    shell = first if where == "the same shell" else text.shell()
    if where.endswith("has ended"):
        first.close()
        wait_until(lambda: not os.path.exists(f"/proc/{leader}"), "the first shell has ended")
    shell.expect(PROMPT) if where == "the same shell" else None
    shell.type(f"{PYCRIU} restore -d -D checkpoint/; echo status $?")
    shell.expect(r"status 0\r\n")
    text.grows()
    assert text.log.read_bytes().startswith((text.folder / "stopped").read_bytes())
    session = os.getsid(pid)
    if where.endswith("has ended"):
        assert session == leader, "the session that it had, with a leader that has ended"
        assert not os.path.exists(f"/proc/{leader}")
    else:
        assert session == shell.bash.pid, "the shell from which it was restored"
    shell.type(f"kill {pid}")
    wait_until(lambda: not alive(pid), "it ends when it is told to")


def test_the_dry_runs_say_so(text: Text) -> None:
    """Without --shell-job a dump would be refused; a restore would not."""
    shell = text.shell()
    shell.type("./test.sh  < /dev/null &> test.log &")
    pid = int(shell.expect(r"\[1\] (\d+)\r\n")[1])
    wait_until(text.log.exists, "the script has begun")
    shell.type(f"{PYCRIU} dump --dry-run -D checkpoint/ -t {pid}; echo status $?")
    shell.expect(r"With --shell-job it would succeed\.\r\nstatus 1\r\n")
    text.grows()
    shell.type(f"{PYCRIU} dump -D checkpoint/ -t {pid} --shell-job; {PYCRIU} restore --dry-run -D checkpoint/")
    shell.expect(r"The restore would succeed \([12] process(es)?, [12] threads?, \d+ KiB\)\.")  # with a sleep
