# SPDX-License-Identifier: GPL-2.0-only
"""nf_tables over netlink: one table that drops the packets of given TCP connections, both ways.

A table has, per IP version in use, a set of (source, destination, source port, destination port), each connection in it
twice, and rules that drop what is in the set: where packets enter (before connection tracking, and behind address
translation, where they look as their socket knows them) and where they leave. Our own packets, with MARK, pass.
Sources: linux/netfilter/nf_tables.h, net/netfilter/nf_tables_api.c.
"""

from __future__ import annotations

import _socket
import struct

from pycriu.errors import KernelError
from pycriu.kernel.netlink import NLM_F_ACK, NLM_F_REQUEST, SOCK_CLOEXEC, attribute, error_of, messages
from pycriu.kernel.netlink import message as netlink_message
from pycriu.record import record

MARK = 0xC114  # of packets that the rules let pass; CRIU's, too
ETIMEDOUT = 110
_NO_TABLE = (2, 93, 95, 97)  # ENOENT, EPROTONOSUPPORT, EOPNOTSUPP, EAFNOSUPPORT

_NETFILTER = 12  # NETLINK_NETFILTER
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
_NEWTABLE, _DELTABLE, _NEWCHAIN, _NEWRULE, _NEWSET, _NEWSETELEM, _GETGEN = 0, 2, 3, 6, 9, 12, 16
_CREATE = 0x400  # NLM_F_CREATE
_EXCLUSIVE = 0x200  # NLM_F_EXCL
_APPEND = 0x800  # NLM_F_APPEND
_INET = 1  # NFPROTO_INET: IPv4 and IPv6 in one table
_NESTED = 0x8000
_PATIENCE = 5  # seconds for an answer
_ELEMENTS = 200  # in one message, whose attributes have 64 KiB at most

# Where the rules lie: name, hook, priority. -300 is before connection tracking (-200) and all translation of addresses,
# 300 behind it (100).
_CHAINS = (("prerouting", 0, -300), ("input", 1, 300), ("output", 3, -300))


@record
class _Version:
    """Where an IP version has its addresses, and how `nft list` names the fields of the set."""

    number: int  # NFPROTO_IPV4, NFPROTO_IPV6
    name: str
    source: int  # offset in the header
    length: int
    type: int  # of nft's own: ipv4_addr, ipv6_addr


_VERSIONS = (_Version(2, "v4", 12, 4, 7), _Version(10, "v6", 8, 16, 8))
_PORT_TYPE = 13  # nft's inet_service
_META_MARK, _META_NFPROTO, _META_L4PROTO = 3, 15, 16
_NETWORK, _TRANSPORT = 1, 2
_REGISTER = 8  # NFT_REG32_00: registers of four bytes
_TCP = 6


@record
class Connection:
    """The two ends as packed addresses (4 or 16 bytes) with ports."""

    source: bytes
    source_port: int
    destination: bytes
    destination_port: int


def available() -> str | None:
    """None where nf_tables can be used; else why not."""
    try:
        with _Batch() as batch:
            batch.ask(_GETGEN)
    except KernelError as error:
        return error.message
    return None


def hold(table: str, connections: list[Connection]) -> None:
    """Make the table: from here on no packet of these connections comes in or goes out."""
    with _Batch() as batch:
        batch.add(_NEWTABLE, _CREATE | _EXCLUSIVE, _text(1, table))
        for name, hook, priority in _CHAINS:
            where = attribute(1, _be32(hook)) + attribute(2, _be32(priority))
            body = _text(1, table) + _text(3, name) + _nest(4, where) + _text(7, "filter")
            batch.add(_NEWCHAIN, _CREATE, body)
        for number, version in enumerate(_VERSIONS, 1):
            mine = [one for one in connections if len(one.source) == version.length]
            if mine:
                _hold_version(batch, table, version, number, mine)
        batch.commit()


def _hold_version(batch: _Batch, table: str, version: _Version, number: int, connections: list[Connection]) -> None:
    length = 2 * version.length + 8
    types = version.type << 18 | version.type << 12 | _PORT_TYPE << 6 | _PORT_TYPE
    body = _text(1, table) + _text(2, version.name) + attribute(3, _be32(0)) + attribute(4, _be32(types))
    batch.add(_NEWSET, _CREATE, body + attribute(5, _be32(length)) + attribute(10, _be32(number)))
    for name, _, _ in _CHAINS:
        body = _text(1, table) + _text(2, name) + _nest(4, _expressions(version, number))
        batch.add(_NEWRULE, _CREATE | _APPEND, body)
    keys = [key for one in connections for key in _keys(one)]
    keys = sorted(set(keys))  # a connection within this machine has two sockets
    for at in range(0, len(keys), _ELEMENTS):
        elements = b"".join(_nest(1, _nest(1, attribute(1, key))) for key in keys[at : at + _ELEMENTS])
        body = _text(1, table) + _text(2, version.name) + _nest(3, elements) + attribute(4, _be32(number))
        batch.add(_NEWSETELEM, _CREATE, body)


