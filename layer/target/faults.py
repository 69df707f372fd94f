# SPDX-License-Identifier: GPL-2.0-only
"""What a kernel log says when the kernel is in trouble, and the exception each trouble is.

Pure: lines in, values out. A line counts only when the kernel can have printed it (at its start, or behind a time
stamp), so that a program that prints the word "Oops" is no oops. It cannot tell a harmless WARNING from a bad one, and
reports none of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from layer.errors import LayerError

TAIL = 40  # console lines that an exception shows


class GuestError(LayerError):
    """The guest did not do what it should; the message ends with the last console lines, the hint names the log."""

    def __init__(self, what: str, *, tail: Sequence[str] = (), log: Path | None = None) -> None:
        lines = "".join(f"\n  | {line}" for line in tail[-TAIL:])
        super().__init__(what + (f"; the last console lines:{lines}" if lines else ""),
                         hint=None if log is None else f"the whole log: {log}")  # fmt: skip
        self.what = what
        self.log = log


class KernelPanic(GuestError):
    """The kernel gave up, PID 1 having ended included."""


class KernelOops(GuestError):
    """The kernel hit a bug and killed the task that met it."""


class SoftLockup(GuestError):
    """A CPU, or a task, is stuck in the kernel."""


class RcuStall(GuestError):
    """RCU found a CPU that does not answer; on a busy host the emulator itself may have been stopped."""


class OutOfMemory(GuestError):
    """The kernel killed a task for want of memory."""


class ConsoleClosed(GuestError):
    """The line to the guest was closed."""


class QemuDied(GuestError):
    """The emulator ended by itself."""


class DeadlinePassed(GuestError):
    """What was waited for did not come in time, and nothing is known to be wrong."""


class CommandFailed(GuestError):
    """A command in the guest ended with another status than 0."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A line that tells of trouble."""

    kind: type[GuestError]
    line: str


# Worst first: a panic explains the oops before it, an oops the stall after it.
_SIGNS: tuple[tuple[type[GuestError], str], ...] = (
    (KernelPanic, r"Kernel panic - not syncing|---\[ end Kernel panic"),
    (KernelOops, r"Oops: |Internal error: |BUG: (?!soft lockup|workqueue)|kernel BUG at |Unable to handle kernel "
                 r"|general protection fault, |divide error: |invalid opcode: |KASAN: |UBSAN: "),
    (SoftLockup, r"(?:watchdog: )?BUG: (?:soft lockup|workqueue lockup)|INFO: task .* blocked for more than"
                 r"|watchdog: Watchdog detected hard LOCKUP"),
    (RcuStall, r"rcu: INFO: .* detected (?:expedited )?stalls?|rcu: INFO: .* self-detected stall"),
    (OutOfMemory, r"Out of memory: |Memory cgroup out of memory: "),
)  # fmt: skip
_STAMP = r"\[ *\d+\.\d{6}\](?:\[ *[TC]\d+\])? "
_PATTERNS = tuple((kind, re.compile(rf"(?:^(?:<\d+>)?|{_STAMP})(?:{sign})")) for kind, sign in _SIGNS)


def judge(line: str) -> Fault | None:
    """The trouble that `line` tells of, or None."""
    return next((Fault(kind, line) for kind, pattern in _PATTERNS if pattern.search(line)), None)


def worst(lines: Iterable[str]) -> Fault | None:
    """The gravest trouble in a log: the one to report."""
    rank = {kind: number for number, (kind, _) in enumerate(_PATTERNS)}
    found = [fault for line in lines if (fault := judge(line)) is not None]
    return min(found, key=lambda fault: rank[fault.kind], default=None)


def every(lines: Iterable[str]) -> tuple[Fault, ...]:
    """All trouble in a log, in its order."""
    return tuple(fault for line in lines if (fault := judge(line)) is not None)
