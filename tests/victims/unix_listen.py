# SPDX-License-Identifier: GPL-2.0-only
"""UNIX sockets that listen.

Kept: UNIX sockets that listen: connections not yet accepted and their order, the backlog, a task that waits in accept
Missing: without `--skip-in-flight`: connections not accepted with data, or from a client outside or gone: refused
"""

import os
import socket
import struct
from collections.abc import Iterator

import victim

NAME = f"\0victim-listen-{os.getpid()}"
BACKLOG = 2


def scenario() -> Iterator[victim.Damage]:
    server = listening(NAME, BACKLOG)
    first = connect(NAME)
    first.send(b"from the first")
    accepted, _ = server.accept()
    waiting = [connect(NAME, f"client-{number}") for number in range(3)]  # one more than the backlog
    in_child, to_child = socket.socketpair()
    file_server = listening("file", 5)
    child = victim.child(lambda: serve(file_server))
    file_server.close()
    victim.wait_until(lambda: victim.sleeping(child), "the child accepts")
    mixed = listening("mixed", 5)
    visitor = victim.child(lambda: visit(to_child, in_child))
    victim.equal(in_child.recv(9), b"connected", "the word of a child")
    yield waiting[0].close
    victim.equal(accepted.recv(99), b"from the first", "bytes over a connection that was accepted")
    victim.equal(server.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN), 1, "whether it listens")
    late = socket.socket(socket.AF_UNIX)
    late.setblocking(False)
    victim.equal(late.connect_ex(NAME), 11, "one more, where the backlog is full")
    for number, client in enumerate(waiting):
        end, name = server.accept()
        victim.equal(name, f"client-{number}", "who is accepted next")
        client.send(b"now")
        victim.equal(end.recv(9), b"now", "what the accepted one says")
        victim.equal(pid_of_peer(end), os.getpid(), "the PID of who waited")
        end.close()
    late.connect(NAME)
    end, _ = mixed.accept()
    victim.equal(pid_of_peer(end), visitor, "the PID of a child that waited")
    in_child.send(b"go on")
    victim.equal(end.recv(99), b"here I am", "what it says")
    victim.join(visitor, "the child that waited to be accepted")
    with connect("file") as caller:
        caller.send(b"stop")
        victim.equal(caller.recv(9), b"STOP", "what the serving child says")
    victim.join(child, "the child that accepts")


def listening(name: str, backlog: int) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    server.bind(name)
    server.listen(backlog)
    return server


def connect(name: str, own: str | None = None) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    if own is not None:
        client.bind(own)
    client.connect(name)
    return client


def pid_of_peer(end: socket.socket) -> int:
    pid: int = struct.unpack("=iII", end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    return pid


def serve(server: socket.socket) -> None:
    end, _ = server.accept()
    end.send(end.recv(99).upper())


def visit(mine: socket.socket, theirs: socket.socket) -> None:
    theirs.close()
    client = connect("mixed")
    mine.send(b"connected")
    mine.recv(9)
    client.send(b"here I am")


victim.play(scenario)
