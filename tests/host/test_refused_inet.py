# SPDX-License-Identifier: GPL-2.0-only
"""Sockets of IPv4 and IPv6 that cannot be kept are refused by name and go on; and restores to where they cannot be."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.host.conftest import Host

PAIR = """
import socket
listener = socket.create_server(("127.0.0.1", 0))
one = socket.create_connection(listener.getsockname())
other, _ = listener.accept()
"""

MD5 = """
import socket
x = socket.socket()
key = struct.pack("=HH4s120xBBHI80s", 2, 0, bytes([10, 0, 0, 1]), 0, 0, 3, 0, b"key")
try: x.setsockopt(6, 14, key)
except OSError as error: lacks("keys of TCP_MD5SIG", error)
"""
AO = """
import socket
x = socket.socket()
key = struct.pack("=HH4s120x64siIH", 2, 0, bytes([10, 0, 0, 1]), b"hmac(sha1)", 0, 0, 0)
key += struct.pack("=BBBBBB80s", 32, 1, 1, 0, 0, 3, b"key")
try: x.setsockopt(6, 38, key)
except OSError as error: lacks("keys of TCP-AO", error)
"""

# name: what the subject does, words of the message, options
REFUSED = {
    "connection without an option": (PAIR, ("TCP connection (ESTABLISHED)", "--tcp-established", "--tcp-close"), ()),
    "not yet accepted": (
        PAIR + "more = socket.create_connection(listener.getsockname())", ("1 connections waiting", "--skip-in-flight"),
        ("--tcp-established",),
    ),
    "urgent data": (PAIR + "one.send(b'!', socket.MSG_OOB)\ntime.sleep(0.1)", ("urgent data",), ("--tcp-established",)),
    "an error": (
        "import socket\nudp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nudp.connect(('127.0.0.1', 9))\n"
        "udp.send(b'x')\ntime.sleep(0.1)",
        ("error waiting",), (),
    ),
    "a reset connection": (
        PAIR + "one.setsockopt(1, 13, struct.pack('ii', 1, 0))\none.close()\ntime.sleep(0.1)", ("error waiting",),
        ("--tcp-established",),
    ),
    "a datagram held back": (
        "import socket\nudp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nudp.connect(('127.0.0.1', 9))\n"
        "udp.setsockopt(17, 1, 1)\nudp.send(b'x')",
        ("holds back a datagram", "UDP_CORK"), (),
    ),
    "TLS of the kernel": (
        PAIR + "try: one.setsockopt(6, 31, b'tls')\nexcept OSError as e: lacks('TLS of the kernel', e)",
        ("tls", "TCP_ULP"), ("--tcp-established",),
    ),
    "MPTCP": (
        "import socket\ntry: x = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)\n"
        "except OSError as e: lacks('MPTCP', e)",
        ("MPTCP",), (),
    ),
    "SCTP": (
        "import socket\ntry: x = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132)\n"
        "except OSError as e: lacks('SCTP', e)",
        ("SCTP",), (),
    ),
    "MD5 keys of a listener": (MD5 + "x.bind(('127.0.0.1', 0))\nx.listen(1)", ("MD5",), ()),
    "MD5 keys of a fresh socket": (MD5, ("MD5",), ()),
    "MD5 keys of a bound socket": (MD5 + "x.bind(('127.0.0.1', 0))", ("MD5",), ()),
    "TCP-AO keys of a fresh socket": (AO, ("TCP-AO",), ()),
    "TCP-AO keys of a listener": (AO + "x.bind(('127.0.0.1', 0))\nx.listen(1)", ("TCP-AO",), ()),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_refused_by_name(host: Host, what: str) -> None:
    code, needles, options = REFUSED[what]
    host.refused_by_name(code, *needles, options=options)


def test_connections_not_yet_accepted_are_dropped_by_option(host: Host) -> None:
    subject = host.python(
        "import socket\nl = socket.create_server(('127.0.0.1', 0))\nsay('port', l.getsockname()[1])\n"
        "pause_for_dump()\nsay(l.accept()[0].recv(10))"
    )
    port = int(subject.said()[0].split()[1])
    dropped = socket.create_connection(("127.0.0.1", port))
    dropped.settimeout(20)
    host.round_trip(subject, "--skip-in-flight")
    with pytest.raises(ConnectionResetError):
        dropped.recv(1)
    with socket.create_connection(("127.0.0.1", port)) as later:
        later.sendall(b"later")
        assert subject.go() == ["b'later'"]


def test_port_that_somebody_else_has_by_now(host: Host) -> None:
    subject = host.python(
        "import socket\nl = socket.create_server(('127.0.0.1', 0))\nsay('port', l.getsockname()[1])\n"
        "pause_for_dump()\nsay('ok')"
    )
    port = int(subject.said()[0].split()[1])
    assert host.dump(subject).ok
    with socket.create_server(("127.0.0.1", port)):
        refused = host.restore()
        assert not refused.ok
        assert f"127.0.0.1:{port}" in refused.errors()
        assert "ss -anp" in refused.errors()
    assert host.restore().ok
    assert subject.go() == ["ok"]
