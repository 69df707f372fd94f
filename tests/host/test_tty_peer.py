# SPDX-License-Identifier: GPL-2.0-only
"""Terminals between pycriu and CRIU, both ways."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.host.test_peer import WAYS, Both, criu  # noqa: F401 - a fixture

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
