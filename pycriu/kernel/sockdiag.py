# SPDX-License-Identifier: GPL-2.0-only
"""sock_diag(7): every socket of a family in our network namespace, in one request.

Each list is by inode, which is what a descriptor's status has (`st_ino`; the kernel's lists have 32 bits of it). The
parsers are pure. A kernel that cannot list a family is Unsupported, with the symbol that it lacks. Sources:
linux/{unix,inet,netlink,packet}_diag.h and net/*/diag.c.
"""

from __future__ import annotations

import struct

from pycriu.errors import KernelError, Unsupported
from pycriu.kernel.netlink import Netlink, attributes
from pycriu.record import record

AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET = 1, 2, 10, 16, 17
TCP, UDP, UDPLITE, RAW = 6, 17, 136, 255  # protocols of the internet families; RAW lists raw sockets of any protocol
ALL = 0xFFFFFFFF
LISTEN = 10  # TCP_LISTEN, which UNIX sockets say, too
ESTABLISHED, CLOSE = 1, 7

_PROTOCOL, _BY_FAMILY = 4, 20  # NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY
_ABSENT = (2, 22, 93, 95)  # ENOENT, EINVAL, EPROTONOSUPPORT, EOPNOTSUPP: nobody lists this family

_UNIX_REQUEST = struct.Struct("=BBHIIIII")  # family, protocol, -, states, inode, what to show, cookie
_UNIX = struct.Struct("=BBBxIII")  # family, type, state, inode, cookie
_INET_REQUEST = struct.Struct("=BBBBI48x")  # family, protocol, extensions, -, states, any address
_INET = struct.Struct("=BBBB2s2s16s16sIIIIIIII")  # …, ports, addresses, interface, cookie, expires, queues, uid, inode
_NETLINK_REQUEST = struct.Struct("=BBHIIII")  # family, protocol, -, inode, what to show, cookie
_NETLINK = struct.Struct("=BBBBIIIIII")  # family, type, protocol, state, port, destination, group, inode, cookie
_PACKET = struct.Struct("=BBHIII")  # family, type, protocol, inode, cookie


@record
class Unix:
    """A UNIX socket: struct unix_diag_msg with its attributes."""

    inode: int
    type: int  # SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET
    state: int
    name: bytes | None  # as bind(2) got it, a path without its end; an abstract one begins with a zero byte
    file: tuple[int, int] | None  # inode and device (in the kernel's own encoding) of a name in the file system
    peer: int | None  # inode of the other end; 0: it has no descriptor (any more, or not accepted yet); None: no peer
    pending: tuple[int, ...]  # peers of connections not yet accepted; 0: that peer has gone
    queued: int  # listening: connections waiting; else bytes to be read, of datagrams those of the first
    sent: int  # listening: the backlog; else bytes of memory that hold what others have not yet read
    shutdown: int  # 1: no more input, 2: no more output
    uid: int


@record
class Inet:
    """An internet socket: struct inet_diag_msg with its attributes."""

    inode: int  # 0: none has a descriptor for it (TIME_WAIT, a connection not yet accepted)
    family: int
    protocol: int
    state: int
    source: bytes  # 4 or 16 bytes
    source_port: int
    destination: bytes
    destination_port: int
    interface: int
    queued: int  # bytes to be read; listening: connections waiting
    sent: int  # bytes not yet acknowledged; listening: the backlog
    uid: int
    attributes: dict[int, bytes]  # by INET_DIAG_*


INET_DIAG_INFO, INET_DIAG_SKMEMINFO, INET_DIAG_SHUTDOWN, INET_DIAG_PROTOCOL, INET_DIAG_SKV6ONLY = 2, 7, 8, 10, 11


@record
class NetlinkSocket:
    """A netlink socket: struct netlink_diag_msg with its attributes."""

    inode: int
    type: int
    protocol: int
    state: int
    port: int
    destination_port: int
    destination_group: int
    groups: tuple[int, ...]  # 32 bits each, group 1 in the lowest bit of the first
    flags: int  # NDIAG_FLAG_*
    queued: int  # bytes of memory of what is to be read


CB_RUNNING, PKTINFO, BROADCAST_ERROR, NO_ENOBUFS, LISTEN_ALL_NSID, CAP_ACK = 1, 2, 4, 8, 0x10, 0x20


@record
class Packet:
    """A packet socket: struct packet_diag_msg with its attributes."""

    inode: int
    type: int
    protocol: int  # ETH_P_*
    interface: int
    version: int
    reserve: int
    copy_threshold: int
    timestamp: int
    flags: int  # PDI_*
    memberships: tuple[tuple[int, int, int, bytes], ...]  # interface, how often, type, address
    receive_ring: tuple[int, ...] | None  # struct packet_diag_ring: seven numbers
    send_ring: tuple[int, ...] | None
    fanout: int | None
    queued: int  # bytes of memory of what is to be read


RUNNING, AUXDATA, ORIGDEV, VNETHDR, LOSS = 1, 2, 4, 8, 0x10


def unix() -> dict[int, Unix]:
    """All UNIX sockets that have a descriptor or wait to be accepted."""
    show = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x40  # NAME VFS PEER ICONS RQLEN UID
    bodies = _dump(_UNIX_REQUEST.pack(AF_UNIX, 0, 0, ALL, 0, show, ALL, ALL), "UNIX_DIAG")
    return {one.inode: one for one in map(parse_unix, bodies)}


