# SPDX-License-Identifier: GPL-2.0-only
"""`pycriu service`: CRIU's RPC on a socket, for as long as nobody ends it."""

from __future__ import annotations

import gc
import os

from pycriu.actions import Request, light_protobuf
from pycriu.errors import UserError


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
            ready = _to_background()
            if ready < 0:
                os._exit(0)  # the log, the socket and its name are the child's
        with _Pidfile(request):
            _load()
            if ready >= 0:
                _is_ready(ready)
            request.ready()
            try:
                listening.serve()
            except KeyboardInterrupt as number:
                request.log.info("ended by signal %s", *number.args)
    return 0


def _load() -> None:
    """What each worker would have to import."""
    import pycriu.dump
    import pycriu.restore  # noqa: F401


def _to_background() -> int:
    """daemon(3): a child goes on, and gets a descriptor to say that it is ready.

    The parent waits for that, and gets -1; UserError if the child ends first.
    """
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        ready = os.read(reader, 1)
        os.close(reader)
        if not ready:
            raise UserError("the service has not started", "what it said is above, or in its log")
        return -1
    os.close(reader)
    os.setsid()
    return writer


def _is_ready(writer: int) -> None:
    """From here on nobody is told anything but by the log."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.close(null)
    os.write(writer, b"r")
    os.close(writer)


class _Pidfile:
    """A new file with the PID of this process, for as long as it serves."""

    def __init__(self, request: Request) -> None:
        name = request.text("pidfile")
        self._path = os.path.join(request.work, name) if name else ""

    def __enter__(self) -> None:
        if not self._path:
            return
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UserError(f"--pidfile {self._path}: {error.strerror}", "the file must not exist yet") from None
        os.write(fd, str(os.getpid()).encode())
        os.close(fd)

    def __exit__(self, *_: object) -> None:
        if self._path:
            os.unlink(self._path)
