# SPDX-License-Identifier: GPL-2.0-only
"""A datagram socket whose peer is a service outside the tree.

Kept: UNIX datagram sockets connected to a service outside, as to a log daemon: connected again by name
Missing: stream and packet connections to outside, peers without a name
Options: --ext-unix-sk
"""

import os
import socket
from collections.abc import Iterator

import victim

NAMES = (f"\0victim-outside-{os.getpid()}", "service")


def scenario() -> Iterator[victim.Damage]:
    services = [socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in NAMES]
    for one, name in zip(services, NAMES, strict=True):
        one.bind(name)
    victim.outsider(lambda: serve(services))
    for one in services:
        one.close()
    clients = [client(name, f"client-{number}") for number, name in enumerate(NAMES)]
    for one in clients:
        one.send(b"before")
        victim.equal(one.recv(99), b"BEFORE", "the service, to begin with")
    yield lambda: clients[0].connect("client-1")
    for one, name in zip(clients, NAMES, strict=True):
        victim.equal(os.fsencode(one.getpeername()), os.fsencode(name), "the peer's name")
        one.send(b"after")
        victim.equal(one.recv(99), b"AFTER", "what the service answers")


def client(name: str, own: str) -> socket.socket:
    one = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    one.bind(own)
    one.settimeout(10)
    one.connect(name)
    return one


def serve(services: list[socket.socket]) -> None:
    import select

    while True:
        for one in select.select(services, [], [])[0]:
            text, sender = one.recvfrom(99)
            one.sendto(text.upper(), sender)


victim.play(scenario)
