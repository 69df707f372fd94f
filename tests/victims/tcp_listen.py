# SPDX-License-Identifier: GPL-2.0-only
"""TCP sockets without a connection, over IPv4 and IPv6: fresh, bound, listening, with shared ports, ended ones.

Kept: TCP sockets without a connection: fresh, bound, listening (backlog, shared ports, dual stack, options), ended
Missing: connections not yet accepted (dropped with --skip-in-flight, else refused); what TCP_SAVED_SYN would tell
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator

import victim

TCP_FASTOPEN, TCP_DEFER_ACCEPT = 23, 9
REUSE = (socket.SO_REUSEADDR, socket.SO_REUSEPORT)


def listener(family: int, address: str, *, port: int = 0, backlog: int = 7, **options: int) -> socket.socket:
    """A listening socket; `options` are names of the socket module with values, set before it is bound."""
    sock = socket.socket(family)
    for name, value in options.items():
        level = socket.SOL_SOCKET if name.startswith("SO_") else 41 if name.startswith("IPV6") else socket.IPPROTO_TCP
        sock.setsockopt(level, getattr(socket, name), value)
    sock.bind((address, port))
    sock.listen(backlog)
    return sock


def info(sock: socket.socket) -> tuple[object, ...]:
    """State, backlog, name and options."""
    data = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    tcp = [sock.getsockopt(socket.IPPROTO_TCP, n) for n in (TCP_FASTOPEN, TCP_DEFER_ACCEPT, socket.TCP_NODELAY)]
    common = [sock.getsockopt(socket.SOL_SOCKET, n) for n in (*REUSE, socket.SO_SNDBUF, socket.SO_RCVBUF)]
    any_v6 = sock.getsockname()[0] == "::"  # elsewhere the option says nothing
    v6only = sock.getsockopt(41, socket.IPV6_V6ONLY) if any_v6 else None
    backlog = struct.unpack_from("=I", data, 28)[0] if data[0] == 10 else 0
    return data[0], backlog, sock.getsockname(), tcp, common, v6only, sock.getblocking()


def ended(family: int, host: str) -> socket.socket:
    """A connection that both sides have ended, with bytes that were not read."""
    with socket.create_server((host, 0), family=family) as server:
        one = victim.connected(server.getsockname()[:2])
        other, _ = server.accept()
    other.sendall(b"last words")
    other.shutdown(socket.SHUT_WR)
    victim.wait_until(lambda: state(one) == 8, "the peer's end")
    one.shutdown(socket.SHUT_WR)
    victim.wait_until(lambda: state(one) == 7, "the end of the connection")
    other.close()
    return one


def state(sock: socket.socket) -> int:
    """The state of RFC 793, as Linux counts."""
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[0]


def make() -> dict[str, socket.socket]:
    """All sockets."""
    v4, v6 = socket.AF_INET, socket.AF_INET6
    socks = {
        "fresh": socket.socket(v4), "fresh v6": socket.socket(v6),
        "listening": listener(v4, "127.0.0.1"), "listening v6": listener(v6, "::1", backlog=3),
        "both stacks": listener(v6, "::", IPV6_V6ONLY=0), "v6 only": listener(v6, "::", IPV6_V6ONLY=1),
        "reused": listener(v4, "127.0.0.2", SO_REUSEADDR=1, backlog=1000),
        "any address": listener(v4, "0.0.0.0", SO_REUSEADDR=0),
        "ended": ended(v4, "127.0.0.1"), "ended v6": ended(v6, "::1"),
    }  # fmt: skip
    shared = listener(v4, "127.0.0.1", SO_REUSEPORT=1)
    socks["shared"] = shared
    socks["shared, too"] = listener(v4, "127.0.0.1", port=shared.getsockname()[1], SO_REUSEPORT=1)
    same = socks["v6 only"].getsockname()[1]
    socks["same port on v4"] = listener(v4, "0.0.0.0", port=same)
    bound = socks["bound"] = socket.socket(v4)
    bound.bind(("127.0.0.1", 0))
    second = socks["bound, too"] = socket.socket(v4)
    for sock in (bound, second):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    second.bind(bound.getsockname())
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    options = socks["options"] = listener(v4, "127.0.0.1")
    options.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN, 5)
    options.setsockopt(socket.IPPROTO_TCP, TCP_DEFER_ACCEPT, 3)
    options.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 50000)
    options.setblocking(False)
    return socks


def scenario() -> Iterator[victim.Damage]:
    victim.need_loopback()
    socks = make()
    accepter = victim.child(lambda: accept_all([socks[name] for name in ("listening", "listening v6", "both stacks")]))
    before = {name: info(sock) for name, sock in socks.items()}
    os.set_inheritable(socks["bound"].fileno(), True)
    yield lambda: socks["listening"].listen(99)
    for name, sock in socks.items():
        victim.equal(info(sock), before[name], name)
    for name in ("listening", "listening v6", "both stacks"):
        family, address = socks[name].family, socks[name].getsockname()
        with socket.socket(family) as client:
            client.settimeout(20)
            client.connect(("::1" if address[0] == "::" else address[0], address[1]))
            victim.equal(client.recv(10), b"welcome", f"{name}: from who accepts")
    victim.join(accepter, "who accepts")
    victim.check(os.get_inheritable(socks["bound"].fileno()), "close-on-exec")
    for name in ("ended", "ended v6"):
        sock = socks[name]
        victim.equal(sock.recv(100), b"last words", f"{name}: what was not read")
        victim.equal(sock.recv(100), b"", f"{name}: the end")
        try:
            sock.send(b"x")
        except BrokenPipeError:
            continue
        victim.check(False, f"{name}: it could be written to")
    try:
        socks["fresh"].recv(1)
    except OSError as error:
        victim.equal(error.errno, errno.ENOTCONN, "reading from a fresh socket")


def accept_all(listeners: list[socket.socket]) -> None:
    """A child: one connection of each, one after the other."""
    for sock in listeners:
        client, _ = sock.accept()
        client.sendall(b"welcome")
        client.close()


if __name__ == "__main__":
    victim.play(scenario)
