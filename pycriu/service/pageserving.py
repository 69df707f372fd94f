# SPDX-License-Identifier: GPL-2.0-only
"""PAGE_SERVER and PAGE_SERVER_CHLD: a page server in a process of its own, and word of its PID and port."""

from __future__ import annotations

import os
import struct
from contextlib import suppress

from pycriu import log
from pycriu.actions import Request, light_protobuf
from pycriu.errors import PycriuError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from pycriu.service.worker import Worker

_READY = struct.Struct("=cii")  # b"+", PID, port; or b"-" and what is wrong, in words


def start(worker: Worker, perform: Callable[[Callable[[Request], None]], object], *, child: bool) -> tuple[int, int]:
    """PID and port of a page server that listens by now, a child of ours or of nobody; PycriuError if it does not.

    `perform` does work in the surroundings that the client asks for.
    """
    reader, writer = os.pipe()
    started = os.fork()
    if not started:
        os.close(reader)
        _become(worker, perform, writer, child=child)
    os.close(writer)
    said = b""
    while piece := os.read(reader, 1 << 16):
        said += piece
    os.close(reader)
    if not child or not said.startswith(b"+"):
        os.waitpid(started, 0)
    if not said.startswith(b"+"):
        raise PycriuError(said[1:].decode(errors="replace") or "the page server has ended before it was ready")
    _, pid, port = _READY.unpack(said)
    return pid, port


def _become(
    worker: Worker, perform: Callable[[Callable[[Request], None]], object], writer: int, *, child: bool
) -> NoReturn:
    """The new process, or with `child` False its child."""
    status = 1
    try:
        if not child:
            if os.fork():
                os._exit(0)
            os.setsid()
        perform(lambda request: _serve(worker, request, writer))
        status = 0
    except PycriuError as error:
        with suppress(OSError):  # it was ready: then its log says what has become of it
            os.write(writer, b"-" + str(error).encode())
    finally:
        os._exit(status)


def _serve(worker: Worker, request: Request, writer: int) -> None:
    light_protobuf()
    from pycriu.pageserver import server, wire

    tls, address, given = request.tls(), request.text("address"), request.text("ps-socket")
    with server.Server(request.images, request.text("prev-images-dir"), request.log) as place:
        if given:
            with wire.Link(wire.inherited(int(given)), "the client") as link:
                _tell(worker, writer, 0)
                place.serve(link)
            return
        with wire.listen(address, int(request.text("port") or 0)) as waiting:
            port = waiting.getsockname()[1]
            request.log.info("Listening on port %d", port)
            request.log.flush()
            _tell(worker, writer, port)
            server.accept(waiting, place, tls, address)


def _tell(worker: Worker, writer: int, port: int) -> None:
    """The client has its answer from the parent, and no business with this process any more."""
    worker.connection.close()
    os.write(writer, _READY.pack(b"+", os.getpid(), port))
    os.close(writer)
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, log.STDOUT, log.STDERR):
        os.dup2(null, number)
    os.close(null)
