# SPDX-License-Identifier: GPL-2.0-only
"""Netlink sockets.

Kept: netlink sockets: protocol, port, groups, destination, options
Missing: messages that the task has not read: refused; what the kernel tells while the task is away
"""

import contextlib
import socket
import struct
from collections.abc import Iterator

import victim

USER, ROUTE, UEVENT = 2, 0, 15  # netlink protocols
NETLINK, ADD_MEMBERSHIP = 270, 1
OPTIONS = {"PKTINFO": 3, "BROADCAST_ERROR": 4, "NO_ENOBUFS": 5, "CAP_ACK": 10, "EXT_ACK": 11}
FAR_GROUP = 31
GETLINK, NEWLINK, DUMP, DONE = 18, 16, 0x301, 3


def scenario() -> Iterator[victim.Damage]:
    hearer, speaker = make(USER), make(USER)
    hearer.bind((0, 0b101))
    hearer.setsockopt(NETLINK, ADD_MEMBERSHIP, FAR_GROUP)
    speaker.bind((0, 0))
    asker = make(ROUTE)
    asker.bind((0, 0))
    for number in OPTIONS.values():
        asker.setsockopt(NETLINK, number, 1)
    connected = make(USER)
    connected.connect((hearer.getsockname()[0], 0))
    unbound = make(UEVENT)
    before = [one.getsockname() for one in (hearer, speaker, asker, connected, unbound)]
    yield lambda: asker.setsockopt(NETLINK, OPTIONS["EXT_ACK"], 0)
    now = [one.getsockname() for one in (hearer, speaker, asker, connected, unbound)]
    victim.equal(now, before, "ports and groups")
    victim.equal([asker.getsockopt(NETLINK, number) for number in OPTIONS.values()], [1] * len(OPTIONS), "options")
    for group in (1, 3, FAR_GROUP):
        speak(speaker, group)
        victim.equal(hearer.recv(99), b"to group %d" % group, "what a group hears")
    speak(speaker, 4)  # which nobody hears
    connected.send(b"to the peer")
    victim.equal(hearer.recvfrom(99), (b"to the peer", (connected.getsockname()[0], 0)), "what a connected one sends")
    victim.check("lo" in links(asker), "the kernel does not answer")


def make(protocol: int) -> socket.socket:
    one = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    one.settimeout(10)
    return one


def speak(speaker: socket.socket, group: int) -> None:
    with contextlib.suppress(ConnectionRefusedError):  # a copy goes to the kernel, which has no part in this protocol
        speaker.sendto(b"to group %d" % group, (0, 1 << group - 1))


def links(asker: socket.socket) -> list[str]:
    asker.send(struct.pack("=IHHIIBxHiII", 32, GETLINK, DUMP, 1, 0, socket.AF_UNSPEC, 0, 0, 0, 0))
    found, kind = [], 0
    while kind != DONE:
        data = asker.recv(1 << 16)
        while data:
            size, kind = struct.unpack_from("=IH", data)
            if kind == NEWLINK:
                found.append(socket.if_indextoname(struct.unpack_from("=i", data, 20)[0]))
            data = data[size + 3 & ~3 :]
    return found


victim.play(scenario)
