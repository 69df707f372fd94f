# SPDX-License-Identifier: GPL-2.0-only
"""netlink(7): messages, attributes, and the two conversations that are needed: a dump and an acknowledged request.

The parsers are pure, bytes in and values out. A kernel's refusal is a KernelError of the call that was made.
"""

from __future__ import annotations

import _socket
import struct

from pycriu.errors import KernelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length with header, type, flags, sequence number, port
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr: length with header, type
_TYPE_MASK = 0x3FFF  # NLA_TYPE_MASK: the rest says "nested" and "in network order"

NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP_INTR, NLM_F_DUMP = 1, 4, 0x10, 0x300
SOCK_CLOEXEC = 0o2000000
EINTR, EPROTO, ETIMEDOUT = 4, 71, 110

_RECEIVE = 1 << 18  # bytes; the kernel makes datagrams of 32 KiB and less
_PATIENCE = 5  # seconds for an answer, which the kernel gives at once
_TRIES = 10  # dumps that something changed under


def align(size: int) -> int:
    """Messages and attributes begin at multiples of four bytes."""
    return (size + 3) & ~3


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute with its padding."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    """Attributes by type; of equal ones the last. What is cut short ends the list."""
    return dict(attribute_list(data))


def attribute_list(data: bytes) -> list[tuple[int, bytes]]:
    """Attributes in their order."""
    found, at = [], 0
    while at + _ATTRIBUTE.size <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if size < _ATTRIBUTE.size or at + size > len(data):
            break
        found.append((kind & _TYPE_MASK, data[at + _ATTRIBUTE.size : at + size]))
        at += align(size)
    return found


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """One message to the kernel."""
    return HEADER.pack(HEADER.size + len(body), kind, flags, sequence, 0) + body


def messages(datagram: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Type, flags, sequence number and body of each message of a datagram. What is cut short ends the list."""
    at = 0
    while at + HEADER.size <= len(datagram):
        size, kind, flags, sequence, _ = HEADER.unpack_from(datagram, at)
        if size < HEADER.size or at + size > len(datagram):
            break
        yield kind, flags, sequence, datagram[at + HEADER.size : at + size]
        at += align(size)


def error_of(kind: int, body: bytes) -> int:
    """The errno that an error message or the end of a dump carries; 0: none."""
    return -struct.unpack_from("=i", body)[0] if kind in (NLMSG_ERROR, NLMSG_DONE) and len(body) >= 4 else 0


class Netlink:
    """A conversation with the kernel over one protocol; a context manager. `name` is for errors."""

    def __init__(self, protocol: int, name: str) -> None:
        self._name = name
        self._sequence = 0
        try:
            self._socket = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW | SOCK_CLOEXEC, protocol)
        except OSError as error:
            raise KernelError("socket", error.errno or 0, name) from None
        self._socket.settimeout(_PATIENCE)

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """The bodies of everything that a dump request of type `kind` brings."""
        for _ in range(_TRIES):
            found, disturbed = [], False
            for _, flags, answer in self._answers(kind, NLM_F_DUMP, body):
                found.append(answer)
                disturbed = disturbed or bool(flags & NLM_F_DUMP_INTR)
            if not disturbed:
                return found
        raise KernelError(self._name, EINTR, "what is listed keeps changing")

    def request(self, kind: int, flags: int, body: bytes) -> list[bytes]:
        """Ask for one thing to be done or told; the bodies of what comes before the acknowledgement."""
        return [answer for _, _, answer in self._answers(kind, flags | NLM_F_ACK, body)]

    def _answers(self, kind: int, flags: int, body: bytes) -> Iterator[tuple[int, int, bytes]]:
        self._sequence += 1
        try:
            self._socket.send(message(kind, flags | NLM_F_REQUEST, self._sequence, body))
        except OSError as error:
            raise KernelError("send", error.errno or ETIMEDOUT, self._name) from None
        while True:
            for got, its_flags, sequence, answer in messages(self._receive()):
                if sequence != self._sequence:
                    continue
                if got in (NLMSG_ERROR, NLMSG_DONE):
                    if code := error_of(got, answer):
                        raise KernelError(self._name, code)
                    return
                yield got, its_flags, answer

    def _receive(self) -> bytes:
        try:
            datagram, _, flags, _ = self._socket.recvmsg(_RECEIVE)
        except OSError as error:
            raise KernelError("recvmsg", error.errno or ETIMEDOUT, self._name) from None
        if flags & _socket.MSG_TRUNC:
            raise KernelError(self._name, EPROTO, "an answer longer than any should be")
        return datagram
