# SPDX-License-Identifier: GPL-2.0-only
"""Raw and ICMP sockets over IPv4 and IPv6: protocol, addresses, filters, headers of their own, checksums.

Kept: raw and ICMP sockets: protocol, addresses, peer, ICMP filters, header included, checksum offset
Missing: packets not yet read: lost, with a warning
"""

import contextlib
import os
import socket
import struct
from collections.abc import Iterator

import victim

IPV6, SOL_RAW, ICMP_FILTER, SOL_ICMPV6, IPV6_CHECKSUM = 41, 255, 1, 58, 7
V4, V6, RAW, DGRAM = socket.AF_INET, socket.AF_INET6, socket.SOCK_RAW, socket.SOCK_DGRAM
PROTOCOL = 253  # for experiments, RFC 3692


def make() -> dict[str, socket.socket]:
    """All sockets."""
    try:
        socks = {
            "icmp": socket.socket(V4, RAW, socket.IPPROTO_ICMP), "icmpv6": socket.socket(V6, RAW, SOL_ICMPV6),
            "v4": socket.socket(V4, RAW, PROTOCOL), "v6": socket.socket(V6, RAW, PROTOCOL),
            "to v4": socket.socket(V4, RAW, PROTOCOL), "to v6": socket.socket(V6, RAW, PROTOCOL),
            "headers": socket.socket(V4, RAW, socket.IPPROTO_RAW),
        }  # fmt: skip
    except PermissionError:
        victim.skip("raw sockets need CAP_NET_RAW")
    with contextlib.suppress(PermissionError):  # the sysctl net.ipv4.ping_group_range allows it, or not
        socks["ping"] = socket.socket(V4, DGRAM, socket.IPPROTO_ICMP)
        socks["ping v6"] = socket.socket(V6, DGRAM, SOL_ICMPV6)
    socks["icmp"].setsockopt(SOL_RAW, ICMP_FILTER, struct.pack("=I", 0xFFFFFFFE))
    socks["icmpv6"].setsockopt(SOL_ICMPV6, ICMP_FILTER, struct.pack("=8I", *range(8)))
    socks["v6"].setsockopt(SOL_RAW, IPV6_CHECKSUM, 2)
    socks["v4"].setsockopt(0, socket.IP_HDRINCL, 1)
    socks["v4"].bind(("127.0.0.1", 0))
    socks["v6"].bind(("::1", 0))
    socks["to v4"].connect(("127.0.0.1", 0))
    socks["to v6"].connect(("::1", 0))
    if "ping" in socks:
        socks["ping"].bind(("127.0.0.1", 0))
    for sock in socks.values():
        sock.settimeout(20)
    return socks


def facts(sock: socket.socket) -> dict[object, object]:
    """What can be asked."""
    found: dict[object, object] = {"name": sock.getsockname(), "protocol": sock.getsockopt(1, 38)}
    for level, option, size in ((0, 3, 4), (SOL_RAW, ICMP_FILTER, 4), (SOL_ICMPV6, 1, 32), (SOL_RAW, 7, 4), (0, 2, 4)):
        with contextlib.suppress(OSError):
            found[level, option] = sock.getsockopt(level, option, size)
    return found


def scenario() -> Iterator[victim.Damage]:
    victim.need_loopback()
    socks = make()
    before = {name: facts(sock) for name, sock in socks.items()}
    yield lambda: socks["icmp"].setsockopt(SOL_RAW, ICMP_FILTER, struct.pack("=I", 0))
    for name, sock in socks.items():
        victim.equal(facts(sock), before[name], name)
    words = os.urandom(12)
    socks["to v4"].send(words)
    victim.equal(socks["v4"].recv(100)[20:], words, "a packet from the one that is connected")
    socks["to v6"].send(words)
    if "ping" in socks:
        echo = struct.pack(">BBHHH", 8, 0, 0, 0, 7) + words
        socks["ping"].sendto(echo, ("127.0.0.1", 0))
        victim.equal(socks["ping"].recv(100)[8:], words, "the answer to a ping")


if __name__ == "__main__":
    victim.play(scenario)
