# SPDX-License-Identifier: GPL-2.0-only
"""POSIX timers (timer_create(2)): id, clock, how they notify, interval and what is left, to the nanosecond.

What they are is read from /proc/PID/timers (CONFIG_CHECKPOINT_RESTORE); what is left is asked of the process with
timer_gettime(2). An expiry that waits to be delivered is a pending signal like others, and is kept as one.

Not kept: the overrun count of that expiry and of the last one delivered, which no system call can set; that a timer
was armed for an absolute time (TIMER_ABSTIME), which no kernel tells: it goes on with what was left of it.
"""

from __future__ import annotations

import struct

from pycriu.errors import ImageError, KernelError, TraceeGone, Unsupported
from pycriu.images import messages as m
from pycriu.kernel import libc, procfs
from pycriu.record import record
from pycriu.tracing.tracee import Remote, Row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# include/uapi/asm-generic/siginfo.h
SIGEV_SIGNAL, SIGEV_NONE, SIGEV_THREAD, SIGEV_THREAD_ID = 0, 1, 2, 4
_NOTIFY = {"signal": SIGEV_SIGNAL, "none": SIGEV_NONE, "thread": SIGEV_THREAD}
CLOCK_MONOTONIC = 1
CPU_CLOCK_OF_THREAD = -2  # what CLOCK_THREAD_CPUTIME_ID is to the kernel: the clock of whoever made the timer
PR_TIMER_CREATE_RESTORE_IDS, _OFF, _ON, _GET = 77, 0, 1, 2  # Linux 6.15
_ITIMERSPEC = struct.Struct("<4q")  # interval seconds, nanoseconds; value seconds, nanoseconds
_SIGEVENT = struct.Struct("<QiiI44x")  # sigev_value, sigev_signo, sigev_notify, sigev_notify_thread_id
_NSIG, _SECOND, _MAX_ID = 64, 10**9, (1 << 31) - 1
# Where ids cannot be asked for they are counted up to; with two calls for each that nobody has.
COUNTABLE = 1 << 16
_AT_ONCE = 256  # timers per table of calls


@record
class Timer:
    """One line group of /proc/PID/timers."""

    number: int
    signal: int
    value: int  # sigev_value
    notify: int  # SIGEV_*
    thread: int  # the one that is notified under SIGEV_THREAD_ID, else 0
    clock: int  # clockid_t, signed


Left = tuple[int, int, int, int]  # interval, value; each in seconds and nanoseconds


@record
class Timers:
    """All timers of a process, each with what is left of it, and the overrun count of its last signal."""

    timers: tuple[Timer, ...]
    left: tuple[Left, ...]
    overruns: tuple[int, ...]


def parse(content: str) -> tuple[Timer, ...]:
    """/proc/PID/timers: four lines for each timer, in the order of their ids.

    ID: 1
    signal: 60/00007fff86e452a8
    notify: signal/pid.2634
    ClockID: 0
    """
    found = []
    fields: dict[str, str] = {}
    for line in content.splitlines():
        name, _, fields[name] = line.partition(": ")
        if name == "ClockID":
            found.append(_timer(fields))
            fields = {}
    return tuple(sorted(found, key=lambda timer: timer.number))


def _timer(fields: dict[str, str]) -> Timer:
    signal, _, value = fields["signal"].partition("/")
    how, _, whom = fields["notify"].partition("/")
    kind, _, number = whom.partition(".")
    to_thread = kind == "tid"
    return Timer(
        int(fields["ID"]), int(signal), int(value, 16), _NOTIFY[how] | (SIGEV_THREAD_ID if to_thread else 0),
        int(number) if to_thread else 0, int(fields["ClockID"]),
    )  # fmt: skip


def look(pid: int) -> tuple[Timer, ...]:
    """The timers of a process; Unsupported for one on the CPU clock of some thread that cannot be told."""
    try:
        timers = parse(procfs.text(pid, "timers"))
    except TraceeGone:
        if procfs.exists(pid):
            return ()  # the kernel lacks CONFIG_POSIX_TIMERS or CONFIG_CHECKPOINT_RESTORE; the dump will say so
        raise
    if any(timer.clock == CPU_CLOCK_OF_THREAD for timer in timers) and len(procfs.threads(pid)) > 1:
        number = next(timer.number for timer in timers if timer.clock == CPU_CLOCK_OF_THREAD)
        raise Unsupported(
            f"timer {number} of process {pid} counts the CPU time of one of its threads, and nothing tells of which",
            "make it with the clock of pthread_getcpuclockid(3) in place of CLOCK_THREAD_CPUTIME_ID",
        )
    return timers


def read(remote: Remote, timers: tuple[Timer, ...]) -> Timers:
    """timer_gettime(2) and timer_getoverrun(2) for each; costs nothing where there are none."""
    left: list[Left] = []
    overruns: list[int] = []
    for start in range(0, len(timers), _AT_ONCE):
        some = timers[start : start + _AT_ONCE]
        remote.reset()
        room = remote.room(_ITIMERSPEC.size * len(some))
        rows = [Row("timer_gettime", one.number, room + i * _ITIMERSPEC.size) for i, one in enumerate(some)]
        results = remote.calls(rows + [Row("timer_getoverrun", one.number) for one in some])
        raw = remote.task.read(room, _ITIMERSPEC.size * len(some))
        left += [_ITIMERSPEC.unpack_from(raw, i * _ITIMERSPEC.size) for i in range(len(some))]
        overruns += results[len(some) :]
    remote.reset()
    return Timers(timers, tuple(left), tuple(overruns))


