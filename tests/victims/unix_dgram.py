# SPDX-License-Identifier: GPL-2.0-only
"""UNIX datagram sockets.

Kept: UNIX datagram sockets: pairs, many to one, messages in flight with senders and credentials, peers that are gone
Missing: credentials sent to a socket without SO_PASSCRED
Missing: empty datagrams that an earlier dump of the same queue has seen
"""

import os
import socket
import struct
from collections.abc import Iterator

import victim

SERVER = f"\0victim-dgram-{os.getpid()}"
DGRAM = socket.SOCK_DGRAM
LONG = b"x" * 70000


def scenario() -> Iterator[victim.Damage]:
    left, right = socket.socketpair(socket.AF_UNIX, DGRAM)
    for text in (b"one", b"two", LONG, b"four"):
        left.send(text)
    server, file_server = bound(SERVER), bound("server")
    child = victim.child(lambda: speak(file_server))
    clients = [client(SERVER, f"client-{number}") for number in range(3)]
    clients.append(client(SERVER, None))
    for number, one in enumerate(clients):
        one.send(b"hello %d" % number)
    passing = client(SERVER, "passing")
    passing.send(b"and gone")
    passing.close()
    os.unlink("passing")
    signed, signer = credentials()
    widow = widowed("late")
    mutual, other = bound("mutual"), bound("other")
    mutual.connect("other")
    other.connect("mutual")
    empty, emptier = socket.socketpair(socket.AF_UNIX, DGRAM)
    emptier.send(b"")
    yield lambda: clients[0].send(b"too much")
    victim.equal([right.recv(1 << 17) for _ in range(4)], [b"one", b"two", LONG, b"four"], "messages of a pair")
    names = ["client-0", "client-1", "client-2", None, "passing"]
    texts = [b"hello 0", b"hello 1", b"hello 2", b"hello 3", b"and gone"]
    victim.equal([server.recvfrom(99) for _ in names], list(zip(texts, names, strict=True)), "messages and senders")
    for one in clients:
        one.send(b"again")
    victim.equal([server.recvfrom(99)[0] for _ in clients], [b"again"] * 4, "what arrives later")
    judge_credentials(signed, signer)
    try:
        widow.send(b"anybody?")
        raise victim.Failed("a peer that is gone takes messages")
    except ConnectionRefusedError:
        victim.equal(widow.getsockname(), "widow", "the name of one whose peer is gone")
    victim.equal((mutual.getpeername(), other.getpeername()), ("other", "mutual"), "two that are connected")
    mutual.send(b"between us")
    victim.equal(other.recvfrom(99), (b"between us", "mutual"), "what one of them says")
    victim.equal(empty.recv(9, socket.MSG_DONTWAIT), b"", "an empty message")
    with client("server", "master") as master:
        master.send(b"stop")
        victim.equal(master.recvfrom(99), (b"stopping", "server"), "what the child answers")
    victim.join(child, "the child")


def bound(name: str) -> socket.socket:
    one = socket.socket(socket.AF_UNIX, DGRAM)
    one.bind(name)
    return one


def client(to: str, name: str | None) -> socket.socket:
    one = socket.socket(socket.AF_UNIX, DGRAM) if name is None else bound(name)
    one.connect(to)
    return one


def widowed(name: str) -> socket.socket:
    """A socket whose peer has ended."""
    with bound(name):
        one = client(name, "widow")
    os.unlink(name)
    return one


def speak(server: socket.socket) -> None:
    text, sender = server.recvfrom(99)
    victim.equal(text, b"stop", "what the child is told")
    server.sendto(b"stopping", sender)


def credentials() -> tuple[socket.socket, int]:
    """Messages of this process, and of a child that has ended; both ends stay open."""
    mine, theirs = socket.socketpair(socket.AF_UNIX, DGRAM)
    mine.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    theirs.send(b"me")
    child = victim.child(lambda: theirs.send(b"my child"))
    victim.join(child, "who sends")
    keep.append(theirs)
    return mine, child


keep: list[socket.socket] = []


def judge_credentials(one: socket.socket, child: int) -> None:
    for text, pid in ((b"me", os.getpid()), (b"my child", child)):
        data, control, _, _ = one.recvmsg(99, 999)
        told = [struct.unpack("=iII", value) for _, kind, value in control if kind == 2]
        victim.equal((data, told), (text, [(pid, os.getuid(), os.getgid())]), "a message with credentials")


victim.play(scenario)
