# SPDX-License-Identifier: GPL-2.0-only
"""System calls that a stop has interrupted, where the kernel alone would not make them go on as if nothing had been.

Two kinds. A call with a relative limit that was interrupted before (by a dump that left the task running, by SIGSTOP,
by a debugger) goes on as restart_syscall(2), which a new task cannot make: its name is found in the code before the
call. And some calls end with EINTR at any stop, see signal(7): where such a call has no limit, it is made again; for
those with one see `limited`.
"""

from __future__ import annotations

from pycriu.arch.description import MASK64, Arch, Registers
from pycriu.errors import PycriuError, TraceeGone
from pycriu.kernel import procfs
from pycriu.tracing.tracee import Tracee

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

EINTR = 4
# include/uapi/linux/futex.h: FUTEX_WAIT and FUTEX_WAIT_BITSET, with FUTEX_PRIVATE_FLAG
_PRIVATE_WAITS, FUTEX_CLOCK_REALTIME = (0 | 128, 9 | 128), 256
FUTEX_COMMAND, FUTEX_WAIT, TIMER_ABSTIME = 0x7F, 0, 1
_LOOK_BACK = 64  # bytes of code
# What goes on by restart_syscall.
_LIMITED = ("nanosleep", "clock_nanosleep", "futex", "poll")
# Calls that end at a stop, with the argument that is their limit, and whether that is a number (negative: none) or an
# address (0: none). Without one they wait for ever.
_ENDED = {
    "epoll_wait": (3, int), "epoll_pwait": (3, int), "epoll_pwait2": (3, bytes), "rt_sigtimedwait": (2, bytes),
    "semop": (0, None), "semtimedop": (3, bytes), "io_getevents": (4, bytes), "io_pgetevents": (4, bytes),
}  # fmt: skip


def numbers(arch: Arch, names: Iterable[str]) -> dict[int, str]:
    """Number → name of those of the calls that the architecture has."""
    found = {}
    for name in names:
        try:
            found[arch.syscall_number(name)] = name
        except LookupError:
            continue
    return found


class Unlimited:
    """The calls of an architecture that end at a stop."""

    def __init__(self, arch: Arch) -> None:
        self._limits = {number: _ENDED[name] for number, name in numbers(arch, _ENDED).items()}
        self._poll = numbers(arch, ("poll",))

    def may_be_limited(self, number: int) -> bool:
        """Whether a call may be one of those that `limited` is about."""
        return number in self._limits or number in self._poll

    def waits_for_ever(self, number: int, arguments: list[int]) -> bool:
        """Whether a call is one of them, and has no limit."""
        if number not in self._limits:
            return False
        at, kind = self._limits[number]
        if kind is int:
            return bool(arguments[at] >> 31 & 1)
        return kind is None or not arguments[at]


def original(task: Tracee, gpr: Registers) -> int | None:
    """The number of the call for which restart_syscall(2) stands, -1 where that cannot be known; None: it is none."""
    arch = task.arch
    at = arch.restarting(gpr)
    if not at:
        return None
    try:
        code = task.read(at - _LOOK_BACK, _LOOK_BACK + len(arch.syscall_insn))
    except (PycriuError, OSError):
        return -1
    if not code.endswith(arch.syscall_insn):
        return None
    known = numbers(arch, _LIMITED)
    return next((number for number in arch.numbers_in(code) if number in known), _by_arguments(arch, gpr))


def _by_arguments(arch: Arch, gpr: Registers) -> int:
    """For calls made through syscall(2), whose code has no number: a futex says of itself that it is private."""
    address, operation = gpr[arch.args[0]], gpr[arch.args[1]] & 0xFFFF_FFFF
    if operation & ~FUTEX_CLOCK_REALTIME in _PRIVATE_WAITS and address and not address % 4:
        return arch.syscall_number("futex")
    return -1


def called(tid: int) -> list[int]:
    """/proc/TID/syscall of a thread that waits in a call: number, six arguments, stack pointer, pc. Empty where not."""
    try:
        words = procfs.text(tid, "syscall").split()
    except (TraceeGone, OSError):
        return []
    return [int(word, 0) for word in words] if len(words) == 9 else []


def make_again(task: Tracee, unlimited: Unlimited, before: list[int]) -> None:
    """Make a thread that has just been stopped go on with the call that the stop has ended.

    `before` is what `called` said before the stop.
    """
    if before and unlimited.waits_for_ever(before[0], before[1:7]) and (gpr := ended_by_us(task, before)) is not None:
        task.arch.call_again(gpr, before[0], before[1])
        task.set_registers(gpr)


def ended_by_us(task: Tracee, before: list[int]) -> Registers | None:
    """The registers of a thread whose call the stop, and nothing else, has ended; None of any other."""
    arch = task.arch
    gpr = task.registers()
    if gpr[arch.result] != -EINTR & MASK64 or gpr[arch.pc] != before[8]:
        return None
    status = procfs.parse_status(procfs.text(task.tid, "status"))
    pending, blocked, caught = (
        int(status["SigPnd"], 16) | int(status["ShdPnd"], 16), int(status["SigBlk"], 16), int(status["SigCgt"], 16),
    )  # fmt: skip
    return None if pending & caught & ~blocked else gpr  # a handler is about to run, and the call to end for it


def with_rest(task: Tracee, gpr: Registers, goes_on: Registers) -> Registers:
    """`goes_on`, which is what a new task in place of this one starts with, where it makes a poll(2) again.

    It waits for `task.rest` milliseconds, where that is known; `gpr` are the registers of the thread as it stands.
    """
    arch = task.arch
    if task.rest is not None and goes_on[arch.pc] != gpr[arch.pc] and goes_on[arch.nr] == arch.syscall_number("poll"):
        goes_on[arch.args[2]] = task.rest
    return goes_on


def resumes(task: Tracee, before: list[int]) -> bool:
    """Whether a thread that has just been stopped stands at a call with a relative limit, rewound by the kernel.

    The kernel means to go on with restart_syscall(2), which knows what is left, but forgets so when the thread makes
    calls for us (aarch64; on x86 the registers say it). `before` is what `called` said before the stop.
    """
    arch = task.arch
    gpr = task.registers()
    if not before or gpr[arch.pc] + len(arch.syscall_insn) != before[8] or gpr[arch.sp] != before[7]:
        return False
    number, *arguments = before[:7]
    if gpr[arch.nr] != number or [gpr[register] for register in arch.args] != arguments:
        return False
    if number == arch.syscall_number("clock_nanosleep"):
        return not arguments[1] & TIMER_ABSTIME
    if number == arch.syscall_number("futex"):
        return arguments[1] & FUTEX_COMMAND == FUTEX_WAIT and arguments[3] != 0
    return number == arch.syscall_number("nanosleep")


def resume(task: Tracee) -> None:
    """Make a thread of which `resumes` was true, and that has made calls for us, go on with what is left."""
    if task.resumes:
        gpr = task.registers()
        gpr[task.arch.nr] = task.arch.syscall_number("restart_syscall")
        task.set_registers(gpr)
