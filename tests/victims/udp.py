# SPDX-License-Identifier: GPL-2.0-only
"""UDP and UDP-Lite sockets over IPv4 and IPv6: bound, connected, shut down, their options and multicast groups.

Kept: UDP and UDP-Lite sockets: addresses, peer, options, multicast groups with their sources, datagrams not yet read
Missing: how unread datagrams came (interface, time, TTL), empty ones on a second dump; UDP_CORK with data (refused)
"""

import contextlib
import os
import socket
import struct
from collections.abc import Iterator

import victim

IPV6 = 41
FAMILIES = {"v4": (socket.AF_INET, "127.0.0.1"), "v6": (socket.AF_INET6, "::1")}
UDPLITE = 136
MCAST_JOIN_GROUP, MCAST_JOIN_SOURCE_GROUP, MCAST_MSFILTER = 42, 46, 48
IP_OPTIONS = [
    (0, socket.IP_TTL, 9), (0, socket.IP_TOS, 0x10), (0, 8, 1), (0, 10, 2), (0, 11, 1), (0, 12, 1), (0, 13, 1),
    (0, socket.IP_MULTICAST_TTL, 7), (0, socket.IP_MULTICAST_LOOP, 0), (0, 49, 0), (0, 20, 1), (0, 15, 1),
]  # fmt: skip
IPV6_OPTIONS = [
    (IPV6, 16, 8), (IPV6, 18, 6), (IPV6, 19, 0), (IPV6, 25, 1), (IPV6, 49, 1), (IPV6, 51, 1), (IPV6, 66, 1),
    (IPV6, 67, 0x20), (IPV6, 29, 0), (IPV6, 23, 2), (IPV6, 72, 2),
]  # fmt: skip
UDP_OPTIONS = [(17, 104, 1), (17, 103, 1000), (1, socket.SO_BROADCAST, 1), (1, 11, 1)]


def make(name: str, protocol: int) -> dict[str, socket.socket]:
    """Sockets of one family and protocol."""
    family, host = FAMILIES[name]

    def one() -> socket.socket:
        sock = socket.socket(family, socket.SOCK_DGRAM, protocol)
        sock.settimeout(20)
        return sock

    bound, connected, other, fresh, shut = one(), one(), one(), one(), one()
    bound.bind((host, 0))
    other.bind((host, 0))
    connected.connect(other.getsockname()[:2])
    shut.connect(other.getsockname()[:2])
    shut.shutdown(socket.SHUT_WR)
    shared = [one(), one()]
    for sock in shared:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, shared[0].getsockname()[1]))
    options = IP_OPTIONS if family == socket.AF_INET else IP_OPTIONS[:2] + IPV6_OPTIONS
    for level, option, value in options + (UDP_OPTIONS if protocol == 17 else [(UDPLITE, 10, 8), (UDPLITE, 11, 8)]):
        with contextlib.suppress(OSError):
            fresh.setsockopt(level, option, value)
    names = ("bound", "connected", "other", "fresh", "shut", "shared", "shared, too")
    return dict(zip(names, (bound, connected, other, fresh, shut, *shared), strict=True))


def facts(sock: socket.socket) -> dict[object, object]:
    """Names, options."""
    found: dict[object, object] = {"name": sock.getsockname(), "blocking": sock.gettimeout()}
    try:
        found["peer"] = sock.getpeername()
    except OSError as error:
        found["peer"] = error.errno
    for level, option, _ in [*IP_OPTIONS, *IPV6_OPTIONS, *UDP_OPTIONS, (UDPLITE, 10, 0), (UDPLITE, 11, 0)]:
        with contextlib.suppress(OSError):
            found[level, option] = sock.getsockopt(level, option)
    with contextlib.suppress(OSError):
        found["reuse"] = [sock.getsockopt(1, option) for option in (2, 15)]
    return found


def join_groups() -> dict[str, socket.socket]:
    """Members of groups: of all sources, and of one. Without CONFIG_IP_MULTICAST nobody lists those of IPv4."""
    lo = socket.if_nametoindex("lo")
    if not os.path.exists("/proc/net/igmp"):
        return {"v6": join_groups_v6(lo)}
    v4 = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    v4.setsockopt(0, MCAST_JOIN_GROUP, struct.pack("=I4x", lo) + address("239.1.2.3"))
    v4.setsockopt(0, MCAST_JOIN_SOURCE_GROUP, struct.pack("=I4x", lo) + address("239.1.2.4") + address("127.0.0.9"))
    return {"v4": v4, "v6": join_groups_v6(lo)}


