# SPDX-License-Identifier: GPL-2.0-only
"""One thread of a tree that stands still is let go for a while, and stopped again, because somebody else needs it.

All its signals are blocked meanwhile, so that no handler runs in a process whose other threads stand.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import time

from pycriu.errors import PycriuError, TraceeGone
from pycriu.kernel import ptrace
from pycriu.tracing import interrupted
from pycriu.tracing.tracee import ALL_SIGNALS, SIGTRAP, Tracee

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pycriu.tracing.pstree import Freeze

_INTERRUPTS = {1, 2, 14, 15}  # SIGHUP, SIGINT, SIGALRM (--timeout), SIGTERM
_PATIENCE = 10.0  # seconds for a stop
_CALM, _LOOK = 0.05, 0.0005  # seconds for the thread to fall asleep, and between two looks whether it has
_MASK = ALL_SIGNALS & ~(1 << SIGTRAP - 1)


class Alone:
    """The scope in which the thread runs. `tree` is the freeze that has it; None: it is of a restore.

    `note` is called with its id and its signal mask before that is changed, and with zeros when it is what it was.
    """

    def __init__(self, task: Tracee, note: Callable[[int, int], None], tree: Freeze | None = None) -> None:
        self._task, self._note, self._tree = task, note, tree
        self._mask = 0

    def __enter__(self) -> None:
        before = _signal.pthread_sigmask(_signal.SIG_BLOCK, _INTERRUPTS)
        try:
            tid = self._task.tid
            self._mask = ptrace.get_sigmask(tid)
            self._note(tid, self._mask)
            ptrace.set_sigmask(tid, _MASK)
            if self._tree is not None:
                self._tree.let_run(tid)
            else:
                ptrace.set_options(tid, ptrace.O_EXITKILL)  # threads that it makes now are not for us to stop
                ptrace.cont(tid)
        finally:
            _signal.pthread_sigmask(_signal.SIG_SETMASK, before)

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        before = _signal.pthread_sigmask(_signal.SIG_BLOCK, _INTERRUPTS)
        try:
            self._stop()
            ptrace.set_sigmask(self._task.tid, self._mask)
            self._note(0, 0)
        except PycriuError:
            if error is None:  # what follows from an error must not take its place
                raise
        finally:
            _signal.pthread_sigmask(_signal.SIG_SETMASK, before)

    def _stop(self) -> None:
        tid, end = self._task.tid, time.monotonic() + _CALM
        while not (called := interrupted.called(tid)) and time.monotonic() < end:
            time.sleep(_LOOK)
        if self._tree is not None:
            self._tree.stop_again(tid, _PATIENCE)
            return
        ptrace.interrupt(tid)
        self._await()
        interrupted.make_again(self._task, interrupted.Unlimited(self._task.arch), called)

    def _await(self) -> None:
        tid, end = self._task.tid, time.monotonic() + _PATIENCE
        while True:
            found, status = os.waitpid(tid, ptrace.WALL | os.WNOHANG)
            if found and not os.WIFSTOPPED(status):
                raise TraceeGone(f"task {tid} has ended ({ptrace.describe_exit(status)})")
            if found and status >> 16 == ptrace.EVENT_STOP:
                return
            if found:
                ptrace.cont(tid, 0 if status >> 16 else os.WSTOPSIG(status))
            elif time.monotonic() > end:
                raise PycriuError(f"thread {tid} does not stop any more")
            time.sleep(0.0002)
