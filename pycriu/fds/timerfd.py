# SPDX-License-Identifier: GPL-2.0-only
"""timerfd_create(2): clock, what is left, period, ticks that nobody has read yet, and how it was set.

A relative timer goes on with what was left of it. An absolute one (TFD_TIMER_ABSTIME) expires when its clock shows the
time that it was set for, even if that has passed meanwhile: CRIU's message has only what was left at the dump, so an
image of ours has the time. Clocks that count from the boot tell it within the same boot only; after another one an
absolute timer, too, goes on with what was left.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import struct
import time

from pycriu.errors import About, ImageError, KernelError, Unsupported
from pycriu.fds.kind import Kind
from pycriu.fds.openfile import OpenFile, no_owner
from pycriu.images import messages as m
from pycriu.kernel import libc, procfs
from pycriu.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pycriu.fds.opening import Opening
    from pycriu.fds.saving import Saving
    from pycriu.images.store import ImagesDir, NewCheckpoint
    from pycriu.log import Log

SECOND = 1_000_000_000  # ns
CLOCKS = {0: "REALTIME", 1: "MONOTONIC", 7: "BOOTTIME", 8: "REALTIME_ALARM", 9: "BOOTTIME_ALARM"}
_WALL_CLOCKS = (0, 8)
_READ_AS = {8: 0, 9: 7}  # the clock that an alarm clock shows
TFD_TIMER_ABSTIME, TFD_TIMER_CANCEL_ON_SET = 1, 2
TFD_IOC_SET_TICKS = 0x40085400
_ITIMERSPEC = struct.Struct("<qqqq")  # it_interval, it_value, each in seconds and nanoseconds
_IMAGE = "pycriu-timerfd.img"
_NO_BOOT = bytes(16)
_NEAR = SECOND // 50  # what expires within this time is waited for: see _arm
_TRIES = 20


@record
class State:
    """What fdinfo says of a timer; times in nanoseconds."""

    clock: int
    ticks: int
    flags: int  # of timerfd_settime(2)
    left: int  # 0: expired, or not armed
    period: int


def parse(fdinfo: dict[str, str]) -> State:
    """fs/timerfd.c, timerfd_show."""
    return State(
        int(fdinfo["clockid"]), int(fdinfo["ticks"]), int(fdinfo["settime flags"], 8),
        _timespec(fdinfo["it_value"]), _timespec(fdinfo["it_interval"]),
    )  # fmt: skip


def _timespec(text: str) -> int:
    seconds, _, nanoseconds = text.strip("()").partition(", ")
    return int(seconds) * SECOND + int(nanoseconds)


def now(clock: int) -> int:
    """What a clock shows, in ns."""
    return time.clock_gettime_ns(_READ_AS.get(clock, clock))


def boot_id() -> bytes:
    """16 bytes that no other boot has; zeros where the kernel does not tell, which are no boot's."""
    return procfs.boot_id() or _NO_BOOT


class Timerfd(Kind):
    """A timer that is read."""

    TYPE = 17  # fd_types.TIMERFD
    NAME = "timerfd"

    def __init__(self, options: Any, log: Log) -> None:
        super().__init__(options, log)
        self._states: dict[int, State] = {}
        self._expiries: dict[int, int] = {}  # id → ns of its clock, for absolute timers

    # ------------------------------------------------------------------------------------------------------------ dump

    def matches(self, file: OpenFile) -> bool:
        """By the name of its anonymous inode."""
        return file.link == "anon_inode:[timerfd]"

    def gather(self, files: list[OpenFile], saving: Saving) -> None:
        """The state of each, at one moment."""
        for number, file in saving.unseen(files, self._states):
            state = look(file)
            if state.flags & TFD_TIMER_CANCEL_ON_SET and state.ticks and state.left and not state.period:
                with About(file):
                    raise Unsupported(
                        f"{file.name} was cancelled because the clock was set (TFD_TIMER_CANCEL_ON_SET), and nobody "
                        "has read of it yet",
                        "let the task read it, then dump again",
                    )
            self._states[number] = state
            if state.flags & TFD_TIMER_ABSTIME and state.left:
                # Read after what is left, so that the sum is late by microseconds, never early.
                self._expiries[number] = now(state.clock) + state.left

    def dump(self, file: OpenFile, number: int, saving: Saving) -> Any:
        """Its message."""
        state = self._states[number]
        entry = m.timerfd_entry(
            id=number, flags=file.flags, fown=no_owner(), clockid=state.clock, ticks=state.ticks,
            settime_flags=state.flags, vsec=state.left // SECOND, vnsec=state.left % SECOND,
            isec=state.period // SECOND, insec=state.period % SECOND,
        )  # fmt: skip
        return m.file_entry(type=self.TYPE, id=number, tfd=entry)

    def write(self, new: NewCheckpoint) -> None:
        """When absolute timers expire."""
        boot = boot_id() if self._expiries else b""
        expiries = sorted(self._expiries.items())
        new.write_any(_IMAGE, [m.pycriu_timerfd_entry(id=number, expiry=at, boot=boot) for number, at in expiries])

    # --------------------------------------------------------------------------------------------------------- restore

    def read(self, images: ImagesDir, entries: list[Any]) -> None:
        """States of all, held against what a timer can be."""
        for entry in entries:
            self._states[entry.id] = _state(entry.tfd)
        boot = boot_id() if entries else b""
        own: list[Any] = images.read_if_there(_IMAGE)
        for one in own:
            state = self._states.get(one.id)
            if state is None:
                raise ImageError(f"{_IMAGE}: no timerfd has the id {one.id}")
            if one.expiry > 0 and (one.boot == boot != _NO_BOOT or state.clock in _WALL_CLOCKS):
                self._expiries[one.id] = one.expiry

    def open(self, entry: Any, opening: Opening) -> int:
        """A new one, which is set by `finish`."""
        flags = os.O_CLOEXEC | entry.tfd.flags & os.O_NONBLOCK
        return libc.call("timerfd_create", entry.tfd.clockid, flags, what=f"CLOCK_{CLOCKS[entry.tfd.clockid]}")

    def finish(self, opening: Opening) -> None:
        """Set all: as late as can be, because from now on they count."""
        for number, state in self._states.items():
            _arm(opening.fd(number), state, self._expiries.get(number))


