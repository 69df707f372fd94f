# SPDX-License-Identifier: GPL-2.0-only
"""Packet sockets.

Kept: packet sockets: protocol, interface, filter, memberships, fanout, rings that are not mapped, options
Missing: mapped rings, fanout by a BPF program: refused; packets that were not read
"""

import ctypes
import fcntl
import select
import socket
import struct
from collections.abc import Iterator

import victim

PACKET = 263  # SOL_PACKET
MEMBERSHIP, RX_RING, AUXDATA, ORIGDEV, VERSION, RESERVE, FANOUT = 1, 5, 8, 9, 10, 12, 18
IP = 0x0800
PORT = 9  # discard
EBUSY = 16
SIOCGIFFLAGS, SIOCSIFFLAGS, UP = 0x8913, 0x8914, 1


def scenario() -> Iterator[victim.Damage]:
    try:
        bring_up("lo")
        filtered = listening(socket.SOCK_DGRAM)
    except OSError as error:
        victim.skip(f"no packet socket here: {error.strerror}")
    only_port(filtered, PORT)
    filtered.setsockopt(PACKET, AUXDATA, 1)
    filtered.setsockopt(PACKET, ORIGDEV, 1)
    loopback = socket.if_nametoindex("lo")
    filtered.setsockopt(PACKET, MEMBERSHIP, struct.pack("=iHH8s", loopback, 2, 0, b""))  # all multicast
    team = [listening(socket.SOCK_RAW) for _ in range(2)]
    for one in team:
        one.setsockopt(PACKET, FANOUT, 1 | 1 << 16)  # group 1, load balanced
    ring = listening(socket.SOCK_RAW)
    ring.setsockopt(PACKET, VERSION, 1)
    ring.setsockopt(PACKET, RESERVE, 16)
    ring.setsockopt(PACKET, RX_RING, struct.pack("=4I", 4096, 2, 2048, 4))
    drain(filtered, *team)
    before = [one.getsockname() for one in (filtered, *team, ring)]
    yield lambda: filtered.setsockopt(socket.SOL_SOCKET, 27, 0)  # SO_DETACH_FILTER
    victim.equal([one.getsockname() for one in (filtered, *team, ring)], before, "interfaces and protocols")
    numbers = [filtered.getsockopt(PACKET, option) for option in (AUXDATA, ORIGDEV)]
    victim.equal(numbers, [1, 1], "PACKET_AUXDATA and PACKET_ORIGDEV")
    victim.equal(ring.getsockopt(PACKET, RESERVE), 16, "PACKET_RESERVE")
    victim.equal([one.getsockopt(PACKET, FANOUT) for one in team], [1 | 1 << 16] * 2, "PACKET_FANOUT")
    victim.equal(has_ring(ring), True, "whether there is a ring")
    drain(filtered, *team)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"not this", ("127.0.0.1", PORT + 1))
        sender.sendto(b"this", ("127.0.0.1", PORT))
    victim.check(bool(select.select([filtered], [], [], 10)[0]), "nothing passes the filter")
    victim.equal(filtered.recv(1 << 16)[28:], b"this", "what passes the filter")


def listening(kind: int) -> socket.socket:
    one = socket.socket(socket.AF_PACKET, kind, 0)
    one.bind(("lo", IP))
    return one


def bring_up(name: str) -> None:
    """A group of packet sockets needs an interface that is up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        asked = fcntl.ioctl(any_socket, SIOCGIFFLAGS, struct.pack("16sH14x", name.encode(), 0))
        (flags,) = struct.unpack_from("H", asked, 16)
        if not flags & UP:
            fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", name.encode(), flags | UP))


def only_port(one: socket.socket, port: int) -> None:
    """A filter on the destination port, behind an IP header of 20 bytes."""
    rows = ((0x28, 0, 0, 22), (0x15, 0, 1, port), (6, 0, 0, 0xFFFF), (6, 0, 0, 0))
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *row) for row in rows))
    one.setsockopt(socket.SOL_SOCKET, 26, struct.pack("=H6xQ", len(rows), ctypes.addressof(code)))


def drain(*some: socket.socket) -> None:
    for one in some:
        try:
            while one.recv(1 << 16, socket.MSG_DONTWAIT):
                pass
        except BlockingIOError:
            pass


def has_ring(one: socket.socket) -> bool:
    try:
        one.setsockopt(PACKET, VERSION, 0)
    except OSError as error:
        return error.errno == EBUSY
    return False


victim.play(scenario)
