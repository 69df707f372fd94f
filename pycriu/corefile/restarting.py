# SPDX-License-Identifier: GPL-2.0-only
"""From a core file to a running process in one go: import into a directory that does not outlive it, and restore.

Descriptors are opened here and handed over, so terminals, devices and pipes can be among them; those that nobody names
are ours. The process becomes a job of our session. Where somebody else has its PID, it gets another one.
"""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING, Any

from pycriu.corefile import build, importing, sidecar
from pycriu.corefile.asked import NEW, SAME, Options
from pycriu.corefile.reader import Core
from pycriu.errors import PidTaken
from pycriu.kernel import procfs
from pycriu.options import RestoreOptions, not_told
from pycriu.record import record
from pycriu.restore import restore

if TYPE_CHECKING:
    from collections.abc import Callable

    from pycriu.corefile.asked import Imported
    from pycriu.corefile.descriptors import Line
    from pycriu.corefile.space import Region
    from pycriu.log import Log
    from pycriu.restore import RestoreResult


_TRIES = 5  # of PIDs that are free, and taken a moment later


@record
class Restart:
    """What is asked for."""

    core: str
    executable: str | None = None
    lines: tuple[Line, ...] | None = None  # descriptors; None: ours, 0 to 2
    stopped: bool = False  # leave it under SIGSTOP
    strict: bool = False
    side: str | None = None
    choose: Callable[[Region], bool] | None = None
    told: Callable[[Imported], None] | None = None  # called when it is clear what will be restored
    ready: Callable[[int], None] | None = None  # called with its PID when it is complete, and about to run
    settled: Callable[[], None] = not_told  # called when nothing of it will be undone any more
    detached: bool = True  # whether nobody waits for it
    files: dict[str, Any] = {}  # noqa: RUF012 - nobody changes it; fields of RestoreOptions that are about files


def run(asked: Restart, log: Log) -> RestoreResult:
    """Restart it; on any error nothing of it exists."""
    opened: list[int] = []
    try:
        given = {fd: fd for fd in range(3) if _is_open(fd)}
        for line in asked.lines or ():
            given[line.fd] = line.opened()
            opened.append(given[line.fd])
        with tempfile.TemporaryDirectory(prefix="pycriu-core-") as folder:
            pid, tries = _pid(asked), _TRIES
            while True:
                try:
                    return _restart(asked, folder, given, log, pid)
                except PidTaken:  # by somebody who came a moment ago
                    pid, tries = NEW, tries - 1
                    if not tries or (asked.side or sidecar.beside(asked.core)) is not None:
                        raise
    finally:
        for fd in opened:
            os.close(fd)


def _restart(asked: Restart, folder: str, given: dict[int, int], log: Log, pid: int) -> RestoreResult:
    made = importing.run(
        Options(
            core=asked.core, images_dir=folder, executable=asked.executable, lines=asked.lines, given=tuple(given),
            strict=asked.strict, pid=pid, job=True, side=asked.side, choose=asked.choose,
        )
    )  # fmt: skip
    if asked.told is not None:
        asked.told(made)
    options = RestoreOptions(
        images_dir=folder, work_dir=folder, shell_job=True, leave_stopped=asked.stopped, detached=asked.detached,
        settled=asked.settled,
        hook=lambda stage, root: asked.ready(root) if stage == "pre-resume" and asked.ready is not None else None,
        inherit_fd=tuple(f"fd[{given[fd]}]:{build.EXTERNAL.format(fd)}" for fd in made.given if fd in given),
        **asked.files,
    )  # fmt: skip
    return restore(options, log)


def _pid(asked: Restart) -> int:
    """That of then, unless somebody has it, or the id of one of the other threads."""
    with Core(asked.core) as core:
        return NEW if any(procfs.exists(one.tid) for one in core.threads) else SAME


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
