# SPDX-License-Identifier: GPL-2.0-only
"""`pycriu page-server`."""

from __future__ import annotations

import os

from pycriu.actions import Request, light_protobuf
from pycriu.command import arguments, background

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pycriu.pageserver.server import Server


def run(request: Request) -> int:
    """Receive the pages of one dump."""
    light_protobuf()
    from pycriu.pageserver import server

    with server.Server(request.images, request.text("prev-images-dir"), request.log) as place:
        return _serve(request, place)


def _serve(request: Request, place: Server) -> int:
    from pycriu.pageserver import server, wire

    tls, address, given = request.tls(), request.text("address"), request.text("ps-socket")
    if given:
        number = arguments.number(request.values, "ps-socket")
        with wire.Link(wire.inherited(number), "the client") as link:
            place.serve(link)
        return 0
    port = arguments.number(request.values, "port") if request.text("port") else 0  # as CRIU: any that is free
    with wire.listen(address, port) as waiting:
        request.log.info("Listening on port %d", waiting.getsockname()[1])
        request.log.flush()
        ready = background.begin("the page server") if request.flag("restore-detached") else None
        if ready == -1:
            place.leave()
            return 0
        with background.Pidfile(request.work, request.text("pidfile")):
            request.ready()
            if ready is not None:
                background.is_ready(ready)
            server.accept(waiting, place, tls, address)
    request.log.info("Received %d pages (%d KiB)", place.pages, place.pages * os.sysconf("SC_PAGESIZE") >> 10)
    return 0
