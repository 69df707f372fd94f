# SPDX-License-Identifier: GPL-2.0-only
"""The life of cr_restart after the restart: it forwards signals to the eldest process, waits for it, ends as it ends.

Keys of a terminal reach the processes by themselves, since they are in the group of cr_restart: such signals come from
the kernel, and are not forwarded. When the eldest is stopped by them, cr_restart stops, too, so that the shell sees it.
"""

from __future__ import annotations

import os
import resource
import signal

from pycriu.errors import KernelError
from pycriu.kernel import libc

PR_SET_NAME = 15
_SI_KERNEL = 0x80
_OF_KEYS = (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP)
_STOPPED_BY_TERMINAL = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
_ALL = set(range(1, 65)) - {32, 33}  # of those two glibc keeps the use for itself


def block() -> None:
    """From here on signals wait until `wait` takes them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _ALL)


def name(text: str) -> None:
    """What ps shows of us; at most 15 letters."""
    import ctypes

    buffer = ctypes.create_string_buffer(text.encode())
    libc.call("prctl", PR_SET_NAME, ctypes.addressof(buffer))


def wait(child: int) -> int:
    """Until the child ends: its wait status. Signals must be blocked.

    The init of a PID namespace hears of the ends of all that have lost their parents, and nobody else reaps them.
    """
    while True:
        try:
            if os.getpid() == 1:
                _reap_others(child)
            found, status = os.waitpid(child, os.WNOHANG | os.WUNTRACED)
        except ChildProcessError:
            return 0  # somebody else has heard how it ended
        if found and not os.WIFSTOPPED(status):
            return status
        if found and os.WSTOPSIG(status) in _STOPPED_BY_TERMINAL:
            os.kill(os.getpid(), signal.SIGSTOP)
            continue
        if not found:
            _forward(child, signal.sigwaitinfo(_ALL))


def _reap_others(child: int) -> None:
    seen = os.WEXITED | os.WNOHANG | os.WNOWAIT
    while (told := os.waitid(os.P_ALL, 0, seen)) is not None and told.si_pid != child:
        os.waitpid(told.si_pid, 0)


def _forward(child: int, told: signal.struct_siginfo) -> None:
    number = told.si_signo
    if number == signal.SIGCHLD or (told.si_code == _SI_KERNEL and number in _OF_KEYS):
        return
    try:
        os.kill(child, number)
    except ProcessLookupError:
        return  # it has just ended


def end_as(status: int) -> int:
    """End by the signal that has ended the child, without a core file; else the exit status to end with, as a shell
    would say it.
    """
    if not os.WIFSIGNALED(status):
        return os.WEXITSTATUS(status)
    number = os.WTERMSIG(status)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        libc.call("prctl", 4, 0)  # PR_SET_DUMPABLE: a core_pattern that is a pipe knows no limit
    except KernelError:
        return 128 + number
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    return 128 + number  # it has not killed us: the first process of a PID namespace has to ask for that
