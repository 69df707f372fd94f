# SPDX-License-Identifier: GPL-2.0-only
"""`restore --wait-pid`: the PIDs of a checkpoint are waited for; all else that stands in the way is said before."""

from __future__ import annotations

import time

from pycriu.errors import Gathering, PidTaken, Several
from pycriu.restoring import holders, spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pycriu.log import Log
    from pycriu.restoring.reading import Checkpoint

INTERVAL = 0.05  # seconds between two looks; one costs some milliseconds


def wait(checkpoint: Checkpoint, seconds: float, log: Log, *, shell_job: bool) -> None:
    """Until nobody has the PIDs, for `seconds` at most; PidTaken with the last holder if that was too short."""
    _refuse_all_else(checkpoint)
    end, said = time.monotonic() + seconds, ""
    while True:
        try:
            look(checkpoint, shell_job=shell_job)
        except PidTaken as error:
            if time.monotonic() >= end:
                raise PidTaken(f"{error.message}, after {seconds:g} s of waiting", error.hint) from None
            if error.message != said:
                said = error.message
                log.info("%s: waiting", said)
                log.flush()
            time.sleep(INTERVAL)
        else:
            return


def look(checkpoint: Checkpoint, *, shell_job: bool) -> None:
    """PidTaken for the first PID that somebody has: of processes, threads, and leaders that have ended."""
    pids = checkpoint.pids()
    spawn.refuse_taken(pids)
    plan = spawn.plan(checkpoint.root, shell_job=shell_job)
    for error in holders.by_members([*pids, *plan.helpers]):
        raise error


def _refuse_all_else(checkpoint: Checkpoint) -> None:
    with Gathering() as gathering:
        checkpoint.check_here()
    errors = [error for error, _ in gathering.found.values() if not isinstance(error, PidTaken)]
    if errors:
        raise errors[0] if len(errors) == 1 else Several(errors)
