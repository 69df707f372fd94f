# SPDX-License-Identifier: GPL-2.0-only
"""Action scripts: programs of the user that are told what stage a dump or restore has come to, by their environment.

CRTOOLS_SCRIPT_ACTION is the stage, CRTOOLS_IMAGE_DIR the directory of the images, CRTOOLS_INIT_PID the PID of the root
where it is known: as CRIU does it. They run in the work directory, with the log as their output. Each is told of each
stage, the last named first, even if another has failed at it.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os

from pycriu.errors import HookFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from pycriu.log import Log

TOO_LATE = ("pre-resume", "post-resume")  # the restore is done: a script that fails is told of and nothing more
DECIDES = "post-dump"  # a script's exit status becomes that of the dump, and the tree runs on
_CANNOT_RUN = 127  # as a shell says it
_SIGKILL, _SIGPIPE, _SIGXFSZ = 9, 13, 25


class Scripts:
    """The programs, called as a hook of `DumpOptions` or `RestoreOptions`."""

    def __init__(self, programs: Sequence[str], images_dir: str, work_dir: str, log: Log) -> None:
        self._programs = programs
        self._images_dir, self._work_dir = images_dir, work_dir
        self._log = log

    def __call__(self, stage: str, pid: int) -> None:
        """Tell them all; HookFailed where one does not end with 0 and it is not too late."""
        environment = os.environ | {"CRTOOLS_SCRIPT_ACTION": stage, "CRTOOLS_IMAGE_DIR": self._images_dir}
        if pid:
            environment["CRTOOLS_INIT_PID"] = str(pid)
        self._log.debug("Running %s scripts", stage)
        self._log.flush()
        failed: HookFailed | None = None
        for program in reversed(self._programs):
            status = self._run(program, environment)
            if status:
                told = abs(status) if stage == DECIDES else 1
                said = f"ended by signal {-status}" if status < 0 else f"exit status {status}"
                error = HookFailed(f"the action script {program} has failed at {stage}: {said}", status=told)
                failed = failed or error
                if stage in TOO_LATE:
                    self._log.error("%s", error)
        if failed and stage not in TOO_LATE:
            raise failed

    def _run(self, program: str, environment: dict[str, str]) -> int:
        """The exit status, or the number of the signal that ended it, negative."""
        child = os.fork()
        if not child:
            self._become(program, environment)
        try:
            os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # its PID is its own until its status is read
        except BaseException:  # a signal has come for us: the script may not have heard of it
            os.kill(child, _SIGKILL)
            os.waitpid(child, 0)
            raise
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def _become(self, program: str, environment: dict[str, str]) -> NoReturn:
        try:
            for number in (_SIGPIPE, _SIGXFSZ):  # which Python ignores
                _signal.signal(number, _signal.SIG_DFL)
            os.chdir(self._work_dir)
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)
            for number in (1, 2):
                os.dup2(self._log.fd, number)
            os.execvpe(program, [program], environment)
        except OSError as error:
            os.write(2, f"{program}: {error.strerror}\n".encode(errors="replace"))
        finally:
            os._exit(_CANNOT_RUN)
