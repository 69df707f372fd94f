# SPDX-License-Identifier: GPL-2.0-only
"""Programs of the terminal: less and vi as jobs that change their terminal, tmux with a shell inside."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.host.conftest import Host, children, state, wait_until
from tests.host.programs import PROMPT, Cycle, Shell, cycle, need, start  # noqa: F401 - a fixture


def the_child(shell: Shell, name: str) -> int:
    """The PID of the job that runs in the foreground of a shell."""
    assert shell.bash.pid

    def jobs() -> list[int]:
        return [pid for pid in children(shell.bash.pid) if Path(f"/proc/{pid}/comm").read_text().startswith(name)]

    wait_until(jobs, f"{name} runs")
    return jobs()[0]


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


def test_less_at_the_end_of_a_pipeline(host: Host, cycle: Cycle) -> None:  # noqa: F811
    """It reads text from a pipe that its writer has left, and keys from /dev/tty."""
    need("less")
    first, second = Shell(host.folder), Shell(host.folder, (30, 100))
    first.type("seq 1 5000 | less")
    first.expect("22")
    first.press("100g")
    first.expect("120")
    cycle.dump(the_child(first, "less"), "--shell-job")
    first.close()
    second.restore(cycle.images)
    second.expect("100")
    second.expect("128")
    second.press("G")
    second.expect("5000")
    second.press("q")
    second.expect(PROMPT)
    second.close()


def test_script_between_two_terminals(host: Host, cycle: Cycle) -> None:  # noqa: F811
    """script(1) has one end of the shell's terminal, and the user's terminal to copy to and from."""
    need("script")
    first, second = Shell(host.folder), Shell(host.folder, (30, 100))
    first.type("script -q typescript -c 'bash --norc --noprofile --noediting'")
    first.expect(PROMPT)
    first.type("mark=kept; sleep 500 &")
    first.expect(PROMPT)
    first.press("echo half ")
    first.expect("half")
    cycle.dump(the_child(first, "script"), "--shell-job")
    first.close()
    second.restore(cycle.images)
    second.expect("restore -D .*\\n")
    second.type("a $mark; jobs")
    second.expect("half a kept")
    second.expect("Running")
    second.type("until stty size | grep '30 100'; do sleep 0.1; done")
    second.expect(r"\s30 100\s")
    second.type("kill %1; echo $((6 * 7)); exec sleep 1000")
    second.expect(r"\s42\s")
    second.bash.sendintr()
    second.expect(PROMPT)
    second.close()


def test_vi_has_what_was_typed_and_not_saved(host: Host, cycle: Cycle) -> None:  # noqa: F811
    need("vi")
    (host.folder / "letter").write_text("first line\nsecond line\n")
    first, second = Shell(host.folder), Shell(host.folder, (30, 100))
    first.type("vi -u NONE -N letter")
    first.expect("second line")
    first.press("Gonew words")
    first.expect("new words")
    pid = the_child(first, "vi")
    cycle.dump(pid, "--shell-job")
    first.close()
    assert (host.folder / "letter").read_text() == "first line\nsecond line\n"
    second.restore(cycle.images)
    second.expect("new words")
    second.press(" and more\x1bdd" + "u:wq\r")
    second.expect(PROMPT)
    assert (host.folder / "letter").read_text() == "first line\nsecond line\nnew words and more\n"
    assert not list(host.folder.glob(".letter.sw*"))
    second.close()


def test_tmux_with_a_shell_inside(host: Host, cycle: Cycle) -> None:  # noqa: F811
    """The server with its terminals; clients find it again under its socket."""
    tmux = need("tmux")
    pid = start(host, tmux, "-D", "-L", "it", "-f", "/dev/null", TMUX_TMPDIR=str(host.folder), TERM="xterm", PS1=PROMPT)

    def command(*words: str) -> str:
        done = subprocess.run(
            [tmux, "-L", "it", *words], env={"TMUX_TMPDIR": str(host.folder), "TERM": "xterm", "PATH": "/usr/bin:/bin"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.stdout

    def shows(text: str) -> None:
        wait_until(
            lambda: text in command("capture-pane", "-p", "-S", "-"), f"{text!r} in {command('capture-pane', '-p')}"
        )

    wait_until((host.folder / "tmux-0/it").exists, "the socket")
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
