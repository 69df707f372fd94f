# SPDX-License-Identifier: GPL-2.0-only
"""UNIX sequenced-packet sockets: pairs, connections by name, messages in flight with their ends, the end of input."""

import os
import socket
from collections.abc import Iterator

import victim

NAME = f"\0victim-seqpacket-{os.getpid()}"
KIND = socket.SOCK_SEQPACKET


def scenario() -> Iterator[victim.Damage]:
    left, right = socket.socketpair(socket.AF_UNIX, KIND)
    child = victim.child(lambda: answer(right, left))
    right.close()
    victim.wait_until(lambda: victim.sleeping(child), "the child reads")
    server = socket.socket(socket.AF_UNIX, KIND)
    server.bind(NAME)
    server.listen(4)
    client = socket.socket(socket.AF_UNIX, KIND)
    client.connect(NAME)
    accepted, _ = server.accept()
    messages = [b"one", b"two", b"y" * 50000]
    for text in messages:
        client.send(text)
        accepted.send(text[::-1])
    client.shutdown(socket.SHUT_WR)
    offended, rude = socket.socketpair(socket.AF_UNIX, KIND)
    offended.send(b"never read")
    rude.close()
    yield lambda: accepted.recv(99)
    victim.equal([accepted.recv(1 << 17) for _ in range(4)], [*messages, b""], "messages to the server, and the end")
    victim.equal([client.recv(1 << 17) for _ in messages], [text[::-1] for text in messages], "messages to the client")
    victim.equal((client.getpeername(), accepted.getsockname()), (NAME.encode(), NAME.encode()), "the server's name")
    try:
        offended.recv(9)
        raise victim.Failed("nobody hears that the peer did not read all")
    except ConnectionResetError:
        victim.equal(offended.recv(9), b"", "what comes then")
    left.send(b"ask")
    left.send(b"once more")
    victim.equal([left.recv(99), left.recv(99)], [b"ask!", b"once more!"], "what the child answers")
    with socket.socket(socket.AF_UNIX, KIND) as late:
        late.connect(NAME)
        with server.accept()[0] as end:
            late.send(b"new")
            victim.equal(end.recv(9), b"new", "over a new connection")
    left.close()
    victim.join(child, "the child, at the end of its input")


def answer(mine: socket.socket, theirs: socket.socket) -> None:
    theirs.close()
    while text := mine.recv(99):
        mine.send(text + b"!")


victim.play(scenario)
