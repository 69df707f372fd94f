# SPDX-License-Identifier: GPL-2.0-only
"""TCP and UDP packets made by hand, sent to a socket of this machine as if they came from its peer.

A FIN that the peer has sent, or its word that it has got ours, can be told to a socket in no other way. The packets
never leave the machine: they are for an address that is its own. They carry nf_tables' MARK, so that rules that hold a
connection let them pass.
"""

from __future__ import annotations

import _socket
import struct

from pycriu.errors import KernelError
from pycriu.kernel.nftables import MARK

FIN, SYN, RST, ACK = 1, 2, 4, 16
IPPROTO_TCP, IPPROTO_UDP, _IPPROTO_RAW = 6, 17, 255
_SO_MARK = 36
_TTL = 64
_MASK = 0xFFFFFFFF


def checksum(data: bytes) -> int:
    """RFC 1071."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def segment(source: bytes, destination: bytes, ports: tuple[int, int], numbers: tuple[int, int], flags: int,
            window: int) -> bytes:  # fmt: skip
    """A TCP segment without data or options; `numbers` are its sequence number and what it acknowledges."""
    sequence, acknowledged = (number & _MASK for number in numbers)
    size = 5 << 4
    head = struct.pack(">HHIIBBHHH", *ports, sequence, acknowledged, size, flags, min(window, 0xFFFF), 0, 0)
    return _with_checksum(head, 16, source, destination, IPPROTO_TCP)


def datagram(source: bytes, destination: bytes, ports: tuple[int, int], payload: bytes, protocol: int) -> bytes:
    """A UDP or UDP-Lite datagram; the latter has, in place of its length, 0 for a checksum of everything."""
    head = struct.pack(">HHHH", *ports, 8 + len(payload) if protocol == IPPROTO_UDP else 0, 0)
    return _with_checksum(head + payload, 6, source, destination, protocol)


def _with_checksum(data: bytes, at: int, source: bytes, destination: bytes, protocol: int) -> bytes:
    if len(source) == 4:
        pseudo = source + destination + struct.pack(">BBH", 0, protocol, len(data))
    else:
        pseudo = source + destination + struct.pack(">II", len(data), protocol)
    return data[:at] + struct.pack(">H", checksum(pseudo + data) or 0xFFFF) + data[at + 2 :]


def packet(source: bytes, destination: bytes, protocol: int, data: bytes) -> bytes:
    """An IPv4 or IPv6 packet, by the length of the addresses. The kernel fills in IPv4's id and checksum."""
    if len(source) == 4:
        return struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(data), 0, 0, _TTL, protocol, 0) + source + destination + data
    return struct.pack(">IHBB", 6 << 28, len(data), protocol, _TTL) + source + destination + data


def inject(source: bytes, destination: bytes, protocol: int, data: bytes, scope: int = 0) -> None:
    """Send it to `destination`, an address of this machine; `scope` is the interface of a link-local one."""
    family = _socket.AF_INET if len(source) == 4 else _socket.AF_INET6
    raw = None
    try:
        raw = _socket.socket(family, _socket.SOCK_RAW | 0o2000000, _IPPROTO_RAW)
        raw.setsockopt(_socket.SOL_SOCKET, _SO_MARK, MARK)
        address = _socket.inet_ntop(family, destination)
        to = (address, 0) if len(source) == 4 else (address, 0, 0, scope)
        raw.sendto(packet(source, destination, protocol, data), to)
    except OSError as error:
        raise KernelError("sendto", error.errno or 0, "a packet from the peer to ourselves") from None
    finally:
        if raw is not None:
            raw.close()
