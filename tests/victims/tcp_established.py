# SPDX-License-Identifier: GPL-2.0-only
"""TCP connections over IPv4 and IPv6, with a peer outside that notices every byte, and within the tree.

Kept: TCP connections: sequence numbers, unread, unacknowledged and unsent data, windows, agreed options, timestamps
Missing: urgent data, keys (TLS, MD5, TCP-AO), MPTCP: refused; the size of the congestion window starts anew
Options: --tcp-established
"""

import contextlib
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator

import victim

FAMILIES = {"v4": (socket.AF_INET, "127.0.0.1"), "v6": (socket.AF_INET6, "::1")}
STEP = struct.Struct("<Q")
UNREAD = bytes(range(256)) * 400


def listen(name: str) -> socket.socket:
    """A listening socket on loopback."""
    family, host = FAMILIES[name]
    return socket.create_server((host, 0), family=family)


def numbers(sock: socket.socket) -> None:
    """Send 0, 1, 2 … as fast as they are answered, and check each answer. What is wrong ends the connection."""
    n = 0
    while True:
        sock.sendall(STEP.pack(n))
        got = take(sock, STEP.size)
        if not got:
            return  # who echoes has seen enough
        if got != STEP.pack(n):
            print(f"the peer sent {n} and got {got!r}", flush=True)
            os._exit(3)
        n += 1
        time.sleep(0.001)


def take(sock: socket.socket, size: int) -> bytes:
    """Exactly so many bytes; fewer where the connection ends."""
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            break
        data += more
    return data


class Peer:
    """The process outside: on each of its connections it behaves as the first byte that it gets says."""

    def __init__(self, listeners: dict[str, socket.socket]) -> None:
        self.listeners = listeners

    def work(self) -> None:
        """Connect, and play until the victim ends."""
        ports = {name: listener.getsockname()[1] for name, listener in self.listeners.items()}
        for listener in self.listeners.values():
            listener.close()
        for name, port in ports.items():
            for kind in (b"n", b"u", b"f", b"w"):
                sock = socket.socket(FAMILIES[name][0])
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 18)
                sock.connect((FAMILIES[name][1], port))
                sock.sendall(kind)
                threading.Thread(target=self.play, args=(kind, sock), daemon=True).start()
        time.sleep(victim.PATIENCE)

    @staticmethod
    def play(kind: bytes, sock: socket.socket) -> None:
        """n: numbers; u: sends what is to stay unread; f: reads only when it is told; w: waits, then answers."""
        with contextlib.suppress(ConnectionError):  # the victim ends as it likes
            Peer.behave(kind, sock)
        sock.close()

    @staticmethod
    def behave(kind: bytes, sock: socket.socket) -> None:
        """The same, until the connection is reset."""
        if kind == b"n":
            numbers(sock)
            return
        if kind == b"u":
            sock.sendall(UNREAD)
        if kind == b"f":
            while not os.path.exists("go"):
                time.sleep(0.02)
        while data := sock.recv(65536):
            sock.sendall(data)


def accept(listener: socket.socket) -> dict[bytes, socket.socket]:
    """The connections of the peer, by kind."""
    found = {}
    for _ in range(4):
        sock, _ = listener.accept()
        sock.settimeout(60)
        found[take(sock, 1)] = sock
    return found


