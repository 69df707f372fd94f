# SPDX-License-Identifier: GPL-2.0-only
"""UNIX stream sockets.

Kept: UNIX stream sockets: pairs, names (path, abstract, deleted, renamed), bytes in flight, half-closed ends
Kept: their options, the credentials of the peer, peers that are gone
Missing: connections to outside; out-of-band bytes
Missing: a PID in the credentials of a peer that another process has at the restore
"""

import os
import socket
import struct
from collections.abc import Callable, Iterator

import victim

ABSTRACT = f"\0victim-{os.getpid()}"
Judge = Callable[[], None]
PEEK_OFF = 42
ANOTHER = 12345  # user and group of the child that connects
LARGE = bytes(range(256)) * 1000


def scenario() -> Iterator[victim.Damage]:
    left, right = socket.socketpair()
    echo = victim.child(lambda: echo_upper(right, left))
    right.close()
    victim.wait_until(lambda: victim.sleeping(echo), "the child reads")
    server, client = connected("both-ways")
    client.send(b"to the server")
    server.send(b"to the client")
    judges = [names(), renamed(), ends(), flight(), credentials(), options()]
    yield lambda: server.recv(3)
    left.send(b"hello")
    victim.equal(left.recv(99), b"HELLO", "what the child answers")
    victim.equal(server.recv(99), b"to the server", "bytes for the server")
    victim.equal(client.recv(99), b"to the client", "bytes for the client")
    for judge in judges:
        judge()
    made_by = struct.unpack("=iII", left.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    victim.equal(made_by, os.getpid(), "the PID of who made the pair")
    left.close()
    victim.join(echo, "the child, at the end of its input")


def echo_upper(mine: socket.socket, theirs: socket.socket) -> None:
    theirs.close()
    while text := mine.recv(99):
        mine.send(text.upper())


def listening(name: str) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    server.bind(name)
    server.listen(3)
    return server


def connected(name: str) -> tuple[socket.socket, socket.socket]:
    """The accepted end and the client; who listened is gone."""
    with listening(name) as server:
        client = socket.socket(socket.AF_UNIX)
        client.connect(name)
        return server.accept()[0], client


def credentials() -> Judge:
    """The accepted end of a connection that a process with another user made, which has ended since."""
    with listening("open-to-all") as server:
        os.chmod("open-to-all", 0o666)
        client = socket.socket(socket.AF_UNIX)
        fd = os.open("open-to-all", os.O_PATH)
        who = victim.child(lambda: connect_as_another(client, fd))
        victim.join(who, "who connects as another user")
        os.close(fd)
        end, _ = server.accept()

    def judge() -> None:
        told = struct.unpack("=iII", end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        victim.equal(told, (who, ANOTHER, ANOTHER), "PID, user and group of who connected")
        client.send(b"x")
        victim.equal(end.recv(9), b"x", "what the one says that another connected")

    return judge


def connect_as_another(client: socket.socket, fd: int) -> None:
    os.setgroups([])
    os.setresgid(ANOTHER, ANOTHER, ANOTHER)
    os.setresuid(ANOTHER, ANOTHER, ANOTHER)
    os.chdir("/")
    client.connect(f"/proc/self/fd/{fd}")


def options() -> Judge:
    one, other = socket.socketpair()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 30000)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 6)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 5)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 9))
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("=qq", 2, 250000))
    one.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    one.setblocking(False)
    before = values(one), values(other)

    def judge() -> None:
        victim.equal((values(one), values(other)), before, "options of a pair")

    return judge


def values(one: socket.socket) -> list[object]:
    numbers = (socket.SO_SNDBUF, socket.SO_PRIORITY, socket.SO_RCVLOWAT, socket.SO_PASSCRED)
    long = (one.getsockopt(socket.SOL_SOCKET, option, 16) for option in (socket.SO_RCVTIMEO, socket.SO_LINGER))
    return [*(one.getsockopt(socket.SOL_SOCKET, option) for option in numbers), *long, os.get_blocking(one.fileno())]


def names() -> Judge:
    wanted = [os.path.abspath("absolute"), "relative", ABSTRACT.encode(), "deleted"]
    pairs = [connected(name) for name in wanted]
    os.unlink("deleted")

    def judge() -> None:
        victim.equal([server.getsockname() for server, _ in pairs], wanted, "names of the servers")
        victim.equal([client.getpeername() for _, client in pairs], wanted, "names that the clients see")
        victim.equal([client.getsockname() or "" for _, client in pairs], [""] * 4, "names of the clients")
        victim.check(not os.path.exists("deleted"), "a deleted socket has come back")

    return judge


def renamed() -> Judge:
    server = listening("before")
    os.rename("before", "after")
    os.chmod("after", 0o641)
    os.chown("after", 7, 8)

    def judge() -> None:
        victim.equal(server.getsockname(), "before", "the name of a socket whose file was renamed")
        status = os.stat("after")
        victim.equal((status.st_mode & 0o7777, status.st_uid, status.st_gid), (0o641, 7, 8), "mode and owner")
        victim.check(not os.path.exists("before"), "its old name has come back")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect("after")
            with server.accept()[0] as end:
                client.send(b"new")
                victim.equal(end.recv(9), b"new", "over a new connection")

    return judge


def ends() -> Judge:
    half, other = socket.socketpair()
    half.send(b"the last words")
    half.shutdown(socket.SHUT_WR)
    widow, gone = socket.socketpair()
    gone.send(b"left behind")
    gone.close()
    offended, rude = socket.socketpair()
    offended.send(b"never read")
    rude.close()

    def judge() -> None:
        victim.equal((other.recv(99), other.recv(99)), (b"the last words", b""), "what is read before the end")
        other.send(b"still there?")
        victim.equal(half.recv(99), b"still there?", "what the half-closed end reads")
        victim.check(fails(lambda: half.send(b"no")) is BrokenPipeError, "an end that was shut down can be written to")
        victim.equal((widow.recv(99), widow.recv(99)), (b"left behind", b""), "what a peer left that is gone")
        error = fails(lambda: offended.recv(9))
        victim.check(error is ConnectionResetError, "nobody hears that the peer did not read all")

    return judge


def fails(action: Callable[[], object]) -> type[OSError] | None:
    try:
        action()
    except OSError as error:
        return type(error)
    return None


def flight() -> Judge:
    full, filled = socket.socketpair()
    filled.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 19)
    filled.sendall(LARGE)
    peeked, peeker = socket.socketpair()
    peeker.send(b"0123456789")
    peeked.setsockopt(socket.SOL_SOCKET, PEEK_OFF, 4)

    def judge() -> None:
        data = b""
        while len(data) < len(LARGE):
            data += full.recv(1 << 16, socket.MSG_DONTWAIT)
        victim.equal(data, LARGE, "256 KB in flight")
        filled.send(b"x")
        victim.equal(full.recv(9, socket.MSG_DONTWAIT), b"x", "what is sent later")
        victim.equal(peeked.recv(3, socket.MSG_PEEK), b"456", "SO_PEEK_OFF")

    return judge


victim.play(scenario)
