# SPDX-License-Identifier: GPL-2.0-only
"""Addresses of IPv4 and IPv6 sockets: as the kernel, the images and people have them."""

from __future__ import annotations

import _socket
import os
import struct

from pycriu.errors import Unsupported, UserError
from pycriu.fds.inet import settings
from pycriu.kernel import sockdiag
from pycriu.kernel.nftables import Connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

AF_INET, AF_INET6 = 2, 10
EACCES, EADDRINUSE, EADDRNOTAVAIL = 13, 98, 99


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
        raise _refusal(local, error.errno or 0) from None


_HINTS = {
    EADDRINUSE: "somebody else has this port: ss -anp tells who",
    EADDRNOTAVAIL: "this machine has no such address: ip address add gives it one",
    EACCES: "ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE",
}


def _refusal(local: Any, code: int) -> UserError:
    return UserError(f"a socket cannot be bound to {text(local)} again: {os.strerror(code)}", _HINTS.get(code))


def refuse_taken(isk: Any, *, free: bool) -> None:
    """UserError where `bind` would be refused: told from lists, without binding. `free`: any address may be had."""
    if isk.type == _socket.SOCK_RAW or not (any(isk.src_addr) or isk.src_port):
        return
    local = address(isk, isk.src_addr, isk.src_port)
    if any(isk.src_addr) and not free and not is_here(packed(local[0])):
        raise _refusal(local, EADDRNOTAVAIL)
    if isk.src_port and not isk.opts.so_reuseport and any(_is_in_the_way(isk, row) for row in _listed(isk)):
        raise _refusal(local, EADDRINUSE)


def _listed(isk: Any) -> list[sockdiag.Inet]:
    try:
        return [row for family in (AF_INET, AF_INET6) for row in sockdiag.inet(family, isk.proto)]
    except Unsupported:
        return []  # a kernel that does not list them


def _is_in_the_way(isk: Any, row: sockdiag.Inet) -> bool:
    """Whether a socket that is there keeps one of the image from its port."""
    ours, theirs = packed(address(isk, isk.src_addr, isk.src_port)[0]), row.source
    overlap = ours == theirs or not any(ours) or not any(theirs)
    if row.source_port != isk.src_port or not overlap:
        return False
    if isk.type != _socket.SOCK_STREAM:
        return not isk.opts.reuseaddr
    if isk.state == sockdiag.LISTEN or not isk.dst_port:
        return bool(row.state == sockdiag.LISTEN)
    remote = packed(address(isk, isk.dst_addr, isk.dst_port)[0])
    return bool((ours, remote, isk.dst_port) == (theirs, row.destination, row.destination_port))


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
