# SPDX-License-Identifier: GPL-2.0-only
"""New PIDs: a PID namespace of their own, in which processes have the numbers that they remember.

Programs keep their PIDs in memory (the C library those of threads), so they could not be given others there. Seen from
outside they have new ones. The first process of the namespace is a cr_restart that waits for all of them; it has a
/proc of its own. What is restarted so cannot be saved by a cr_checkpoint outside of the namespace.
"""

from __future__ import annotations

import errno
import json
import os
import signal

from pycriu.blcr import parent
from pycriu.blcr.codes import Failure
from pycriu.errors import KernelError
from pycriu.ownpids import forking, proc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO


def run(live: Callable[[Callable[[int], int]], int], succeeded: Callable[[], int]) -> int:
    """Let `live` restore and wait in a namespace of its own; the exit code. `live` is given what tells that all run."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        child = forking.fork()  # commands that are run here later are not in there
    except KernelError as error:
        raise _impossible(error) from None
    if not child:
        os.close(reader)
        _first(live, writer)
    os.close(writer)
    with open(reader, "rb") as reports:
        try:
            _next(reports)
        except BaseException:  # whatever is in the namespace ends with its first process
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise
        parent.block()
        if code := succeeded():
            return code
        parent.wait(child)
        return parent.end_as(_next(reports))


def _next(reports: IO[bytes]) -> int:
    """The next status that the first process tells; Failure if that is what it tells, or if it tells nothing."""
    line = reports.readline()
    if not line:
        raise Failure(errno.EIO, "Restart failed: the first process of the namespace has ended")
    said = json.loads(line)
    if isinstance(said, int):
        return said
    code, message, details, kind = said
    raise Failure(code, message, tuple(details), kind)


def _first(live: Callable[[Callable[[int], int]], int], writer: int) -> None:
    """The life of the first process: it never returns."""
    try:
        with open(writer, "wb", buffering=0) as reports:
            _report(live, reports)
        while _others_live():
            signal.sigtimedwait({signal.SIGCHLD}, 1)
    finally:
        os._exit(0)


def _report(live: Callable[[Callable[[int], int]], int], reports: IO[bytes]) -> None:
    try:
        proc.own()
        _tell(reports, live(lambda _root: _tell(reports, 0)))
    except KernelError as error:
        _tell_failure(reports, _impossible(error))
    except Failure as failure:
        _tell_failure(reports, failure)


def _tell_failure(reports: IO[bytes], failure: Failure) -> None:
    _tell(reports, [failure.code, failure.message, failure.details, failure.kind])


def _tell(reports: IO[bytes], what: object) -> int:
    reports.write(json.dumps(what).encode() + b"\n")
    return 0


def _others_live() -> bool:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
    except ChildProcessError:
        return False
    return True


def _impossible(error: KernelError) -> Failure:
    return Failure(
        error.errno, f"Restart failed: a PID namespace cannot be made: {error.message}",
        ("--no-restore-pid needs CAP_SYS_ADMIN and CONFIG_PID_NS",),
    )  # fmt: skip
