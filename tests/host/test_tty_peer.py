# SPDX-License-Identifier: GPL-2.0-only
"""Terminals between pycriu and CRIU, both ways."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.host.conftest import wait_until
from tests.host.programs import Shell
from tests.host.test_peer import WAYS, Both, criu, run  # noqa: F401 - a fixture
from tests.host.test_tty import LISTENER

if TYPE_CHECKING:
    from tests.host.conftest import Host

PAIR = """
import pty, termios, tty
master, slave = pty.openpty()
tty.setraw(slave)
fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("4H", 33, 99, 0, 0))
again = os.open(os.ttyname(slave), os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
name, settings = os.ttyname(slave), termios.tcgetattr(slave)
os.write(master, b"for the slave")
os.write(slave, b"for the master")
pid = os.fork()
if not pid:
    os.setsid()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    wait_for_go()
    os._exit(os.tcgetpgrp(slave) == os.getpid())
time.sleep(0.2)
pause_for_dump()
say("name", os.ttyname(slave) == os.ttyname(again) == name)
say("settings", termios.tcgetattr(slave) == settings, os.get_terminal_size(slave))
say("unread", os.read(slave, 100), os.read(master, 100))
say("session", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""

EXPECTED = [
    "name True",
    "settings True os.terminal_size(columns=99, lines=33)",
    "unread b'for the slave' b'for the master'",
    "session 1",
]


@pytest.mark.parametrize("way", WAYS)
def test_a_pair(host: Host, criu: tuple[str, ...], way: object) -> None:  # noqa: F811
    subject = host.python(PAIR)
    way(Both(host, criu), subject)  # type: ignore[operator]
    assert subject.go() == EXPECTED


@pytest.mark.parametrize("to_criu", [True, False], ids=["pycriu-criu", "criu-pycriu"])
def test_a_job(host: Host, criu: tuple[str, ...], to_criu: bool) -> None:  # noqa: F811
    """A job of one shell, dumped by one tool, becomes a job of another by the other."""
    first, second = Shell(host.folder), Shell(host.folder, (30, 100))
    (host.folder / "listener.py").write_text(LISTENER)
    first.type(f"{sys.executable} -IS listener.py")
    pid = first.expect(r"pid (\d+) has begun")[1]
    if to_criu:
        assert host.run("dump", "-t", pid, "-D", str(host.images), "--shell-job").ok
    else:
        assert run(criu, host, "dump", "-t", pid, "--shell-job").ok
    first.close()
    if to_criu:
        second.type(f"{subprocess.list2cmdline(criu)} restore -D images --shell-job -o log")
        wait_until((host.images / "log").exists, "the restore has begun")
    else:
        second.restore(host.images)
    second.type("two")
    second.expect("got two foreground")
    second.bash.sendcontrol("d")
    second.expect("end of file")
    second.close()