def entries(timers: Timers) -> list[Any]:
    """posix_timer_entry of each."""
    return [
        m.posix_timer_entry(
            it_id=one.number, clock_id=one.clock & 0xFFFFFFFF, si_signo=one.signal, it_sigev_notify=one.notify,
            sival_ptr=one.value, overrun=overrun, isec=isec, insec=insec, vsec=vsec, vnsec=vnsec,
            **({"notify_thread_id": one.thread} if one.thread else {}),
        )
        for one, (isec, insec, vsec, vnsec), overrun in zip(timers.timers, timers.left, timers.overruns, strict=True)
    ]  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- restore


def ids_can_be_asked_for() -> bool:
    """Whether this kernel has PR_TIMER_CREATE_RESTORE_IDS (6.15)."""
    try:
        libc.call("prctl", PR_TIMER_CREATE_RESTORE_IDS, _GET)
    except KernelError:
        return False
    return True


def check(pid: int, posix: Any, threads: set[int]) -> None:
    """ImageError for timers that no process can have; Unsupported for ids that cannot be had on this kernel."""
    known: set[int] = set()
    for entry in posix:
        name = f"core-{pid}.img: timer {entry.it_id}"
        if entry.it_id in known or entry.it_id > _MAX_ID:
            raise ImageError(f"{name} is out of bounds or there twice")
        known.add(entry.it_id)
        if not 0 <= entry.it_sigev_notify <= (SIGEV_THREAD | SIGEV_THREAD_ID):
            raise ImageError(f"{name} notifies in the unknown way {entry.it_sigev_notify}")
        silent = entry.it_sigev_notify & ~SIGEV_THREAD_ID == SIGEV_NONE
        if not silent and not 0 < entry.si_signo <= _NSIG:
            raise ImageError(f"{name} sends signal {entry.si_signo}, which does not exist")
        if entry.it_sigev_notify & SIGEV_THREAD_ID and entry.notify_thread_id not in threads:
            raise ImageError(f"{name} notifies the thread {entry.notify_thread_id}, which the process does not have")
        if max(entry.insec, entry.vnsec) >= _SECOND or max(entry.isec, entry.vsec) >> 63:
            raise ImageError(f"{name}: its times are out of bounds")
    highest = max(known, default=0)
    if highest >= COUNTABLE and not ids_can_be_asked_for():
        raise Unsupported(
            f"process {pid} had a timer with the id {highest}, which this kernel would have to be made to count up to",
            "restore it on Linux 6.15 or later, which has PR_TIMER_CREATE_RESTORE_IDS",
        )


def make(remote: Remote, posix: Any) -> None:
    """Make the timers, disarmed, with their ids. `remote` is the process; its data is forgotten."""
    if not posix:
        return
    ordered = sorted(posix, key=lambda entry: int(entry.it_id))
    if ids_can_be_asked_for():
        _in_tables(remote, [_asked_for(entry) for entry in ordered], [(_ON,)], [(_OFF,)])
        return
    wanted = {entry.it_id: entry for entry in ordered}
    _in_tables(remote, [_counted(number, wanted.get(number)) for number in range(ordered[-1].it_id + 1)], [], [])


def _asked_for(entry: Any) -> Callable[[Remote], list[Row]]:
    def rows(remote: Remote) -> list[Row]:
        number = remote.data(struct.pack("<i", entry.it_id))
        return [_create(entry, remote, number)]

    return rows


def _counted(number: int, entry: Any | None) -> Callable[[Remote], list[Row]]:
    """The timer that comes next by itself; one that nobody had is deleted at once. EINVAL tells that it was not so."""

    def rows(remote: Remote) -> list[Row]:
        room = remote.room(16)
        if entry is None:
            event = remote.data(_SIGEVENT.pack(0, 0, SIGEV_NONE, 0))
            return [
                Row("timer_create", CLOCK_MONOTONIC, event, room, what="counting up to a timer's id"),
                Row("timer_delete", number, what=f"the timer {number}, which should have been next"),
            ]
        return [
            _create(entry, remote, room),
            Row("timer_getoverrun", number, what=f"the timer {number}, which should have been next"),
        ]

    return rows


def _create(entry: Any, remote: Remote, number: int) -> Row:
    clock = entry.clock_id - (1 << 32) if entry.clock_id >> 31 else entry.clock_id
    event = _SIGEVENT.pack(entry.sival_ptr, entry.si_signo, entry.it_sigev_notify, entry.notify_thread_id)
    return Row("timer_create", clock, remote.data(event), number, what=f"timer {entry.it_id} on clock {clock}")


def _in_tables(
    remote: Remote,
    makers: list[Callable[[Remote], list[Row]]],
    before: list[tuple[int]],
    after: list[tuple[int]],
) -> None:
    """Run the calls of `makers`, so many at once as there is room for, between the switches of asking for ids."""
    first = [Row("prctl", PR_TIMER_CREATE_RESTORE_IDS, *args) for args in before]
    last = [Row("prctl", PR_TIMER_CREATE_RESTORE_IDS, *args) for args in after]
    for start in range(0, len(makers), _AT_ONCE):
        remote.reset()
        remote.calls(first + [row for maker in makers[start : start + _AT_ONCE] for row in maker(remote)] + last)
    remote.reset()


def arm(remote: Remote, posix: Any) -> None:
    """Start those that ran, with what they had left. `remote` is the process; its data is forgotten."""
    running = [entry for entry in posix if entry.vsec or entry.vnsec]
    for start in range(0, len(running), _AT_ONCE):
        remote.reset()
        rows = []
        for entry in running[start : start + _AT_ONCE]:
            times = remote.data(_ITIMERSPEC.pack(entry.isec, entry.insec, entry.vsec, entry.vnsec))
            rows.append(Row("timer_settime", entry.it_id, 0, times, 0, what=f"timer {entry.it_id}"))
        remote.calls(rows)
    remote.reset()
