# SPDX-License-Identifier: GPL-2.0-only
"""Processes that a signal has stopped (SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU), until somebody sends SIGCONT.

The image says which signal it was; a fact of pycriu's own says whether the parent has seen the stop (waitpid(2) with
WUNTRACED tells of each stop once). A new task is stopped before its parent gets its own state, so that no SIGCHLD
comes twice. Under ptrace a stopped process works for us all the same; it stops for good when it is let go of.

Not kept: that a parent has not yet seen that a process goes on (WCONTINUED).
"""

from __future__ import annotations

import os

from pycriu.errors import ImageError, PycriuError
from pycriu.images.own import Numbers
from pycriu.kernel import ptrace
from pycriu.tracing.tracee import Remote, Row, Tracee

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU = 19, 20, 21, 22
STOP_SIGNALS = (SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU)
P_PID, WNOHANG, WSTOPPED, WNOWAIT, WALL = 1, 1, 2, 0x01000000, ptrace.WALL
_SIGINFO, _SI_PID_AT = 128, 16  # siginfo_t: signo, errno, code, padding, then what waitid(2) fills in: pid, uid, status
UNSEEN = "unseen_stops"  # a fact of the parent: the PIDs of its children whose stops it has not seen


def ask(remote: Remote, children: list[int]) -> tuple[list[Row], Callable[[list[int]], dict[str, Numbers]]]:
    """waitid(2) in the parent of stopped `children`, leaving things as they are."""
    room = {pid: remote.room(_SIGINFO) for pid in children}
    flags = WSTOPPED | WNOHANG | WNOWAIT | WALL
    rows = [Row("waitid", P_PID, pid, at, flags, 0) for pid, at in room.items()]

    def answer(_results: list[int]) -> dict[str, Numbers]:
        read = remote.task.read
        unseen = [pid for pid, at in room.items() if int.from_bytes(read(at + _SI_PID_AT, 4), "little") == pid]
        return {UNSEEN: tuple(unseen)} if unseen else {}

    return rows, answer


# ---------------------------------------------------------------------------------------------------------- restore


def signal_of(core: Any, label: str) -> int:
    """The signal that had stopped a process, which a core image says was stopped."""
    signal: int = core.tc.stop_signo if core.tc.HasField("stop_signo") else SIGSTOP
    if signal not in STOP_SIGNALS:
        raise ImageError(f"{label}: no process is stopped by signal {signal}")
    return signal


def stop(task: Tracee, signal: int) -> None:
    """Stop a new task, which has one thread, by `signal`; by SIGSTOP where its group has no parent in its session, and
    the kernel lets no terminal stop it.
    """
    tid = task.tid
    mask = ptrace.get_sigmask(tid)
    ptrace.set_sigmask(tid, 0)
    os.kill(tid, signal)
    ptrace.cont(tid)
    # A signal that was pending already goes: it tells of a child's end, which comes from the image.
    while (status := ptrace.wait(tid)) >> 8 != signal:
        ptrace.cont(tid)
    ptrace.interrupt(tid)
    ptrace.cont(tid, signal)
    status = ptrace.wait(tid)
    ptrace.set_sigmask(tid, mask)
    if os.WSTOPSIG(status) == signal:
        return
    if signal == SIGSTOP:
        raise PycriuError(f"process {tid} cannot be stopped again")
    stop(task, SIGSTOP)


def see(parent: Tracee, child: int) -> None:
    """Let a new task read of its child that it has been stopped, as it had done."""
    gpr = parent.registers()
    parent.step_call(gpr, "waitid", P_PID, child, 0, WSTOPPED | WNOHANG | WALL, 0)
    parent.set_registers(gpr)
