# SPDX-License-Identifier: GPL-2.0-only
"""`pycriu job run --on SIGTERM -- program`: a job that a batch system may interrupt, and start again where it was.

The first start runs the program; a signal of --on has it saved, and ends with status 0; the next start of the same line
goes on from there. The checkpoint lies in `checkpoint` below -D. It stays until the program ends by itself, so that a
start after a crash of the machine has the last one. Other signals are for the program; its end is our end: the same
status, or the same signal.

What standard input, output and error are (but for files that are read, and /dev/null) is not saved: each start has its
own. The program leads a session of its own.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import signal

from pycriu.actions import Request, Signals, light_protobuf
from pycriu.command import streams
from pycriu.command.jobfolder import JobFolder
from pycriu.errors import HookFailed, PycriuError, UserError
from pycriu.options import RestoreOptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pycriu.actions import Outcome

_FORWARDED = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGCONT", "SIGWINCH")
_NOT_NOW = 75  # hooks.program.STATUS_NOT_NOW
_AGAIN = 0.5  # seconds until whoever said so is asked again


def run(request: Request) -> Outcome:
    """Start the program, or bring it back; then stay with it."""
    if request.words[:1] != ["run"] or len(request.words) < 2:
        raise UserError("the words of a job are: run -- PROGRAM ARGUMENTS…", "pycriu job run --on SIGTERM -- ./model")
    job = Job(request, _signals(request.texts("on") or ("SIGTERM",)))
    job.begin()
    return job.stay


def _signals(names: tuple[str, ...]) -> list[int]:
    """SIGTERM, TERM, term, 15, several with commas or bars between."""
    found = []
    for name in "|".join(names).replace(",", "|").split("|"):
        word = name.strip().upper().removeprefix("SIG")
        number = int(word) if word.isascii() and word.isdigit() else getattr(signal, f"SIG{word}", 0)
        if number not in signal.valid_signals() or number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD):
            raise UserError(f"--on {name}: not a signal that can be waited for", "such as SIGTERM or SIGUSR1")
        found.append(int(number))
    return found


class Job:
    """One start of a job, from its beginning to its end or to the next checkpoint."""

    def __init__(self, request: Request, on: list[int]) -> None:
        self._request, self._on = request, on
        self._folder = JobFolder(request.images)
        self._waited = {signal.SIGCHLD, *on, *(getattr(signal, name) for name in _FORWARDED)}
        self._mask: set[int] = set()
        self._pid = 0

    def begin(self) -> None:
        """The program runs; UserError where another start of it does."""
        self._folder.take()
        # What comes from here on waits until somebody looks.
        self._mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, self._waited)
        try:
            self._pid = self._restore() if self._folder.has_checkpoint() else self._start()
            self._note()
        except BaseException:
            _signal.pthread_sigmask(_signal.SIG_SETMASK, self._mask)
            raise

    def stay(self) -> int:
        """Until the program ends, or is saved; the exit status."""
        try:
            return self._attend()
        finally:
            self._request.log.flush()

    # ----------------------------------------------------------------------------------------------------- beginning

    def _start(self) -> int:
        program = self._request.words[1:]
        try:
            return os.posix_spawnp(
                program[0], program, os.environ, setsid=True, setsigmask=(), setsigdef=(signal.SIGPIPE, signal.SIGXFSZ)
            )
        except OSError as error:
            raise UserError(f"{program[0]}: {error.strerror}") from None

    def _restore(self) -> int:
        light_protobuf()
        from pycriu.restore import restore

        options = RestoreOptions(
            images_dir=self._folder.images,
            work_dir=self._request.work,
            detached=True,
            inherit_fd=tuple(f"fd[{fd}]:{name}" for fd, name in self._folder.streams()),
            **self._request.hook_options(),
            **self._request.file_options(),
        )
        try:
            return restore(options, self._request.log).root_pid
        except PycriuError:
            self._request.log.warn("The job begins anew where there is no %s", self._folder.images)
            raise

    def _note(self) -> None:
        """Let later starts know of the program; without that it must not run."""
        try:
            self._folder.runs(self._pid)
        except PycriuError:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            raise

    # ------------------------------------------------------------------------------------------------------ the end

    def _attend(self) -> int:
        asked = 0  # the signal of --on for which the program is to be saved
        while True:
            got = _signal.sigtimedwait(self._waited, _AGAIN) if asked else _signal.sigwaitinfo(self._waited)
            number = got.si_signo if got is not None else 0
            if number == signal.SIGCHLD:
                pid, status = os.waitpid(self._pid, os.WNOHANG)
                if pid:
                    return self._ended(status)
            elif number and number not in self._on:
                os.kill(self._pid, number)
            elif asked := number or asked:
                ended = self._saved(asked)
                if ended is not None:
                    return ended

    def _saved(self, number: int) -> int | None:
        """Save it because of a signal: the exit status, or None if the program wants to be asked again."""
        try:
            self._save()
        except HookFailed as error:
            if error.status != _NOT_NOW:
                return self._failed(error, number)
            self._request.log.warn("%s", error)
            return None
        except PycriuError as error:
            return self._failed(error, number)
        except Exception as bug:  # which the program must not pay for
            self._request.log.bug(bug)
            return self._failed(bug, number)
        self._request.log.info("The job is saved; the next start goes on")
        return 0

    def _failed(self, error: Exception, number: int) -> int:
        """The signal has the meaning that it has for the program."""
        self._request.log.error("the job cannot be saved: %s", error)
        self._request.log.flush()
        self._on = []
        try:
            os.kill(self._pid, number)
        except ProcessLookupError:  # it has ended while it was traced, so it was the dump that has heard how
            return self._ended(getattr(error, "wait_status", signal.SIGKILL))
        return self._attend()

    def _ended(self, status: int) -> int:
        if os.WIFSIGNALED(status):  # the last checkpoint stays: it may have been the machine's fault
            import resource

            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            number = os.WTERMSIG(status)
            if number != signal.SIGKILL:
                _signal.signal(number, _signal.SIG_DFL)
            self._request.log.flush()
            _signal.pthread_sigmask(_signal.SIG_SETMASK, set())
            os.kill(os.getpid(), number)
            return 128 + number
        try:
            self._folder.clear()
        except OSError as error:
            said = "%s: %s; the program has ended, but the next start will go on from the last checkpoint"
            self._request.log.error(said, error.filename, error.strerror)
        return os.WEXITSTATUS(status)

    def _save(self) -> None:
        light_protobuf()
        from pycriu.dump import dump

        given = streams.external()
        asked = Request(
            self._request.values | {"tree": str(self._pid), "external": tuple(given)},
            [], self._folder.images, self._request.work, self._request.log,
        )  # fmt: skip
        self._folder.begin_saving(given)
        try:
            with Signals(), asked.deadline():
                dump(asked.dump_options(), self._request.log)
        except KeyboardInterrupt:
            raise PycriuError("the time of --timeout is over; what was begun has been undone") from None
        finally:
            self._settle()

    def _settle(self) -> None:
        """What cannot be done now, the next start does."""
        try:
            self._folder.end_saving()
        except (OSError, PycriuError) as error:
            self._request.log.warn("%s", error)
