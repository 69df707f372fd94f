# SPDX-License-Identifier: GPL-2.0-only
"""Waiting for a client in a process that signals end, or in which they have handlers of Python's.

Such a handler runs between two steps of the interpreter. A signal that comes behind the last look for one and before
accept(2) has begun is only noted, and nothing wakes the call up: where SIGCHLD and SIGTERM come together that is one
time in a thousand. So it is told to a pipe, too, and a look at both takes the place of the wait: select_tut(2), and the
documentation of signal.set_wakeup_fd.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any


def accept(listener: socket.socket) -> tuple[socket.socket, Any]:
    """accept(2): the connection, and where it comes from. In the main thread; handlers run meanwhile, and may raise."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before = _signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        look = select.poll()
        look.register(reader, select.POLLIN)
        look.register(listener, select.POLLIN)
        while True:
            come = [fd for fd, _ in look.poll()]
            if listener.fileno() in come:
                return listener.accept()
            os.read(reader, select.PIPE_BUF)
    finally:
        _signal.set_wakeup_fd(before)
        os.close(reader)
        os.close(writer)
