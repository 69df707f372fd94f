# SPDX-License-Identifier: GPL-2.0-only
"""Packets of a SOCK_SEQPACKET socket <-> messages: a packet is a message. What comes is hostile until checked."""

from __future__ import annotations

import errno
import socket
import struct

from pycriu.errors import PycriuError, UserError
from pycriu.images import messages as m
from pycriu.images import schema

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from google.protobuf.message import Message

MAX_REQUEST = 1 << 20  # bytes; the largest that a client of CRIU has any use for is a few KiB
MAX_WORDS = 6 << 10  # bytes of an error: go-criu reads 8 KiB of a response
SEND_SECONDS = 30  # for a peer that does not read

_GONE = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN)


class PeerGone(PycriuError):
    """Nobody is at the other end of the connection any more, or nobody who reads."""


class BadRequest(UserError):
    """What came is no request, or holds something that pycriu does not know."""


def prepare(connection: socket.socket) -> None:
    """Make sure that no peer can keep us waiting by not reading."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("=qq", SEND_SECONDS, 0))


def receive(connection: socket.socket) -> m.criu_req:
    """The next request. BadRequest: it came, and is none; PeerGone: there will be none."""
    data = _packet(connection)
    try:
        request = m.criu_req.FromString(data)
    except schema.parse_errors() as error:
        raise BadRequest(f"{len(data)} bytes that are no request: {error}") from None
    strange = next(_strange("criu_req", request), None) or _not_text(request)
    if strange:
        raise BadRequest(strange, "the client speaks a newer version of the protocol than CRIU 4.2's")
    return request


def words(error: PycriuError) -> str:
    """What is wrong, as a response has it: not longer than clients read, and without what no text may have."""
    said = str(error).encode(errors="backslashreplace")
    if len(said) <= MAX_WORDS:
        return said.decode()
    return said[:MAX_WORDS].decode(errors="ignore") + "…\nthe log has the rest"


def send(connection: socket.socket, response: m.criu_resp) -> None:
    """Send a response or a notification."""
    try:
        connection.send(response.SerializeToString(), socket.MSG_NOSIGNAL)
    except OSError as error:
        if error.errno not in (*_GONE, errno.EAGAIN):
            raise
        raise PeerGone(f"the response could not be sent: {error.strerror}") from None


def _packet(connection: socket.socket) -> bytes:
    try:
        size = connection.recv_into(bytearray(1), 1, socket.MSG_PEEK | socket.MSG_TRUNC)
        data = connection.recv(min(size, MAX_REQUEST)) if size else b""
    except OSError as error:
        if error.errno not in _GONE:
            raise
        size = 0
    if not size:
        raise PeerGone("the client has closed the connection")
    if size > MAX_REQUEST:
        raise BadRequest(f"a request of {size} bytes; {MAX_REQUEST} are the most")
    return data


def _strange(path: str, message: Message) -> Iterator[str]:
    """Fields, or values of enums, that the protocol as we know it does not have."""
    from google.protobuf.unknown_fields import UnknownFieldSet

    known = {field.number: field for field in message.DESCRIPTOR.fields}
    unknown: Any = UnknownFieldSet(message)
    for one in unknown:
        field = known.get(one.field_number)
        if field is None:
            yield f"field {one.field_number} of {path} is not known"
        else:
            yield f"{path}.{field.name} has the value {one.data!r}, which is not known"
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for inner in [value] if hasattr(value, "ListFields") else value:
            yield from _strange(f"{path}.{field.name}", inner)


def _not_text(message: Message) -> str | None:
    """What is wrong with a string: bytes that are no UTF-8, or a zero byte, which no path can have."""
    name = schema.not_text(message)
    if name:
        return f"{name} is not UTF-8"
    for field, value in message.ListFields():
        for one in value if field.is_repeated else [value]:
            wrong = _not_text(one) if hasattr(one, "ListFields") else isinstance(one, str) and "\0" in one
            if wrong:
                return wrong if isinstance(wrong, str) else f"{field.name} holds a zero byte"
    return None