def inet(family: int, protocol: int, *, extensions: int = 0) -> list[Inet]:
    """All sockets of AF_INET or AF_INET6 and TCP, UDP, UDPLITE or RAW, those without an inode, too.

    `extensions` asks for attributes: bit n-1 for INET_DIAG_* n.
    """
    symbol = {TCP: "INET_TCP_DIAG", UDP: "INET_UDP_DIAG", UDPLITE: "INET_UDP_DIAG", RAW: "INET_RAW_DIAG"}[protocol]
    request = _INET_REQUEST.pack(family, protocol, extensions, 0, ALL)
    return [parse_inet(body, protocol) for body in _dump(request, symbol)]


def netlink() -> dict[int, NetlinkSocket]:
    """All netlink sockets of all protocols."""
    every_protocol, show = 255, 0x1 | 0x2 | 0x8  # MEMINFO GROUPS FLAGS
    request = _NETLINK_REQUEST.pack(AF_NETLINK, every_protocol, 0, 0, show, ALL, ALL)
    return {one.inode: one for one in map(parse_netlink, _dump(request, "NETLINK_DIAG"))}


def packet() -> dict[int, Packet]:
    """All packet sockets."""
    show = 0x1 | 0x2 | 0x4 | 0x8 | 0x10  # INFO MCLIST RING_CFG FANOUT MEMINFO
    request = _NETLINK_REQUEST.pack(AF_PACKET, 0, 0, 0, show, ALL, ALL)
    return {one.inode: one for one in map(parse_packet, _dump(request, "PACKET_DIAG"))}


def parse_unix(body: bytes) -> Unix:
    """One answer."""
    _, kind, state, inode, _, _ = _UNIX.unpack_from(body)
    given = attributes(body[_UNIX.size :])
    queued, sent = struct.unpack("=II", given.get(4, bytes(8)))
    name = given.get(0)
    if name and name[0]:
        name = name.removesuffix(b"\0")
    return Unix(
        inode=inode, type=kind, state=state, name=name,
        file=struct.unpack("=II", given[1]) if 1 in given else None,
        peer=_u32(given[2]) if 2 in given else None, pending=_u32s(given.get(3)), queued=queued, sent=sent,
        shutdown=given.get(6, b"\0")[0], uid=_u32(given.get(7)),
    )  # fmt: skip


def parse_inet(body: bytes, protocol: int) -> Inet:
    """One answer of a list of `protocol`; a raw socket says its own."""
    (family, state, _, _, sport, dport, source, destination, interface, _, _, _, queued, sent, uid, inode) = (
        _INET.unpack_from(body)
    )
    given = attributes(body[_INET.size :])
    length = 4 if family == AF_INET else 16
    if protocol == RAW and INET_DIAG_PROTOCOL in given:
        protocol = given[INET_DIAG_PROTOCOL][0]
    return Inet(
        inode, family, protocol, state, source[:length], int.from_bytes(sport, "big"), destination[:length],
        int.from_bytes(dport, "big"), interface, queued, sent, uid, given,
    )  # fmt: skip


def parse_netlink(body: bytes) -> NetlinkSocket:
    """One answer."""
    _, kind, protocol, state, port, to_port, to_group, inode, _, _ = _NETLINK.unpack_from(body)
    given = attributes(body[_NETLINK.size :])
    groups = given.get(1, b"")
    return NetlinkSocket(
        inode, kind, protocol, state, port, to_port, to_group, _u32s(groups[: len(groups) // 4 * 4]),
        _u32(given.get(4)), _u32(given.get(0)),
    )  # fmt: skip


def parse_packet(body: bytes) -> Packet:
    """One answer."""
    _, kind, protocol, inode, _, _ = _PACKET.unpack_from(body)
    given = attributes(body[_PACKET.size :])
    index, version, reserve, threshold, timestamp, flags = struct.unpack("=6I", given.get(0, bytes(24)))
    return Packet(
        inode=inode, type=kind, protocol=protocol, interface=index, version=version, reserve=reserve,
        copy_threshold=threshold, timestamp=timestamp, flags=flags, memberships=_memberships(given.get(1, b"")),
        receive_ring=_u32s(given[2]) if 2 in given else None, send_ring=_u32s(given[3]) if 3 in given else None,
        fanout=_u32(given[4]) if 4 in given else None, queued=_u32(given.get(6)),
    )  # fmt: skip


def _memberships(data: bytes) -> tuple[tuple[int, int, int, bytes], ...]:
    one = struct.Struct("=IIHH32s")  # struct packet_diag_mclist
    whole = data[: len(data) // one.size * one.size]
    return tuple((index, count, kind, address[:size]) for index, count, kind, size, address in one.iter_unpack(whole))


def _u32(data: bytes | None) -> int:
    return int.from_bytes((data or b"")[:4], "little")


def _u32s(data: bytes | None) -> tuple[int, ...]:
    return struct.unpack(f"={len(data or b'') // 4}I", data or b"")


def _dump(request: bytes, symbol: str) -> list[bytes]:
    try:
        with Netlink(_PROTOCOL, "sock_diag") as link:
            return link.dump(_BY_FAMILY, request)
    except KernelError as error:
        if error.errno not in _ABSENT:
            raise
        raise Unsupported(
            f"this kernel does not list sockets of this family ({error.message}): it lacks CONFIG_{symbol}",
            "boot a kernel that has it; `pycriu check --extra` tells what else is missing",
        ) from None
