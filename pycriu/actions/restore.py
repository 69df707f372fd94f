# SPDX-License-Identifier: GPL-2.0-only
"""`pycriu restore`."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os

from pycriu.actions import Request, light_protobuf
from pycriu.options import RestoreOptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pycriu.actions import Outcome
    from pycriu.log import Log
    from pycriu.restore import RestoreResult


def run(request: Request) -> Outcome:
    """Bring the tree back; attached, stay until its root ends."""
    result = perform(request)
    if request.flag("restore-detached"):
        return 0
    return lambda: stay(result, request.log, keys=request.flag("shell-job"))


def perform(request: Request) -> RestoreResult:
    """The restore that is asked for."""
    pidfile = request.text("pidfile")
    options = RestoreOptions(
        images_dir=request.images,
        work_dir=request.work,
        detached=request.flag("restore-detached"),
        shell_job=request.flag("shell-job"),
        pidfile=os.path.join(request.work, pidfile) if pidfile else None,
        leave_stopped=request.flag("leave-stopped"),
        skip_file_rwx_check=request.flag("skip-file-rwx-check"),
        **request.file_options(),
    )
    light_protobuf()
    from pycriu.restore import restore

    return restore(options, request.log)


def stay(result: RestoreResult, log: Log, *, keys: bool) -> int:
    """Attached restore: here until the root ends. The exit status says how the restore went, as CRIU's does.

    With `keys`, what they send to the foreground of a terminal is for the tree, as a shell leaves it to its jobs.
    """
    log.flush()
    for number in (2, 3):  # SIGINT, SIGQUIT
        _signal.signal(number, _signal.SIG_IGN if keys else _signal.SIG_DFL)
    result.wait()
    return 0
