# SPDX-License-Identifier: GPL-2.0-only
"""UNIX sockets between pycriu and CRIU, both ways: what CRIU's images have fields for comes back."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from tests.host.conftest import wait_until
from tests.host.test_peer import WAYS, Both, criu, reaped, run  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from tests.host.conftest import Host

SOCKETS = """
import socket
STREAM, DGRAM, PACKETS = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET
N = "\\0both-" + str(os.getpid())
server = socket.socket(socket.AF_UNIX)
server.bind("server")
os.chmod("server", 0o640)
server.listen(5)
client = socket.socket(socket.AF_UNIX)
client.connect("server")
accepted, _ = server.accept()
client.send(b"to the server")
accepted.send(b"to the client")
left, right = socket.socketpair(socket.AF_UNIX, DGRAM)
left.send(b"one")
left.send(b"two")
left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 30000)
left.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 9))
begin, end = socket.socketpair(socket.AF_UNIX, PACKETS)
begin.send(b"packet")
begin.shutdown(socket.SHUT_WR)
named = socket.socket(socket.AF_UNIX, DGRAM)
named.bind(N)
speaker = socket.socket(socket.AF_UNIX, DGRAM)
speaker.bind("speaker")
speaker.connect(N)
speaker.send(b"early")
widow, gone = socket.socketpair()
gone.send(b"left behind")
gone.close()
files, box = socket.socketpair()
reader, writer = os.pipe()
os.write(writer, b"sent")
os.close(writer)
socket.send_fds(files, [b"fd"], [reader])
os.close(reader)
pause_for_dump()
say(accepted.recv(99), client.recv(99), oct(os.stat("server").st_mode & 0o777))
say(right.recv(99), right.recv(99), left.getsockopt(1, 7), left.getsockopt(1, 13, 8).hex())
say(end.recv(99), end.recv(99))
speaker.send(b"hello")
say(named.recvfrom(99), named.recvfrom(99))
say(widow.recv(99), widow.recv(99))
data, fds, _, _ = socket.recv_fds(box, 9, 9)
say(data, os.read(fds[0], 99))
late = socket.socket(socket.AF_UNIX)
late.connect("server")
late.send(b"new")
say(server.accept()[0].recv(9))
"""

EXPECTED = [
    "b'to the server' b'to the client' 0o640",
    "b'one' b'two' 60000 0100000009000000",
    "b'packet' b''",
    "(b'early', 'speaker') (b'hello', 'speaker')",
    "b'left behind' b''",
    "b'fd' b'sent'",
    "b'new'",
]

WAITING = """
import socket
server = socket.socket(socket.AF_UNIX)
server.bind("server")
server.listen(5)
clients = [socket.socket(socket.AF_UNIX) for _ in range(2)]
for one in clients: one.connect("server")
pause_for_dump()
for one in clients: one.send(b"waited")
say([server.accept()[0].recv(9) for _ in clients])
"""


@pytest.mark.parametrize("way", WAYS)
def test_sockets_of_every_type(host: Host, criu: tuple[str, ...], way: object) -> None:  # noqa: F811
    subject = host.python(SOCKETS)
    way(Both(host, criu), subject)  # type: ignore[operator]
    assert subject.go() == EXPECTED


@pytest.mark.parametrize("way", WAYS)
def test_connections_that_wait(host: Host, criu: tuple[str, ...], way: object) -> None:  # noqa: F811
    subject = host.python(WAITING)
    way(Both(host, criu), subject)  # type: ignore[operator]
    assert subject.go() == ["[b'waited', b'waited']"]


SPEAKER = """
import socket
speaker = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
speaker.connect("service")
pause_for_dump()
speaker.send(b"hello")
say(speaker.getpeername())
"""


@pytest.mark.parametrize("ours_first", [True, False], ids=["pycriu-criu", "criu-pycriu"])
def test_a_service_outside(host: Host, criu: tuple[str, ...], *, ours_first: bool) -> None:  # noqa: F811
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as service:
        service.bind(str(host.folder / "service"))
        subject = host.python(SPEAKER)
        if ours_first:
            assert host.dump(subject, "--ext-unix-sk").ok
            restored = run(criu, host, "restore", "-d", "--ext-unix-sk")
        else:
            dumped = run(criu, host, "dump", "-t", str(subject.pid), "--ext-unix-sk")
            assert dumped.ok, dumped
            wait_until(lambda: not reaped(subject.pid), "all of the session is gone")
            restored = host.restore("--ext-unix-sk")
        assert restored.ok, restored
        assert subject.go() == [str(host.folder / "service")]
        assert service.recv(99) == b"hello"
