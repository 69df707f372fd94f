# SPDX-License-Identifier: GPL-2.0-only
"""The other side of a warm start: restore a checkpoint as a child of this process, with what this process was given,
and be for it what it is not: whom others know by its PID, send signals to, and wait for.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import errno
import os
import resource
import sys

from pycriu.errors import ImageError, NotHere, OtherFile
from pycriu.hooks.channel import MESSAGE_ROOM
from pycriu.warmstart.letter import Letter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from pycriu.warmstart.shelf import Place

_ATTEMPTS = 5  # somebody else may get a PID that was free
_SIGKILL, _SIGCHLD, _SIGCONT = 9, 17, 18
_OWN = {4, 5, 7, 8, _SIGKILL, 11, 19, 31, 32, 33}  # nobody can wait for these, or they are faults, or the C library's
_WAITED = tuple(number for number in range(1, 65) if number not in _OWN)
_OF_TERMINAL = (2, 3, 20, 21, 22, 28)  # which the terminal sends to our group, and so to the child, too
_OF_PYTHON = (13, 25)  # SIGPIPE and SIGXFSZ, which it ignores itself
_SI_USER = 0  # and below: sent by a process


def try_to_become(place: Place, argv: list[str], orig_argv: list[str], *, module: bool) -> None:
    """Restore what is kept there and stay until it ends; or return: it is of no use, or not for this start."""
    try:
        said = letter(argv, orig_argv, module=module)
    except OSError:
        return  # the working directory is gone
    if len(said) > MESSAGE_ROOM:
        return
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    deaf = _signal.getsignal(_SIGCHLD) == _signal.SIG_IGN  # execve(2) keeps that, and we would hear of no end
    # The program may be heard of as soon as it runs: what comes for it from then on waits until we look.
    mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, _WAITED)
    try:
        if deaf:
            _signal.signal(_SIGCHLD, _signal.SIG_DFL)
        child = _restored(place, said)
    except Exception as error:  # whatever it is: an ordinary start is none the worse for it
        if deaf:
            _signal.signal(_SIGCHLD, _signal.SIG_IGN)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
        _put_away(place, error)
        return
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    stay(child)


def _put_away(place: Place, error: Exception) -> None:
    """What could not be restored, unless that is because of this start; PYCRIU_SNAPSHOT_LOG is a file that is told."""
    said = f"{type(error).__name__}: {error}"
    try:
        if log := os.environ.get("PYCRIU_SNAPSHOT_LOG"):
            with open(log, "a", errors="replace") as file:
                file.write(f"{said}\n")
        if not isinstance(error, ImportError | NotHere):
            place.discard(said, certain=isinstance(error, ImageError | OtherFile))
    except OSError:
        return  # nobody else could be told either


def letter(argv: list[str], orig_argv: list[str], *, module: bool) -> bytes:
    """What the program is told that comes to life. OSError where the working directory has no name that leads there."""
    here = os.getcwd()
    if not os.path.samestat(os.stat(here), os.stat(".")):
        raise FileNotFoundError(errno.ENOENT, "another directory has its name", here)
    os.chdir(here)  # as the program will: the name may be too long for that, or the user have no right to it
    told = Letter(argv, orig_argv, os.environ, here)
    told.module = module
    told.umask = os.umask(0o77)
    os.umask(told.umask)
    told.ignored = ignored()
    told.blocked = tuple(_signal.pthread_sigmask(_signal.SIG_BLOCK, ()))
    return told.packed()


def ignored() -> tuple[int, ...]:
    """The signals that this process ignores, as nohup(1) and shells let programs do."""
    numbers = (number for number in _WAITED if number not in _OF_PYTHON)
    return tuple(number for number in numbers if _signal.getsignal(number) == _signal.SIG_IGN)


def _restored(place: Place, said: bytes) -> int:
    from pycriu.errors import PidTaken
    from pycriu.log import Log
    from pycriu.options import RestoreOptions
    from pycriu.restore import restore
    from pycriu.restoring import newlife

    start = newlife.Start(place.given)
    options = RestoreOptions(
        images_dir=place.path, work_dir="", shell_job=True, new_life=start, message=said,
        inherit_fd=start.inherit_fd(),
    )  # fmt: skip
    log = Log(0, echo=False)  # what goes wrong is an exception, and warnings are for somebody who has asked
    for _ in range(_ATTEMPTS - 1):
        try:
            return restore(options, log).root_pid
        except PidTaken:
            continue
    return restore(options, log).root_pid


def stay(child: int) -> NoReturn:
    """Hand on signals, stop when the child is stopped, and end as the child ends."""
    while True:
        pid, status = os.waitpid(child, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
        if not pid:
            _hand_on(child, _signal.sigwaitinfo(_WAITED))
        elif os.WIFSTOPPED(status):
            _stop_too(child, os.WSTOPSIG(status))
        elif not os.WIFCONTINUED(status):
            _end_as(status)


def _hand_on(child: int, got: _signal.struct_siginfo) -> None:
    number = got.si_signo
    if number == _SIGCHLD or (number in _OF_TERMINAL and got.si_code > _SI_USER):
        return
    if number != _SIGCONT or _is_stopped(child):  # or it has had it as we have: a shell sends it to the group
        os.kill(child, number)


def _is_stopped(child: int) -> bool:
    with open(f"/proc/{child}/stat", "rb") as file:
        return file.read().rpartition(b") ")[2][:1] == b"T"


def _stop_too(child: int, number: int) -> None:
    """Whoever looks at us, such as a shell, sees that it is stopped; and when we may go on, it may."""
    _forget(number)  # from the terminal, to us as to the child: it would stop us, and our own once more
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (number,))
    os.kill(os.getpid(), number)
    _signal.pthread_sigmask(_signal.SIG_BLOCK, (number,))
    _forget(_SIGCONT)  # by which we go on; later it would undo another stop of the child
    news = os.WNOHANG | os.WNOWAIT | os.WEXITED | os.WSTOPPED | os.WCONTINUED
    if os.waitid(os.P_PID, child, news) is None:  # else it had it, too, and may be stopped once more by now
        os.kill(child, _SIGCONT)


def _forget(number: int) -> None:
    """A signal that waits for us."""
    _signal.sigtimedwait((number,), 0)


def _end_as(status: int) -> NoReturn:
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
