# SPDX-License-Identifier: GPL-2.0-only
"""Programs of the terminal: less with a page of a file, tmux with a shell inside; others: test_programs.py."""

from __future__ import annotations

import os
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

from tests.host.conftest import Host, children, state, wait_until
from tests.host.programs import PROMPT, Cycle, Shell, cycle, need, start  # noqa: F401 - a fixture


def the_child(shell: Shell, name: str) -> int:
    """The PID of the job that runs in the foreground of a shell."""
    assert shell.bash.pid

    def jobs() -> list[int]:
        return [pid for pid in children(shell.bash.pid) if _name(pid).startswith(name)]

    wait_until(jobs, f"{name} runs")
    return jobs()[0]


def _name(pid: int) -> str:
    """Empty where it has ended: a shell has children for a moment."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/comm").read_text()
    return ""


def _listening(path: Path) -> bool:
    """Whether somebody listens on this UNIX socket, which is there a moment before that."""
    with socket.socket(socket.AF_UNIX) as link:
        return link.connect_ex(str(path)) == 0


def test_less_draws_its_page_on_another_terminal(host: Host, cycle: Cycle) -> None:  # noqa: F811
    need("less")
    (host.folder / "text").write_text("".join(f"line {n} of the text\n" for n in range(1, 1001)))
    first, second = Shell(host.folder), Shell(host.folder, (30, 100))
    first.type("less text")
    first.expect("line 5 of the text")
    first.press("500g")
    first.expect("line 505 of the text")
    pid = the_child(first, "less")
    cycle.dump(pid, "--shell-job")
    first.close()
    second.restore(cycle.images)
    second.expect("line 500 of the text")
    second.expect("line 528 of the text")
    second.press("G")
    second.expect("line 1000 of the text")
    second.press("q")
    second.expect(PROMPT)
    second.type("stty -a")
    second.expect(r"\sicanon")
    second.close()


def test_tmux_with_a_shell_inside(host: Host, cycle: Cycle) -> None:  # noqa: F811
    """The server with its terminals; clients find it again under its socket."""
    tmux = need("tmux")
    pid = start(host, tmux, "-D", "-L", "it", "-f", "/dev/null", TMUX_TMPDIR=str(host.folder), TERM="xterm", PS1=PROMPT)

    def command(*words: str) -> str:
        done = subprocess.run(
            [tmux, "-L", "it", *words], env=os.environ | {"TMUX_TMPDIR": str(host.folder), "TERM": "xterm"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.stdout

    def shows(text: str) -> None:
        wait_until(
            lambda: text in command("capture-pane", "-p", "-S", "-"), f"{text!r} in {command('capture-pane', '-p')}"
        )

    wait_until(lambda: _listening(host.folder / "tmux-0/it"), "the server listens")
    command("new-session", "-d", "-x", "90", "-y", "30", "env PS1='ready> ' bash --norc --noprofile")
    shows(PROMPT.strip())
    command("send-keys", "mark=kept; sleep 1000 &", "Enter")
    command("send-keys", "echo half a ")
    shows("half a")
    for _ in range(2):
        cycle(pid)
        assert state(pid) is not None
    command("send-keys", "line $mark $(tput cols); jobs", "Enter")
    shows("half a line kept 90")
    shows("Running                 sleep 1000")
    command("kill-server")
