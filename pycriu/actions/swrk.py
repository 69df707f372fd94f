# SPDX-License-Identifier: GPL-2.0-only
"""`pycriu swrk FD`: one worker of CRIU's RPC, on a socket that the client has left to us."""

from __future__ import annotations

from pycriu.actions import Request, light_protobuf
from pycriu.errors import UserError


def run(request: Request) -> int:
    """Serve the connection to its end."""
    text = request.words[0] if request.words else ""
    if not text.isascii() or not text.isdigit():
        raise UserError("swrk needs the number of a descriptor", "it is for libraries that start pycriu; see rpc.proto")
    light_protobuf()
    import socket

    from pycriu.service.worker import Worker

    try:
        connection = socket.socket(fileno=int(text))
    except (OSError, OverflowError) as error:
        raise UserError(f"descriptor {text}: {error}") from None
    if (connection.family, connection.type) != (socket.AF_UNIX, socket.SOCK_SEQPACKET):
        connection.detach()
        raise UserError(f"descriptor {text} is no UNIX socket of type SOCK_SEQPACKET")
    with connection:
        connection.set_inheritable(False)
        return Worker(connection, request.values, swrk=True).serve()
