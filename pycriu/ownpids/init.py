# SPDX-License-Identifier: GPL-2.0-only
"""PID 1 of the new namespace: it restores the tree, and then lives for it. When it is killed, the tree is."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

from pycriu.errors import KernelError, PidTaken, PycriuError, UserError
from pycriu.kernel import libc
from pycriu.ownpids import proc, words
from pycriu.record import replace
from pycriu.restore import restore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from pycriu.log import Log
    from pycriu.options import RestoreOptions
    from pycriu.restore import RestoreResult

PR_SET_PDEATHSIG = 1
NAME = "pycriu-init"
_ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


def live(options: RestoreOptions, log: Log, line: words.Line, mask: set[int]) -> NoReturn:
    """All of the process's life, in a fork that has the PID 1. Signals are blocked; `mask` is what is to be instead."""
    status = 1
    try:
        result = _restored(options, log, line, mask)
        if result is not None:
            _retire(line)
            _reap(result.root_pid, line)
            status = 0
    except BrokenPipeError:
        pass  # nobody wants to know
    finally:
        os._exit(status)


def _restored(options: RestoreOptions, log: Log, line: words.Line, mask: set[int]) -> RestoreResult | None:
    try:
        _forget_handlers()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _settle_in(options)
        result = restore(replace(options, pidfile=None, hook=lambda stage, pid: _tell(line, stage, pid)), log)
    except PidTaken as error:  # nobody is here but ourselves
        said = f"in a new PID namespace, too: {error.message}", "PID 1 in there is the init of pycriu"
    except PycriuError as error:
        said = error.message, error.hint or ""
    except KeyboardInterrupt as interrupt:
        said = f"interrupted by signal {interrupt.args[0]}; what was begun has been undone", ""
    except Exception as bug:  # a fork must not run on in the interpreter of its parent
        log.bug(bug)
        said = f"{type(bug).__name__}: {bug}", ""
    else:
        log.flush()  # before the other side writes, too
        with suppress(BrokenPipeError):  # the tree lives, whoever asked for it
            line.tell(words.DONE, result.took, result.pages)
        return result
    log.flush()
    line.tell(words.FAILED, *said)
    return None


def _forget_handlers() -> None:
    """Those of the program that has called us have nothing to do here; what would end it undoes all."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if number in _ENDING and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupted)
        elif callable(signal.getsignal(number)) or number == signal.SIGCHLD:
            signal.signal(number, signal.SIG_DFL)


def _interrupted(number: int, _frame: object) -> None:
    for later in _ENDING:
        signal.signal(later, signal.SIG_IGN)
    raise KeyboardInterrupt(number)


def _settle_in(options: RestoreOptions) -> None:
    """Nobody survives the one who asked for this; and /proc shows who is here."""
    libc.call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL)
    with open("/proc/self/comm", "w") as file:
        file.write(NAME)
    if not options.shell_job:
        os.setsid()
    try:
        proc.own()
    except KernelError as error:
        raise UserError(f"--new-pid: {error.message}", "a mount namespace and a new /proc need CAP_SYS_ADMIN") from None


def _tell(line: words.Line, stage: str, pid: int) -> None:
    """When all stand still, and may be let go: who we are is told outside, and the pidfile written."""
    if stage != "pre-resume":
        return
    line.tell(words.MADE, pid)
    if line.hear() != [words.GO]:
        raise UserError("nobody waits for the restored tree any more")
    for number in signal.valid_signals():  # from here on the tree lives, and init is safe from all but SIGKILL
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_IGN)
    libc.call("prctl", PR_SET_PDEATHSIG, 0)


def _retire(line: words.Line) -> None:
    """Nothing of the restore stays open."""
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    for fd in sorted(int(name) for name in os.listdir("/proc/self/fd")):
        if fd > 2 and fd != line.writer:
            with suppress(OSError):  # that of the listing
                os.close(fd)


def _reap(root: int, line: words.Line) -> None:
    """Until nobody is left: no task, nor whoever has come in by setns(2), as to dump the tree."""
    while True:
        try:
            pid, status = os.wait()
        except ChildProcessError:
            if not _somebody():
                return
            time.sleep(0.1)
            continue
        if pid == root:
            _reap_others()
            with suppress(BrokenPipeError):  # detached: nobody has waited
                line.tell(words.ENDED, status, not _somebody())
            os.close(line.writer)
            root = 0  # another process may get its number


def _reap_others() -> None:
    """Those that have ended before or with the root."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _somebody() -> bool:
    return any(name.isdigit() and name != "1" for name in os.listdir("/proc"))