def join_groups_v6(lo: int) -> socket.socket:
    """The same over IPv6."""
    v6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    v6.setsockopt(IPV6, MCAST_JOIN_GROUP, struct.pack("=I4x", lo) + address("ff02::1234"))
    v6.setsockopt(IPV6, MCAST_JOIN_SOURCE_GROUP, struct.pack("=I4x", lo) + address("ff35::99") + address("::1"))
    return v6


def address(text: str) -> bytes:
    """struct sockaddr_storage."""
    if ":" in text:
        head = struct.pack("=HHI", socket.AF_INET6, 0, 0) + socket.inet_pton(socket.AF_INET6, text)
    else:
        head = struct.pack("=HH", socket.AF_INET, 0) + socket.inet_aton(text)
    return head.ljust(128, b"\0")


def groups(name: str, sock: socket.socket) -> list[object]:
    """Mode and sources in each of the groups; an errno where it is no member."""
    found: list[object] = []
    for group in ("239.1.2.3", "239.1.2.4", "239.1.2.5") if name == "v4" else ("ff02::1234", "ff35::99"):
        level = 0 if name == "v4" else IPV6
        found.append(msfilter(sock, level, group))
    return found


def msfilter(sock: socket.socket, level: int, group: str) -> object:
    """getsockopt(MCAST_MSFILTER), which reads its argument, too."""
    import ctypes

    request = struct.pack("=I4x128sII", socket.if_nametoindex("lo"), address(group), 0, 2).ljust(144 + 256, b"\0")
    data, size = ctypes.create_string_buffer(request, len(request)), ctypes.c_uint32(len(request))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.getsockopt(sock.fileno(), level, MCAST_MSFILTER, data, ctypes.byref(size)):
        return ctypes.get_errno()
    mode, count = struct.unpack_from("=II", data.raw, 136)
    return mode, count, data.raw[144 : 144 + 32 * count]


def scenario() -> Iterator[victim.Damage]:
    victim.need_loopback()
    protocols = {"UDP": 17}
    with contextlib.suppress(OSError):
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM, UDPLITE).close()
        protocols["UDP-Lite"] = UDPLITE
    socks = {
        f"{kind} {name} {what}": sock
        for kind, protocol in protocols.items()
        for name in FAMILIES
        for what, sock in make(name, protocol).items()
    }
    members = join_groups()
    before = {name: facts(sock) for name, sock in socks.items()}
    joined = {name: groups(name, sock) for name, sock in members.items()}
    for kind in protocols:
        for name in FAMILIES:
            start = f"{kind} {name}"
            for n in range(3):
                socks[f"{start} connected"].send(f"unread {n}".encode())
            socks[f"{start} bound"].sendto(b"from another", socks[f"{start} other"].getsockname()[:2])
    yield members["v6"].close
    for name, sock in socks.items():
        victim.equal(facts(sock), before[name], name)
    for name, sock in members.items():
        victim.equal(groups(name, sock) if sock.fileno() >= 0 else None, joined[name], f"groups over {name}")
    for kind in protocols:
        for name in FAMILIES:
            judge(f"{kind} {name}", socks)


def judge(start: str, socks: dict[str, socket.socket]) -> None:
    """Datagrams that were not read, and new ones."""
    connected, other, bound = (socks[f"{start} {what}"] for what in ("connected", "other", "bound"))
    for n in range(3):
        victim.equal(other.recvfrom(100), (f"unread {n}".encode(), connected.getsockname()), f"{start}: a datagram")
    victim.equal(other.recvfrom(100), (b"from another", bound.getsockname()), f"{start}: one from another")
    connected.send(b"there")
    got, sender = other.recvfrom(100)
    victim.equal(got, b"there", f"{start}: there")
    other.sendto(b"and back", sender)
    victim.equal(connected.recv(100), b"and back", f"{start}: back")
    try:
        socks[f"{start} shut"].send(b"x")
    except BrokenPipeError:
        return
    victim.check(False, f"{start}: it could be written to after shutdown(2)")


if __name__ == "__main__":
    victim.play(scenario)
