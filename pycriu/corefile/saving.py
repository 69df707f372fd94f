# SPDX-License-Identifier: GPL-2.0-only
"""`pycriu core save`: a core file of a running process, and beside it all that a core cannot hold.

It is a dump, of which `crit core` makes the core; a process that is to end does so when both files are whole.
"""

from __future__ import annotations

import errno
import os
import signal
import tempfile
from contextlib import suppress
from typing import TYPE_CHECKING

from pycriu.corefile import sidecar
from pycriu.crit import core as writer
from pycriu.crit.output import replaced
from pycriu.crit.space import Memory, opened, processes
from pycriu.dump import dump
from pycriu.errors import TraceeGone, Unsupported, UserError
from pycriu.record import replace
from pycriu.tracing import pstree

if TYPE_CHECKING:
    from typing import Self

    from pycriu.log import Log
    from pycriu.options import DumpOptions


def run(options: DumpOptions, path: str, log: Log) -> tuple[int, int]:
    """Save `options.pid` as the core `path`; its length, and how many bytes of that are no holes.

    With `leave_running` it goes on; else it is stopped until both files are whole, and then killed.
    """
    pid = options.pid
    root = pstree.scan(pid)
    if root.children:
        raise Unsupported(
            f"process {pid} has {len(root.children)} children, a core is of one process",
            "pycriu dump saves trees, and crit core makes core files of its images",
        )
    place = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(place) or not os.access(place, os.W_OK):
        raise UserError(f"{place}: no directory that may be written", "pycriu core save PID CORE")
    for taken in (path, path + sidecar.SUFFIX):
        if os.path.lexists(taken) and not os.path.isfile(taken):
            what = os.strerror(errno.EISDIR) if os.path.isdir(taken) else "not a regular file"
            raise UserError(f"{taken}: {what}", "a file would take its place: choose another name")
    with tempfile.TemporaryDirectory(prefix=".pycriu-core-", dir=place) as folder, _Known(pid) as process:
        leaves = options.leave_running
        dump(replace(options, images_dir=folder, work_dir=folder, leave_stopped=not leaves), log)
        try:
            written = _write(folder, pid, path)
        except BaseException:
            if not leaves and root.stat.state not in "Tt":
                process.send(signal.SIGCONT)
            raise
        if not leaves:
            process.send(signal.SIGKILL)
    return written


class _Known:
    """A process that somebody else may end, and whose PID then may be another's. A scope."""

    def __init__(self, pid: int) -> None:
        try:
            self._fd = os.pidfd_open(pid)
        except ProcessLookupError:
            raise TraceeGone(f"process {pid} has ended") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def send(self, number: int) -> None:
        """A signal, if it still is there."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._fd, number)


def _write(folder: str, pid: int, path: str) -> tuple[int, int]:
    """Both take their names when both are whole: a core with the side-car of another would be another process."""
    with replaced(path + sidecar.SUFFIX) as beside:
        sidecar.pack(folder, beside, sidecar.SAVED, pid, [])
        with opened(folder) as layers:
            (process,) = processes(layers[0])
            with Memory(layers, from_disk=False) as memory:
                return writer.write(path, process, memory, layers[0])