def scenario() -> Iterator[victim.Damage]:
    victim.need_loopback()
    listeners = {name: listen(name) for name in FAMILIES}
    ports = {name: one.getsockname()[1] for name, one in listeners.items()}
    victim.outsider(Peer(listeners).work)
    socks = {name: accept(listener) for name, listener in listeners.items()}
    filled = {name: fill(of[b"f"]) for name, of in socks.items()}
    inner = [inner_pair(name) for name in FAMILIES]
    before = {name: facts(of[b"w"]) for name, of in socks.items()}
    reader = victim.child(lambda: echo([of[b"n"] for of in socks.values()]))
    for of in socks.values():
        of[b"n"].close()
    time.sleep(0.2)
    yield lambda: socks["v4"][b"w"].sendall(b"?")
    for name, of in socks.items():
        of[b"w"].sendall(b"still there?")
        victim.equal(take(of[b"w"], 12), b"still there?", f"{name}: an echo")
        victim.equal(facts(of[b"w"]), before[name], f"{name}: options")
        victim.check(take(of[b"u"], len(UNREAD)) == UNREAD, f"{name}: what was not read")
        of[b"u"].sendall(b"and on")
        victim.equal(take(of[b"u"], 6), b"and on", f"{name}: an echo behind it")
        judge_filled(name, of[b"f"], filled[name])
    for one, other in inner:
        judge_inner(one, other)
    for name, listener in listeners.items():
        late = victim.connected((FAMILIES[name][1], ports[name]))
        sock, _ = listener.accept()
        late.sendall(b"late")
        victim.equal(take(sock, 4), b"late", f"{name}: a connection made later")
    victim.join(reader, "who echoes the numbers")


def echo(socks: list[socket.socket]) -> None:
    """A child: echo numbers until told to go, at least some of them after that."""
    due = dict.fromkeys(socks, 0)
    more = 200
    while more > 0:
        ready, _, _ = select.select(socks, [], [], 60)
        victim.check(bool(ready), "no number comes any more")
        for sock in ready:
            got = take(sock, STEP.size)
            victim.equal(got, STEP.pack(due[sock]), "the number from the peer")
            sock.sendall(got)
            due[sock] += 1
            more -= os.path.exists("go")


def fill(sock: socket.socket) -> int:
    """Send until no more fits: some of it reaches the peer's kernel, some waits here, sent or not."""
    sock.setblocking(False)
    sent = 0
    try:
        while True:
            sent += sock.send(pattern(sent, 10000))
    except BlockingIOError:
        sock.settimeout(60)
    return sent


def pattern(at: int, size: int) -> bytes:
    """Bytes that say where in the stream they belong."""
    first = at // 8
    return b"".join(STEP.pack(n) for n in range(first, first + size // 8 + 2))[at % 8 :][:size]


def judge_filled(name: str, sock: socket.socket, sent: int) -> None:
    """The peer reads now and sends all of it back."""
    at = 0
    while at < sent:
        got = sock.recv(min(65536, sent - at))
        victim.check(bool(got), f"{name}: the connection ended after {at} of {sent} bytes")
        victim.check(got == pattern(at, len(got)), f"{name}: the bytes from {at} on are not those that were sent")
        at += len(got)


def inner_pair(name: str) -> tuple[socket.socket, socket.socket]:
    """A connection both of whose ends are here, with data on its way in both directions."""
    with listen(name) as listener:
        one = victim.connected(listener.getsockname()[:2])
        other, _ = listener.accept()
    for sock in (one, other):
        sock.settimeout(60)
    one.sendall(b"to the other")
    other.sendall(b"to the one")
    return one, other


def judge_inner(one: socket.socket, other: socket.socket) -> None:
    """What was on its way has arrived once, and more does."""
    one.sendall(b" and more")
    victim.equal(take(other, 21), b"to the other and more", "within the tree")
    victim.equal(take(one, 10), b"to the one", "within the tree, backwards")
    other.shutdown(socket.SHUT_WR)
    victim.equal(one.recv(10), b"", "the end within the tree")


def facts(sock: socket.socket) -> dict[str, object]:
    """What two looks at a connection must agree in."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return {
        "names": (sock.getsockname(), sock.getpeername()),
        "state, options, scales": (info[0], info[5], info[6]),
        "congestion": sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16),
        "buffers": [sock.getsockopt(socket.SOL_SOCKET, option) for option in (socket.SO_SNDBUF, socket.SO_RCVBUF)],
        "reuse": sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR),
        "repair": sock.getsockopt(socket.IPPROTO_TCP, 19),
    }


if __name__ == "__main__":
    victim.play(scenario)
