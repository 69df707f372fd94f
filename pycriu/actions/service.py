# SPDX-License-Identifier: GPL-2.0-only
"""`pycriu service`: CRIU's RPC on a socket, for as long as nobody ends it."""

from __future__ import annotations

import gc
import os

from pycriu.actions import Request, light_protobuf
from pycriu.command import background


def run(request: Request) -> int:
    """Listen, in the foreground or, with --daemon, in the background; SIGTERM or SIGINT ends it."""
    light_protobuf()
    gc.enable()  # this process lives long
    from pycriu.service import listener

    path = os.path.join(request.work, request.text("address") or listener.DEFAULT_ADDRESS)
    with listener.Listener(path, request.log) as listening:
        request.log.flush()
        ready = -1
        if request.flag("restore-detached"):
            ready = background.begin("the service")
            if ready < 0:
                os._exit(0)  # the log, the socket and its name are the child's
        with background.Pidfile(request.work, request.text("pidfile")):
            _load()
            if ready >= 0:
                background.is_ready(ready)
            try:
                request.ready()
                listening.serve()
            except KeyboardInterrupt as number:
                request.log.info("ended by signal %s", *number.args)
    return 0


def _load() -> None:
    """What each worker would have to import."""
    import pycriu.dump
    import pycriu.restore  # noqa: F401
