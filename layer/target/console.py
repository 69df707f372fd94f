# SPDX-License-Identifier: GPL-2.0-only
"""One line to the guest, over pexpect: bytes in, plain text out, a log of everything, an eye on the kernel.

Every wait has a deadline, and while it waits the consoles named as `watched` are read too: a panic on the serial line
ends a wait for a command's result on another line at once. It knows nothing of commands (layer.target.shell) nor of
QEMU (layer.target.qemu).
"""

from __future__ import annotations

import re
import select
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO

import pexpect
from pexpect import fdpexpect

from layer.target import faults
from layer.target.deadline import Deadline
from layer.target.faults import DeadlinePassed
from layer.target.vt100 import Filter

if TYPE_CHECKING:
    _Spawn = fdpexpect.fdspawn[str]
else:
    _Spawn = fdpexpect.fdspawn

SLICE = 0.5  # seconds between two looks at the clock and at the process behind the line
SETTLE = 1.0  # seconds that a kernel in trouble is given to finish its last words
HISTORY = 4000  # lines kept in memory


class Console(_Spawn):
    """A pexpect spawn over an open descriptor, which it does not own. `kernel`: the kernel prints on this line."""

    def __init__(self, fd: int, log: Path, *, kernel: bool = True) -> None:
        super().__init__(fd, timeout=None, maxread=65536, encoding="utf-8", codec_errors="replace", use_poll=True)
        self.delaybeforesend = None  # pexpect's default would cost 50 ms per command
        self.delayafterread = None
        self.log_path = log
        self.kernel = kernel
        self.watched: tuple[Console, ...] = ()
        self.ended: Callable[[], str | None] = lambda: None  # says how the process behind the line ended
        self.lines: deque[str] = deque(maxlen=HISTORY)
        self.fault: faults.Fault | None = None
        self._record: TextIO = log.open("a", encoding="utf-8")
        self._filter = Filter()
        self._partial = ""
        self._eof = False
        self._slice, self._pause = Deadline.after(SLICE), SLICE

    def wait(
        self, pattern: re.Pattern[str], deadline: Deadline, what: str, *, window: int | None = None
    ) -> re.Match[str]:
        """Wait for `pattern`; GuestError of some kind when it does not come.

        `window`: a match begins at most so many characters before its end; None when it may begin anywhere.
        """
        while True:
            last = deadline.passed  # what has come before we were let run counts
            self._slice, self._pause = Deadline.after(SLICE), min(SLICE, deadline.remaining)
            found = self.expect_list(
                [pattern, pexpect.TIMEOUT, pexpect.EOF], timeout=None, searchwindowsize=window or -1
            )
            if found == 0:
                assert isinstance(self.match, re.Match)
                return self.match
            if found == 2:  # its place in the list above
                self._closed(what)
            self.check()
            if last:
                message = f"{what}: nothing of it within {deadline.seconds:.1f} s"
                raise DeadlinePassed(message, tail=self.tail(), log=self.log_path)

    def read_nonblocking(self, size: int = 1, timeout: float | None = -1) -> str:
        """What pexpect reads through: plain text of this line, while the watched lines are read on the side.

        Nothing is timed by pexpect, which looks at the wall clock: a fresh machine sets its own, by hours.
        """
        if self._slice.passed:
            raise pexpect.TIMEOUT("time to look around")
        for other in self._ready(min(self._pause, self._slice.remaining)):
            other.drain()
        self.check()
        if not _readable([self.child_fd], 0):
            raise pexpect.TIMEOUT("nothing to read")
        return self._take(size)

    def drain(self) -> None:
        """Read what has arrived, without waiting. Never raises for trouble: that is `check`'s."""
        while not self._eof and _readable([self.child_fd], 0):
            try:
                self._take(self.maxread)
            except pexpect.EOF:
                return

    def tail(self) -> list[str]:
        """The last lines of the kernel's line (this one, when it is), with the unfinished one."""
        speaker = next((other for other in self.watched if other.kernel), self)
        return [*speaker.lines, *([speaker._partial] if speaker._partial else [])][-faults.TAIL :]

    def said(self, word: str) -> bool:
        """Whether a finished line holds `word`."""
        return any(word in line for line in self.lines)

    def finish(self) -> None:
        """Read to the end and close the log; the descriptor stays its owner's."""
        self.drain()
        self._record.close()

    def _ready(self, pause: float) -> list[Console]:
        """Wait until this line or a watched one has something; the watched ones that have."""
        others = {other.child_fd: other for other in self.watched if not other._eof}
        ready = _readable([self.child_fd, *others], pause)
        return [others[fd] for fd in ready if fd in others]

    def _take(self, size: int) -> str:
        try:
            text = self._filter.feed(super(_Spawn, self).read_nonblocking(size))
        except pexpect.EOF:
            self._eof = True
            self._keep(self._filter.close() + "\n")
            raise
        except ConnectionResetError as error:  # a socket whose far end was killed
            self._eof = self.flag_eof = True
            raise pexpect.EOF("connection reset") from error
        self._keep(text)
        return text

    def _keep(self, text: str) -> None:
        self._record.write(text)
        self._record.flush()
        *whole, self._partial = (self._partial + text).split("\n")
        self.lines.extend(whole)
        if self.kernel and self.fault is None:
            self.fault = faults.worst(whole)

    def check(self) -> None:
        """Raise when the kernel is in trouble, or the emulator has ended."""
        for console in (self, *self.watched):
            if console.fault is not None:
                self._settle(console)
                fault = faults.worst(console.lines) or console.fault
                raise fault.kind(fault.line.strip(), tail=console.tail(), log=console.log_path)
        if (self._eof or not _readable([self.child_fd], 0)) and (end := self.ended()) is not None:
            self._closed(end)

    def _settle(self, console: Console) -> None:
        """Let a kernel in trouble finish what it says: the trace comes after the line that was recognised."""
        deadline = Deadline.after(SETTLE)
        while not console._eof and _readable([console.child_fd], deadline.remaining):
            console.drain()

    def _end(self) -> str | None:
        """How the process ended; a dying one closes its lines a moment before it can be waited for."""
        deadline = Deadline.after(SETTLE)
        while (end := self.ended()) is None and not deadline.passed:
            time.sleep(0.01)
        return end

    def _closed(self, what: str) -> NoReturn:
        for console in (self, *self.watched):
            console.drain()
        kernels = [console for console in (self, *self.watched) if console.kernel]
        if (fault := faults.worst(line for console in kernels for line in console.lines)) is not None:
            raise fault.kind(fault.line.strip(), tail=self.tail(), log=self.log_path)
        if (end := self._end()) is not None:
            raise faults.QemuDied(end, tail=self.tail(), log=self.log_path)
        raise faults.ConsoleClosed(f"{what}: the line was closed", tail=self.tail(), log=self.log_path)


def first_to_say(consoles: Sequence[Console], word: str, deadline: Deadline, what: str) -> Console:
    """Wait until one of the lines has said `word`; GuestError when none does."""
    while True:
        for console in consoles:
            console.drain()
            console.check()
            if console._eof:
                console._closed(what)
            if console.said(word):
                return console
        if deadline.passed:
            message = f"{what}: nothing of it within {deadline.seconds:.1f} s"
            raise DeadlinePassed(message, tail=consoles[0].tail(), log=consoles[0].log_path)
        _readable([console.child_fd for console in consoles], min(SLICE, deadline.remaining))


def _readable(descriptors: list[int], pause: float) -> list[int]:
    """Which of them have something to read, or their end, within `pause` seconds."""
    poll = select.poll()
    for fd in descriptors:
        poll.register(fd, select.POLLIN)
    return [fd for fd, _ in poll.poll(max(0, int(pause * 1000)))]
