# SPDX-License-Identifier: GPL-2.0-only
"""Programs that wait for files to change: tail, and the message bus with clients."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.host.conftest import Subject, alive, wait_until

if TYPE_CHECKING:
    from tests.host.conftest import Host


def append(subject: Subject, text: str) -> None:
    with open(subject.folder / "log", "a") as file:
        file.write(text + "\n")


def watches(subject: Subject) -> int:
    """How many files it watches."""
    found = 0
    for name in os.listdir(f"/proc/{subject.pid}/fdinfo"):
        with suppress(FileNotFoundError):  # while it starts it opens and closes some
            found += sum(line.startswith("inotify ") for line in subject.proc(f"fdinfo/{name}").splitlines())
    return found


@pytest.mark.parametrize("option", ["-f", "-F"])
def test_tail(host: Host, option: str) -> None:
    """It prints every line once, wherever the file is moved meanwhile."""
    (host.folder / "log").write_text("ready\n")
    subject = host.start("tail", option, "log")
    wait_until(lambda: watches(subject) or not alive(subject.pid), "tail watches")
    expected = ["ready"]
    for word in ("one", "two", "three"):
        assert host.dump(subject, "-R").ok
        host.round_trip(subject)
        append(subject, word)
        expected.append(word)
        wait_until(lambda: subject.said() == expected, f"{expected}, but there is {subject.said()}")
    if option == "-F":
        os.rename(host.folder / "log", host.folder / "old")
        append(subject, "four")
        wait_until(lambda: subject.said()[-1] == "four", f"the new file, but there is {subject.said()}")


BUS = """
import socket, subprocess
open("bus.conf", "w").write('''<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:path=%s/bus</listen><servicedir>%s</servicedir>
<policy context="default"><allow send_destination="*" eavesdrop="true"/>
<allow eavesdrop="true"/><allow own="*"/></policy>
</busconfig>''' % (os.getcwd(), os.getcwd()))
daemon = subprocess.Popen(["dbus-daemon", "--config-file=bus.conf", "--nofork", "--nopidfile"])
def listening():
    with socket.socket(socket.AF_UNIX) as link:
        return link.connect_ex("bus") == 0
while not listening(): time.sleep(0.01)

def text(value):
    return len(value).to_bytes(4, "little") + value + bytes(1)

def field(code, kind, value):
    data = bytes([code, 1]) + kind + bytes(1) + text(value)
    return data + bytes(-len(data) % 8)

def call(link, serial, member):
    bus = b"org.freedesktop.DBus"
    fields = field(1, b"o", b"/org/freedesktop/DBus") + field(2, b"s", bus) + field(6, b"s", bus)
    last = bytes([3, 1]) + b"s" + bytes(1) + text(member)
    size = len(fields + last)
    head = b"l" + bytes([1, 0, 1]) + struct.pack("<III", 0, serial, size)
    link.sendall(head + fields + last + bytes(-size % 8))

def connect():
    link = socket.socket(socket.AF_UNIX)
    link.settimeout(10)
    link.connect("bus")
    link.sendall(bytes(1) + b"AUTH EXTERNAL " + str(os.getuid()).encode().hex().encode() + b"\\r\\n")
    assert link.recv(100).startswith(b"OK")
    link.sendall(b"BEGIN\\r\\n")
    call(link, 1, b"Hello")
    name = b""
    while b"NameAcquired" not in name: name += link.recv(4096)
    return link

links = [connect() for _ in range(3)]
pause_for_dump()
links.append(connect())
for link in links:
    call(link, 7, b"ListNames")
    answer = b""
    while b":1.3" not in answer: answer += link.recv(4096)
say("names", [name in answer for name in (b":1.0", b":1.1", b":1.2", b":1.3")])
daemon.terminate()
say("ended", daemon.wait() in (0, -15))
"""


def test_dbus_daemon(host: Host) -> None:
    """Clients of before and after; it watches its folder, and waits with epoll."""
    if shutil.which("dbus-daemon") is None:
        pytest.skip("dbus-daemon is not installed: apt-get install dbus")
    subject = host.python(BUS)
    host.round_trip(subject)
    host.round_trip(subject)
    said = [line for line in subject.go() if not line.startswith("dbus-daemon")]  # it reloads what it watches
    assert said == ["names [True, True, True, True]", "ended True"]
