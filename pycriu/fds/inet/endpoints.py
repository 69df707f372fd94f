# SPDX-License-Identifier: GPL-2.0-only
"""Addresses of IPv4 and IPv6 sockets: as the kernel, the images and people have them."""

from __future__ import annotations

import _socket
import struct

from pycriu.errors import UserError
from pycriu.fds.inet import settings
from pycriu.kernel.nftables import Connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

AF_INET, AF_INET6 = 2, 10


def nowhere(family: int) -> tuple[Any, ...]:
    """What a socket that is not bound has as its name."""
    return ("0.0.0.0", 0) if family == AF_INET else ("::", 0, 0, 0)


def connection(local: tuple[Any, ...], remote: Any) -> Connection:
    """Both ends, as packets have them."""
    return Connection(packed(local[0]), local[1], packed(remote[0]), remote[1])


def packed(address: str) -> bytes:
    """4 or 16 bytes; an IPv4 address within IPv6 is the former, which its packets have."""
    if ":" not in address:
        return _socket.inet_pton(_socket.AF_INET, address)
    value = _socket.inet_pton(_socket.AF_INET6, address.partition("%")[0])
    return value[12:] if value.startswith(bytes(10) + b"\xff\xff") else value


def unpacked(address: bytes) -> str:
    """As people write it."""
    return _socket.inet_ntop(_socket.AF_INET if len(address) == 4 else _socket.AF_INET6, address)


def words(address: str, family: int) -> list[int]:
    """An address as the image has it: its bytes in network order, taken as numbers of the machine."""
    size = 4 if family == AF_INET else 16
    value = _socket.inet_pton(family, address.partition("%")[0]) if address else bytes(size)
    return list(struct.unpack(f"<{size // 4}I", value))


def address(isk: Any, words: Any, port: int) -> tuple[Any, ...]:
    """The reverse, as bind(2) and connect(2) want it."""
    value = struct.pack(f"<{len(words)}I", *words)
    host = _socket.inet_ntop(isk.family, value)
    if isk.family == AF_INET:
        return host, port
    link_local = (value[:2] >= b"\xfe\x80" and value[:2] < b"\xfe\xc0") or value[0] == 0xFF
    scope = settings.interface_index(isk.ifname.encode()) if isk.ifname and link_local else 0
    return host, port, 0, scope


def bind(sock: _socket.socket, local: Any) -> None:
    """bind(2), with words for what can be done about it."""
    try:
        sock.bind(local)
    except OSError as error:
        hint = {
            98: "somebody else has this port: ss -anp tells who",
            99: "this machine has no such address: ip address add gives it one",
            13: "ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE",
        }.get(error.errno or 0)
        raise UserError(f"a socket cannot be bound to {text(local)} again: {error.strerror}", hint) from None


def is_here(address: bytes) -> bool:
    """Whether this machine has the address: what is sent there does not leave it."""
    family = _socket.AF_INET if len(address) == 4 else _socket.AF_INET6
    if address[:2] >= b"\xfe\x80" and address[:2] < b"\xfe\xc0" and len(address) == 16:
        return True  # of a link, on whose interface alone it goes out
    probe = _socket.socket(family, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        probe.bind((_socket.inet_ntop(family, address), 0))
    except OSError:
        return False
    finally:
        probe.close()
    return True


def text(address: Any) -> str:
    """For messages."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
