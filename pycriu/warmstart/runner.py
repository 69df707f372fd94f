# SPDX-License-Identifier: GPL-2.0-only
"""The other side of a warm start: restore a checkpoint as a child of this process, with what this process was given,
and be for it what it is not: whom others know by its PID, send signals to, and wait for.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import resource
import sys

from pycriu.hooks.channel import MESSAGE_ROOM
from pycriu.warmstart.letter import Letter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from pycriu.warmstart.shelf import Place

_ATTEMPTS = 5  # somebody else may get a PID that was free
_FORWARDED = (1, 2, 3, 10, 12, 15, 18, 23, 28)  # SIGHUP INT QUIT USR1 USR2 TERM CONT URG WINCH
_OF_TERMINAL = (2, 3, 28)  # which the terminal sends to our group, and so to the child, too
_KEYS = (1, 2, 3, 15)  # which nohup(1) and shells let programs ignore
_SI_USER = 0  # and below: sent by a process
_WAITED = (17, *_FORWARDED)  # SIGCHLD
_SIGKILL = 9


def try_to_become(place: Place, argv: list[str], orig_argv: list[str], *, module: bool) -> None:
    """Restore what is kept there and stay until it ends; or return: it is of no use, or not for this start."""
    said = letter(argv, orig_argv, module=module)
    if len(said) > MESSAGE_ROOM:
        return
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The program may be heard of as soon as it runs: what comes for it from then on waits until we look.
    mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, _WAITED)
    try:
        child = _restored(place, said)
    except Exception as error:  # whatever it is: an ordinary start is none the worse for it
        _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
        _put_away(place, error)
        return
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    stay(child)


def _put_away(place: Place, error: Exception) -> None:
    """What could not be restored; PYCRIU_SNAPSHOT_LOG is a file that is told."""
    said = f"{type(error).__name__}: {error}"
    try:
        place.discard(said)
        if log := os.environ.get("PYCRIU_SNAPSHOT_LOG"):
            with open(log, "a", errors="replace") as file:
                file.write(f"{said}\n")
    except OSError:
        return  # nobody else could be told either


def letter(argv: list[str], orig_argv: list[str], *, module: bool) -> bytes:
    """What the program is told that comes to life."""
    told = Letter(argv, orig_argv, os.environ, os.getcwd())
    told.module = module
    told.umask = os.umask(0o77)
    os.umask(told.umask)
    told.ignored = tuple(number for number in _KEYS if _signal.getsignal(number) == _signal.SIG_IGN)
    return told.packed()


def _restored(place: Place, said: bytes) -> int:
    from pycriu import newlife
    from pycriu.errors import PidTaken
    from pycriu.log import Log
    from pycriu.options import RestoreOptions
    from pycriu.restore import restore

    options = RestoreOptions(
        images_dir=place.path, work_dir="", shell_job=True, new_life=True, message=said,
        inherit_fd=newlife.inherited(),
    )  # fmt: skip
    log = Log(0, echo=False)  # what goes wrong is an exception, and warnings are for somebody who has asked
    for _ in range(_ATTEMPTS - 1):
        try:
            return restore(options, log).root_pid
        except PidTaken:
            continue
    return restore(options, log).root_pid


def stay(child: int) -> NoReturn:
    """Hand on signals, and end as the child ends."""
    status = _ended(child)
    while status is None:
        got = _signal.sigwaitinfo(_WAITED)
        if got.si_signo in _FORWARDED and (got.si_code <= _SI_USER or got.si_signo not in _OF_TERMINAL):
            os.kill(child, got.si_signo)
        status = _ended(child)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    if os.WIFSIGNALED(status):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        number = os.WTERMSIG(status)
        if number != _SIGKILL:
            _signal.signal(number, _signal.SIG_DFL)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _ended(child: int) -> int | None:
    pid, status = os.waitpid(child, os.WNOHANG)
    return status if pid else None
