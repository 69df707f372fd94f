# SPDX-License-Identifier: GPL-2.0-only
"""Datagrams that nobody has read: seen without taking them out of a UDP or UDP-Lite socket, and sent to it again.

They come again from the address that sent them, by a packet made by hand that never leaves the machine. Not kept: the
address of ours that they were sent to where the socket is bound to any, interface, time, TTL and type of service;
an empty datagram behind others that a dump before this one has seen already, for the kernel shows it but once.
"""

from __future__ import annotations

import _socket
import ctypes
import select
import struct
import time

from pycriu.errors import ImageError, KernelError
from pycriu.fds import sockets
from pycriu.fds.inet import endpoints
from pycriu.kernel import libc, segment
from pycriu.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

AF_INET, AF_UNSPEC = 2, 0
SO_MEMINFO = 55
MSG_PEEK, MSG_TRUNC, MSG_DONTWAIT = 0x2, 0x20, 0x40
EAGAIN = 11
_LARGEST = 1 << 16
_HEAD = struct.Struct("=16sBHI")  # in the note: sender's address, its length, its port, how many bytes follow
_PATIENCE = 2.0  # seconds for a packet to ourselves


@record
class Datagram:
    """One of them."""

    sender: bytes  # 4 or 16 bytes
    port: int
    data: bytes


def peek(sock: _socket.socket) -> list[Datagram]:
    """All datagrams in the queue. Moves SO_PEEK_OFF, which the caller guards."""
    found: list[Datagram] = []
    seen = 0
    sock.setsockopt(sockets.SOL_SOCKET, sockets.SO_PEEK_OFF, -1)
    while True:
        try:
            data, _, _, sender = sock.recvmsg(_LARGEST, 0, MSG_PEEK | MSG_DONTWAIT)
        except OSError as error:
            if error.errno != EAGAIN:
                raise KernelError("recvmsg", error.errno or 0, "what waits in a socket") from None
            return found
        found.append(Datagram(endpoints.packed(sender[0]), sender[1], data))
        seen += len(data)
        sock.setsockopt(sockets.SOL_SOCKET, sockets.SO_PEEK_OFF, seen)


def pack(datagrams: list[Datagram]) -> bytes:
    """As one note."""
    return b"".join(_HEAD.pack(d.sender, len(d.sender), d.port, len(d.data)) + d.data for d in datagrams)


def parse(note: bytes, name: str) -> list[Datagram]:
    """The same, back; ImageError, with the socket's `name`, for what is none."""
    found, at = [], 0
    while at < len(note):
        if len(note) - at < _HEAD.size:
            raise ImageError(f"{name}: a datagram is cut short")
        sender, length, port, size = _HEAD.unpack_from(note, at)
        at += _HEAD.size
        if length not in (4, 16) or size > min(len(note) - at, _LARGEST):
            raise ImageError(f"{name}: a datagram says something impossible")
        found.append(Datagram(sender[:length], port, note[at : at + size]))
        at += size
    return found


def put_back(sock: _socket.socket, protocol: int, datagrams: list[Datagram], peer: Any) -> int:
    """Send them to `sock`, which is bound and has room; how many have arrived.

    Others may be bound to the same port. So the socket is connected with each sender meanwhile, unless it has a `peer`.
    """
    name = sock.getsockname()
    for number, one in enumerate(datagrams):
        own = endpoints.packed(name[0])
        if not any(own):
            own = bytes([127, 0, 0, 1]) if len(one.sender) == 4 else bytes(15) + b"\1"
        if len(own) != len(one.sender) or not endpoints.is_here(own):
            return number
        if peer is None and one.port:
            _try_connect(sock, one)
        data = segment.datagram(one.sender, own, (one.port, name[1]), one.data, protocol)
        before = _memory(sock)
        segment.inject(one.sender, own, protocol, data, name[3] if name[3:] else 0)
        if not _arrives(sock, before):
            return number
        if peer is None:
            _disconnect(sock)
    return len(datagrams)


def _try_connect(sock: _socket.socket, one: Datagram) -> None:
    family = _socket.AF_INET if len(one.sender) == 4 else _socket.AF_INET6
    host = _socket.inet_ntop(family, one.sender)
    mapped = f"::ffff:{host}" if sock.family != AF_INET and family == AF_INET else host
    try:
        sock.connect((mapped, one.port))
    except OSError:
        return  # there is no way to the sender any more


def _disconnect(sock: _socket.socket) -> None:
    address = ctypes.create_string_buffer(struct.pack("=H26x", AF_UNSPEC))
    libc.call("connect", sock.fileno(), ctypes.addressof(address), 28, what="to nobody")


def _memory(sock: _socket.socket) -> int:
    """Bytes of memory that the receive queue takes."""
    return int.from_bytes(sock.getsockopt(sockets.SOL_SOCKET, SO_MEMINFO, 36)[:4], "little")


def _arrives(sock: _socket.socket, before: int) -> bool:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        if _memory(sock) > before:
            return True
        select.select([], [], [], 0.001)
    return False