def let_go(table: str) -> None:
    """Remove the table; nothing happens where there is none, or on a kernel without nf_tables."""
    try:
        with _Batch() as batch:
            batch.add(_DELTABLE, 0, _text(1, table))
            batch.commit()
    except KernelError as error:
        if error.errno not in _NO_TABLE:
            raise


def _keys(one: Connection) -> list[bytes]:
    ports = one.source_port.to_bytes(2, "big") + bytes(2), one.destination_port.to_bytes(2, "big") + bytes(2)
    return [one.source + one.destination + ports[0] + ports[1], one.destination + one.source + ports[1] + ports[0]]


def _expressions(version: _Version, set_id: int) -> bytes:
    """What a rule does: not our own, this IP version, TCP, in the set: drop."""
    words = version.length // 4
    destination, source_port = _REGISTER + words, _REGISTER + 2 * words
    drop = _nest(2, _nest(2, attribute(1, _be32(0))))
    lookup = _text(1, version.name) + attribute(2, _be32(_REGISTER)) + attribute(4, _be32(set_id))
    return b"".join(
        (
            *_compare(_META_MARK, struct.pack("=I", MARK), equal=False),
            *_compare(_META_NFPROTO, bytes([version.number])),
            *_compare(_META_L4PROTO, bytes([_TCP])),
            _load(_REGISTER, _NETWORK, version.source, version.length),
            _load(destination, _NETWORK, version.source + version.length, version.length),
            _load(source_port, _TRANSPORT, 0, 2),
            _load(source_port + 1, _TRANSPORT, 2, 2),
            _expression("lookup", lookup),
            _expression("immediate", attribute(1, _be32(0)) + drop),
        )
    )


def _compare(key: int, value: bytes, *, equal: bool = True) -> tuple[bytes, bytes]:
    register = attribute(1, _be32(_REGISTER))
    test = register + attribute(2, _be32(0 if equal else 1)) + _nest(3, attribute(1, value))
    return _expression("meta", register + attribute(2, _be32(key))), _expression("cmp", test)


def _load(register: int, base: int, offset: int, length: int) -> bytes:
    values = (register, base, offset, length)
    return _expression("payload", b"".join(attribute(kind, _be32(value)) for kind, value in enumerate(values, 1)))


def _expression(name: str, data: bytes) -> bytes:
    return _nest(1, _text(1, name) + _nest(2, data))


def _nest(kind: int, value: bytes) -> bytes:
    return attribute(kind | _NESTED, value)


def _text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def _be32(value: int) -> bytes:
    return struct.pack(">i", value)


class _Batch:
    """Changes that take effect together or not at all; a context manager."""

    def __init__(self) -> None:
        self._messages: list[bytes] = []

    def __enter__(self) -> _Batch:
        try:
            self._socket = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW | SOCK_CLOEXEC, _NETFILTER)
        except OSError as error:
            raise KernelError("socket", error.errno or 0, "nf_tables") from None
        self._socket.settimeout(_PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def add(self, kind: int, flags: int, body: bytes) -> None:
        """One more change."""
        self._put(_SUBSYSTEM << 8 | kind, flags | NLM_F_ACK, _INET, 0, body)

    def ask(self, kind: int) -> None:
        """A single question, whose answer is whether there is one."""
        self._put(_SUBSYSTEM << 8 | kind, NLM_F_ACK, 0, 0, b"")
        self._send(self._messages[0], 1)

    def commit(self) -> None:
        """Make the changes; KernelError for the first that the kernel refuses, and then none is made."""
        changes = len(self._messages)
        self._put(_BATCH_BEGIN, 0, 0, _SUBSYSTEM, b"")
        self._put(_BATCH_END, 0, 0, _SUBSYSTEM, b"")
        *middle, begin, end = self._messages
        self._send(b"".join((begin, *middle, end)), changes)

    def _put(self, kind: int, flags: int, family: int, resource: int, body: bytes) -> None:
        header = struct.pack(">BBH", family, 0, resource)
        self._messages.append(netlink_message(kind, flags | NLM_F_REQUEST, len(self._messages) + 1, header + body))

    def _send(self, datagram: bytes, acknowledgements: int) -> None:
        try:
            # Twice the size is what the kernel wants to see free; it refuses what does not fit its own limit.
            self._socket.setsockopt(_socket.SOL_SOCKET, 32, 2 * len(datagram))  # SO_SNDBUFFORCE
            self._socket.setsockopt(_socket.SOL_SOCKET, 33, 1 << 20)  # SO_RCVBUFFORCE: for the acknowledgements
            self._socket.send(datagram)
            seen = 0
            while seen < acknowledgements:
                for kind, _, _, body in messages(self._socket.recv(1 << 16)):
                    if code := error_of(kind, body):
                        raise KernelError("nf_tables", code)
                    seen += kind == 2  # NLMSG_ERROR with 0: an acknowledgement
        except OSError as error:
            raise KernelError("nf_tables", error.errno or ETIMEDOUT) from None