def look(file: OpenFile) -> State:
    """The state of a timer in which all ticks that are due have been counted.

    A periodic timer that has expired rests until somebody reads it or asks for its time; we ask, which adds the periods
    that have passed and lets it run on. Whoever reads gets the same number as without us.
    """
    fd = file.borrow()
    try:
        for _ in range(_TRIES):
            _gettime(fd)
            state = parse(procfs.parse_fdinfo(procfs.text(file.pid, f"fdinfo/{file.fd}")))
            if state.left or not state.period or not state.ticks:
                return state
        return State(state.clock, state.ticks, state.flags, 1, state.period)  # its period is shorter than our look
    finally:
        os.close(fd)


def _state(entry: Any) -> State:
    """The state that an image wants; ImageError where there is no such clock or time."""
    if entry.clockid not in CLOCKS:
        raise ImageError(f"timerfd {entry.id} is of clock {entry.clockid}, which is none")
    if max(entry.vnsec, entry.insec) >= SECOND or max(entry.vsec, entry.isec, entry.ticks >> 30) > (1 << 33):
        raise ImageError(f"timerfd {entry.id} has a time or ticks that are out of bounds")
    left, period = entry.vsec * SECOND + entry.vnsec, entry.isec * SECOND + entry.insec
    if period and not left and entry.ticks:
        left = period  # CRIU does not ask, so it sees a timer at rest: it would never tick again
    return State(entry.clockid, entry.ticks, entry.settime_flags & 3, left, period)


def _arm(fd: int, state: State, expiry: int | None) -> None:
    """Set a timer, and give it the ticks that it had.

    Setting it clears the ticks, and giving it ticks would overwrite one that comes in between. So one that is about to
    expire is waited for and counted; of any other it is seen afterwards that it had not expired yet.
    """
    absolute = state.flags & TFD_TIMER_ABSTIME
    at = state.left
    if absolute and at:
        at = now(state.clock) + state.left if expiry is None else expiry
    for _ in range(_TRIES):
        _settime(fd, state.flags, at, state.period)
        if not state.ticks:
            return
        left = at - now(state.clock) if absolute else at
        if at and left < _NEAR:
            _await(fd)
            _set_ticks(fd, state.ticks + 1)
            return
        _set_ticks(fd, state.ticks)
        if not at or parse(procfs.parse_fdinfo(procfs.text("self", f"fdinfo/{fd}"))).left:
            return
    raise KernelError("timerfd_settime", 11, f"timer {fd} expires faster than it can be set")


def _settime(fd: int, flags: int, at: int, period: int) -> None:
    spec = ctypes.create_string_buffer(_ITIMERSPEC.pack(period // SECOND, period % SECOND, at // SECOND, at % SECOND))
    libc.call("timerfd_settime", fd, flags, ctypes.addressof(spec), 0)


def _gettime(fd: int) -> None:
    spec = ctypes.create_string_buffer(_ITIMERSPEC.size)
    libc.call("timerfd_gettime", fd, ctypes.addressof(spec))


def _await(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    if not poll.poll(1000):
        raise KernelError("timerfd_settime", 62, f"timer {fd} does not expire")


def _set_ticks(fd: int, ticks: int) -> None:
    try:
        fcntl.ioctl(fd, TFD_IOC_SET_TICKS, ticks.to_bytes(8, "little"))
    except OSError as error:
        hint = "this kernel lacks CONFIG_CHECKPOINT_RESTORE"
        raise KernelError("ioctl", error.errno or 0, "TFD_IOC_SET_TICKS", hint) from None
