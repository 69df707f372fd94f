# SPDX-License-Identifier: GPL-2.0-only
"""TCP connections that one side or both have finished, over IPv4 and IPv6, with data still on its way.

Kept: TCP connections in CLOSE_WAIT, FIN_WAIT1, FIN_WAIT2, CLOSING, LAST_ACK and SYN_SENT
Options: --tcp-established
"""

import contextlib
import os
import socket
import time
from collections.abc import Iterator

import victim

FAMILIES = {"v4": (socket.AF_INET, "127.0.0.1"), "v6": (socket.AF_INET6, "::1")}
STATES = {
    b"a": 5,  # FIN_WAIT2: we have finished, and the peer knows
    b"b": 8,  # CLOSE_WAIT: the peer has
    b"c": 4,  # FIN_WAIT1: we have, behind more than the peer reads
    b"d": 11,  # CLOSING: and so has the peer
    b"e": 9,  # LAST_ACK: the peer has, and then we have, behind more than it reads
}
ROOM = 1 << 16


def state(sock: socket.socket) -> int:
    """The state of RFC 793, as Linux counts."""
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[0]


def take(sock: socket.socket) -> bytes:
    """Everything up to the end."""
    data = b""
    while more := sock.recv(ROOM):
        data += more
    return data


class Peer:
    """The process outside. It finishes what the first byte says at once, and the rest when the victim judges."""

    def __init__(self, listeners: dict[str, socket.socket], busy: socket.socket) -> None:
        self.listeners, self.busy = listeners, busy

    def work(self) -> None:
        """Connect, then answer on each connection with how much has come."""
        ports = {name: listener.getsockname()[1] for name, listener in self.listeners.items()}
        for listener in self.listeners.values():
            listener.close()
        first = [victim.connected(self.busy.getsockname()) for _ in range(2)]  # the third gets no answer
        socks = [(kind, self.connect(name, port, kind)) for name, port in ports.items() for kind in STATES]
        victim.await_file("full")
        for kind, sock in socks:
            if kind == b"d":
                sock.shutdown(socket.SHUT_WR)
        victim.await_file("go")
        for kind, sock in socks:
            self.answer(kind, sock)
        for sock in first:
            sock.close()
        for _ in range(3):
            caller, _ = self.busy.accept()
        caller.sendall(b"at last")
        caller.close()

    @staticmethod
    def connect(name: str, port: int, kind: bytes) -> socket.socket:
        """One connection, finished by us where its kind says so."""
        sock = socket.socket(FAMILIES[name][0])
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM)
        sock.connect((FAMILIES[name][1], port))
        sock.sendall(kind)
        if kind in b"bde":
            sock.sendall(b"before the end")
            if kind != b"d":
                sock.shutdown(socket.SHUT_WR)
        return sock

    @staticmethod
    def answer(kind: bytes, sock: socket.socket) -> None:
        """Read all, and say how much it was: over the connection, or where that is finished in a file."""
        data = take(sock)
        if kind in b"ac":
            sock.sendall(f"{len(data)} {sum(data)}".encode())
        else:
            name = f"got-{kind.decode()}-{'v6' if sock.family == socket.AF_INET6 else 'v4'}"
            with open(name + "~", "w", encoding="ascii") as file:
                file.write(f"{len(data)} {sum(data)}")
            os.rename(name + "~", name)
        sock.close()


def fill(sock: socket.socket) -> bytes:
    """Send until no more fits, here and at the peer; what was sent."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ROOM)
    sock.setblocking(False)
    data = b""
    quiet = 0
    while quiet < 3:
        piece = bytes((len(data) // 7 + n) % 251 for n in range(5000))
        try:
            data += piece[: sock.send(piece)]
            quiet = 0
        except BlockingIOError:
            quiet += 1
            time.sleep(0.02)
    sock.settimeout(60)
    return data


def scenario() -> Iterator[victim.Damage]:
    victim.need_loopback()
    listeners = {name: socket.create_server((host, 0), family=family) for name, (family, host) in FAMILIES.items()}
    busy = socket.create_server(("127.0.0.1", 0), backlog=1)
    busy_at = busy.getsockname()
    victim.outsider(Peer(listeners, busy).work)
    busy.close()
    socks: dict[tuple[str, bytes], socket.socket] = {}
    for name, listener in listeners.items():
        for _ in STATES:
            sock, _ = listener.accept()
            sock.settimeout(60)
            socks[name, sock.recv(1)] = sock
    sent = {}
    for key, sock in socks.items():
        sent[key] = fill(sock) if key[1] in b"cde" else b""
        if key[1] in b"acde":
            if key[1] == b"e":
                victim.wait_until(lambda sock=sock: state(sock) == 8, "the peer's end")
            sock.shutdown(socket.SHUT_WR)
    with open("full", "w", encoding="ascii"):
        pass
    for key, sock in socks.items():
        victim.wait_until(lambda key=key, sock=sock: state(sock) == STATES[key[1]], f"{key}: state {STATES[key[1]]}")
    connecting = dial(busy_at)
    yield lambda: socks["v4", b"b"].shutdown(socket.SHUT_WR)
    for key, sock in socks.items():
        judge(key, sock, sent[key])
    connecting.settimeout(60)
    victim.equal(connecting.recv(10), b"at last", "who had not been answered yet")


def dial(address: tuple[str, int]) -> socket.socket:
    """Call somebody who does not answer yet."""
    sock = socket.socket()
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        sock.connect(address)
    victim.equal(state(sock), 2, "the state of who calls")
    return sock


def judge(key: tuple[str, bytes], sock: socket.socket, sent: bytes) -> None:
    """What was to come comes, what was to go has gone, once."""
    name, kind = key
    what = f"{name} {kind.decode()}"
    all_of_it = f"{len(sent)} {sum(sent)}"
    if kind in b"bde":
        victim.equal(take(sock), b"before the end", f"{what}: what came before the end")
    if kind == b"b":
        late = b"behind the peer's end"
        sock.sendall(late)
        sock.shutdown(socket.SHUT_WR)
        all_of_it = f"{len(late)} {sum(late)}"
    if kind in b"ac":
        victim.equal(take(sock).decode(), all_of_it, f"{what}: what the peer got")
    else:
        victim.await_file(f"got-{kind.decode()}-{name}")
        with open(f"got-{kind.decode()}-{name}", encoding="ascii") as file:
            victim.equal(file.read(), all_of_it, f"{what}: what the peer got")
    victim.wait_until(lambda: state(sock) == 7, f"{what}: the end of the connection")


if __name__ == "__main__":
    victim.play(scenario)
