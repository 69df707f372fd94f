# SPDX-License-Identifier: GPL-2.0-only
"""The process that was asked to restore: it makes the namespace, and tells which PIDs are whose out here."""

from __future__ import annotations

import errno
import os
import signal
from contextlib import suppress

from pycriu.errors import KernelError, PycriuError, UserError
from pycriu.kernel import procfs
from pycriu.ownpids import forking, init, words
from pycriu.restore import Pidfile, RestoreResult, refuse_pidfile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pycriu.log import Log
    from pycriu.options import RestoreOptions


def restore(options: RestoreOptions, log: Log) -> RestoreResult:
    """As `restore.restore`; `root_pid` is the one that the root has here."""
    refuse_pidfile(options.pidfile)
    log.flush()  # else both of us would write what waits
    ours, theirs = words.lines()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # none must come between fork and try
    first = 0
    try:
        first = _fork()
        if not first:
            ours.close()
            init.live(options, log, theirs, mask)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
        return _attend(first, options, ours, log)
    except BaseException:
        ours.close()
        if first:
            _end(first, alive=ours.said == words.GO)
        else:
            theirs.close()
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        raise


def _fork() -> int:
    """The init: its PID here, 0 in itself."""
    try:
        return forking.fork()
    except KernelError as error:
        if error.call != "unshare":
            raise
        hint = "a PID namespace needs CAP_SYS_ADMIN, and CONFIG_PID_NS"
        raise UserError(f"--new-pid: {error.message}", hint) from None


def _attend(first: int, options: RestoreOptions, line: words.Line, log: Log) -> RestoreResult:
    _, inner = _expect(line, words.MADE)
    root = outer(first, inner)
    with Pidfile(options.pidfile, root):
        options.settled()
        try:
            line.tell(words.GO)
        except BrokenPipeError:
            raise _gone() from None
        _, took, pages = _expect(line, words.DONE)
    log.info("Restored with PID %d here, %d in a PID namespace whose init is PID %d here", root, inner, first)
    return RestoreResult(root, took, pages, lambda: _wait(first, line))


def _expect(line: words.Line, wanted: str) -> list[Any]:
    heard = line.hear()
    if not heard:
        raise _gone()
    if heard[0] == words.FAILED:
        raise UserError(heard[1], heard[2] or None)
    assert heard[0] == wanted
    return heard


def _gone() -> PycriuError:
    return PycriuError("the init of the new PID namespace has ended: it was killed")


def outer(first: int, inner: int) -> int:
    """The PID here of a child of `first` that has the PID `inner` in its own namespace."""
    for name in procfs.text(first, f"task/{first}/children").split():
        known = procfs.parse_status(procfs.text(name, "status"))["NSpid"].split()
        if int(known[-1]) == inner:
            return int(name)
    raise PycriuError(f"process {inner} of the new PID namespace is not to be found in /proc")


def _end(first: int, *, alive: bool) -> None:
    """Let it undo what it has begun; all in the namespace end with it. With a tree that lives it stays."""
    try:
        if not alive:
            os.kill(first, signal.SIGTERM)
        os.waitpid(first, os.WNOHANG if alive else 0)
    except (ProcessLookupError, ChildProcessError):
        pass  # it has ended and been waited for


def _wait(first: int, line: words.Line) -> int:
    """The wait status of the root; that of a killed one, where init was. With the last task init ends, too.

    ChildProcessError, as of wait(2), where that has been told already.
    """
    if line.closed:
        raise ChildProcessError(errno.ECHILD, os.strerror(errno.ECHILD))
    _, status, last = line.hear() or (words.ENDED, signal.SIGKILL, True)
    line.close()
    if last:
        with suppress(ChildProcessError):  # the program waits for all of its children somewhere else, or for none
            os.waitpid(first, 0)
    return int(status)
