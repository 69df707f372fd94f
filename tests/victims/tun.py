# SPDX-License-Identifier: GPL-2.0-only
"""TUN and TAP devices: name, index, addresses, routes, several queues, detached ones, and packets in and out.

Missing: packets that nobody has read yet, devices with IFF_VNET_HDR or packet filters (both refused).
"""

import contextlib
import errno
import fcntl
import os
import select
import socket
import struct
from collections.abc import Iterator

import victim

TUNSETIFF, TUNGETIFF, TUNSETQUEUE = 0x400454CA, 0x800454D2, 0x400454D9
TUN, TAP, MULTI_QUEUE, DETACH, NO_PI, UP = 1, 2, 0x100, 0x400, 0x1000, 1
OURS, THEIRS, BEHIND = "198.51.100.1", "198.51.100.2", "203.0.113.9"
MAIN_TABLE, STATIC, UNICAST = 254, 4, 1
REQUEST = struct.Struct("=16sH22x")


def scenario() -> Iterator[victim.Damage]:
    if not os.path.exists("/dev/net/tun"):
        victim.skip("no /dev/net/tun: CONFIG_TUN, or mknod /dev/net/tun c 10 200")
    unattached = os.open("/dev/net/tun", os.O_RDWR)
    (tun, name), (tap, tap_name) = make("vic%d", TUN | NO_PI), make("vtap%d", TAP | NO_PI | MULTI_QUEUE)
    second, _ = make(tap_name, TAP | NO_PI | MULTI_QUEUE)
    fcntl.ioctl(second, TUNSETQUEUE, REQUEST.pack(b"", DETACH))
    configure(name)
    mac = b"\x02\0\0\x12\x34\x56"
    ask(0x8924, struct.pack("=16sH6s16x", tap_name.encode(), 1, mac))
    ask(0x8922, struct.pack("=16si20x", tap_name.encode(), 1400))
    drain(tun)
    before = [about(one) for one in (name, tap_name)]
    yield lambda: ask(0x8922, struct.pack("=16si20x", tap_name.encode(), 1300))
    victim.equal([about(one) for one in (name, tap_name)], before, "index, hardware address, MTU, flags, owner")
    queue = TAP | NO_PI | MULTI_QUEUE
    ends = [(name, TUN | NO_PI), (tap_name, queue), (tap_name, queue | DETACH), ("", errno.EBADFD)]
    victim.equal([interface(fd) for fd in (tun, tap, second, unattached)], ends, "the devices behind the descriptors")
    drain(tun)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind((OURS, 0))
        for to in (THEIRS, BEHIND):
            udp.sendto(b"out", (to, 9))
            packet = next_packet(tun)
            victim.equal((packet[12:16], packet[16:20]), (socket.inet_aton(OURS), socket.inet_aton(to)), "a packet out")
        port = udp.getsockname()[1]
        os.write(tun, datagram(THEIRS, OURS, 9, port, b"in"))
        udp.settimeout(10)
        victim.equal(udp.recvfrom(100), (b"in", (THEIRS, 9)), "a packet in")


def make(name: str, flags: int) -> tuple[int, str]:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    try:
        got = fcntl.ioctl(fd, TUNSETIFF, REQUEST.pack(name.encode(), flags))
    except PermissionError as error:
        victim.skip(f"TUNSETIFF: {error}")
    return fd, got[:16].rstrip(b"\0").decode()


def interface(fd: int) -> tuple[str, int]:
    try:
        name, flags = REQUEST.unpack(fcntl.ioctl(fd, TUNGETIFF, bytes(REQUEST.size)))
    except OSError as error:
        return "", error.errno or 0
    return name.rstrip(b"\0").decode(), flags


def ask(request: int, argument: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, request, argument)


def configure(name: str) -> None:
    """An address, up, and a route to a network behind the other end."""
    label = name.encode()
    for request, address in ((0x8916, OURS), (0x8918, THEIRS)):
        ask(request, struct.pack("=16sH2x4s16x", label, socket.AF_INET, socket.inet_aton(address)))
    ask(0x8914, struct.pack("=16sH22x", label, UP))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as rtnetlink:
        body = struct.pack("=8BI", socket.AF_INET, 24, 0, 0, MAIN_TABLE, STATIC, 0, UNICAST, 0)
        body += struct.pack("=HH4s", 8, 1, socket.inet_aton("203.0.113.0"))  # RTA_DST
        body += struct.pack("=HHI", 8, 4, socket.if_nametoindex(name))  # RTA_OIF
        rtnetlink.send(struct.pack("=IHHII", 16 + len(body), 24, 0x405, 1, 0) + body)  # RTM_NEWROUTE
        victim.equal(struct.unpack_from("=i", rtnetlink.recv(4096), 16)[0], 0, "RTM_NEWROUTE")


def about(name: str) -> list[str]:
    names = ("ifindex", "address", "mtu", "flags", "owner", "group", "tun_flags", "tx_queue_len")
    found = []
    for one in names:
        with open(f"/sys/class/net/{name}/{one}", encoding="ascii") as file:
            found.append(file.read().strip())
    return found


def drain(fd: int) -> None:
    """Packets that the kernel sends of its own accord."""
    while select.select([fd], [], [], 0.3)[0]:
        with contextlib.suppress(BlockingIOError):
            os.read(fd, 65536)


def next_packet(fd: int) -> bytes:
    """The next packet of IPv4."""
    while True:
        victim.check(bool(select.select([fd], [], [], 10)[0]), "no packet comes out")
        packet = os.read(fd, 65536)
        if packet[0] >> 4 == 4 and packet[9] == 17:
            return packet


def datagram(source: str, target: str, from_port: int, to_port: int, data: bytes) -> bytes:
    """UDP over IPv4, without the checksum of UDP."""
    udp = struct.pack("!HHHH", from_port, to_port, 8 + len(data), 0) + data
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, socket.inet_aton(source),
                       socket.inet_aton(target))  # fmt: skip
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    total = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return head[:10] + total.to_bytes(2, "big") + head[12:] + udp


victim.play(scenario)
