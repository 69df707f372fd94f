# SPDX-License-Identifier: GPL-2.0-only
"""Sockets of IPv4 and IPv6 between pycriu and CRIU, both ways: each tool restores what the other has dumped."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from tests.host.conftest import wait_until
from tests.host.test_peer import criu, reaped, run

if TYPE_CHECKING:
    from tests.host.conftest import Host, Subject

__all__ = ["criu"]  # a fixture

ECHO = """
import socket
listener = socket.create_server(("{host}", 0), family={family})
print("port", listener.getsockname()[1], flush=True)
ready()
sock, _ = listener.accept()
sock.setsockopt(6, 1, 1)
say("accepted")
while data := sock.recv(1000):
    sock.sendall(data.upper())
say("ended")
"""

OTHERS = """
import socket
tcp = socket.socket()
tcp.setsockopt(1, 2, 1)
tcp.bind(("127.0.0.1", 0))
tcp.listen(17)
six = socket.create_server(("::1", 0), family=socket.AF_INET6)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("127.0.0.1", 0))
other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
other.connect(udp.getsockname())
other.setsockopt(0, 2, 33)
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, 253)
def facts():
    names = [one.getsockname() for one in (tcp, six, udp, other)]
    backlog = tcp.getsockopt(6, 11, 40)[28]
    return names, other.getpeername(), other.getsockopt(0, 2), raw.proto, tcp.getsockopt(1, 2), backlog
before = facts()
pause_for_dump()
say("same", facts() == before)
other.send(b"x")
say("datagram", udp.recv(5))
client = socket.create_connection(tcp.getsockname())
client.sendall(b"y")
say("connection", tcp.accept()[0].recv(5))
"""


def to_criu(host: Host, criu: tuple[str, ...], subject: Subject, *words: str) -> None:
    dumped = host.dump(subject, *words)
    assert dumped.ok, dumped
    restored = run(criu, host, "restore", "-d", *[word for word in words if word.startswith("--tcp")])
    assert restored.ok, restored


def from_criu(host: Host, criu: tuple[str, ...], subject: Subject, *words: str) -> None:
    dumped = run(criu, host, "dump", "-t", str(subject.pid), *words)
    if "Can't get 1:16 opt" in (host.images / "criu.log").read_text(errors="replace"):
        pytest.skip("this CRIU asks every socket for SO_PASSCRED, which Linux since 6.16 answers for UNIX sockets only")
    assert dumped.ok, dumped
    wait_until(lambda: not reaped(subject.pid), "all of the session is gone")
    restored = host.restore(*[word for word in words if word.startswith("--tcp")])
    assert restored.ok, restored


Way = Callable[..., None]
WAYS = pytest.mark.parametrize("way", [to_criu, from_criu], ids=["pycriu-criu", "criu-pycriu"])


@WAYS
@pytest.mark.parametrize(("host_name", "family"), [("127.0.0.1", 2), ("::1", 10)], ids=["v4", "v6"])
def test_connection(host: Host, criu: tuple[str, ...], way: Way, host_name: str, family: int) -> None:
    subject = host.python(ECHO.format(host=host_name, family=family))
    port = int(next(line.split()[1] for line in subject.said() if line.startswith("port")))
    with socket.create_connection((host_name, port)) as sock:
        sock.settimeout(20)
        sock.sendall(b"before")
        assert sock.recv(100) == b"BEFORE"
        subject.wait_for("accepted")
        way(host, criu, subject, "--tcp-established", "--network-lock", "skip")
        sock.sendall(b"after")
        assert sock.recv(100) == b"AFTER"
        sock.shutdown(socket.SHUT_WR)
        subject.wait_for("ended")


def test_connection_that_our_rules_hold(host: Host, criu: tuple[str, ...]) -> None:
    """CRIU finds them by the inventory, and removes them."""
    subject = host.python(ECHO.format(host="127.0.0.1", family=2))
    port = int(next(line.split()[1] for line in subject.said() if line.startswith("port")))
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.settimeout(20)
        subject.wait_for("accepted")
        to_criu(host, criu, subject, "--tcp-established")
        sock.sendall(b"after")
        assert sock.recv(100) == b"AFTER"
        sock.shutdown(socket.SHUT_WR)
        subject.wait_for("ended")


@WAYS
def test_other_sockets(host: Host, criu: tuple[str, ...], way: Way) -> None:
    subject = host.python(OTHERS)
    way(host, criu, subject)
    assert subject.go() == ["same True", "datagram b'x'", "connection b'y'"]
