# SPDX-License-Identifier: GPL-2.0-only
"""What somebody at a terminal sees of long work: one line, written anew until the work is done, and then a summary.

A thread looks from time to time how far the work is; the work itself is not told to report. Short work shows nothing,
nor does work in the background of the terminal. Where background jobs may not write at all (`stty tostop`), a line from
there would stop us, and leave the tasks standing.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _thread
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = os.sysconf("SC_PAGE_SIZE")
FIRST, AGAIN = 1.0, 0.5  # seconds until the line appears, and until it is written anew
WORTH = 1 << 26  # bytes; less is done before anybody looks
_CLEAR = "\r\x1b[K"
_SIGTTOU = 22


class Progress:
    """The line on the terminal `fd`."""

    def __init__(self, fd: int = 2) -> None:
        self._fd = fd
        self._end: _thread.LockType | None = None  # held until the end
        self._ended: _thread.LockType | None = None  # held while the thread lives
        self.shown = False  # whether the line has been there: then a summary is due

    def put_back(self, files: dict[int, int]) -> None:
        """From now on the tasks of these PIDs read their pages from these files of ours."""
        pages = sum(os.fstat(fd).st_size for fd in files.values()) // PAGE
        self.begin("put back", pages, lambda: sum(map(_resident, files)))

    def begin(self, verb: str, pages: int, done: Callable[[], int]) -> None:
        """From now on `done()` bytes of so many pages are what `verb` says ("saved")."""
        total = pages * PAGE
        if total < WORTH:
            return
        end, ended = _thread.allocate_lock(), _thread.allocate_lock()
        end.acquire()
        ended.acquire()
        try:
            _thread.start_new_thread(self._tell, (verb, total, done, end, ended))
        except RuntimeError:
            return  # no more threads for this user: the work goes on
        self._end, self._ended = end, ended

    def end(self) -> None:
        """Remove the line. More than once."""
        if self._end is None or self._ended is None:
            return
        self._end.release()
        self._ended.acquire()
        self._end = self._ended = None

    def summary(self, text: str) -> None:
        """The last word on work that was long enough for a line."""
        if self.shown:
            self._write(f"pycriu: {text}\n")

    def _tell(
        self, verb: str, total: int, done: Callable[[], int], end: _thread.LockType, ended: _thread.LockType
    ) -> None:
        begin, wait = time.monotonic(), FIRST
        _signal.pthread_sigmask(_signal.SIG_BLOCK, (_SIGTTOU,))  # we may be put into the background at any moment
        try:
            while not end.acquire(timeout=wait):
                try:
                    count = done()
                except (OSError, ValueError):  # what is looked at has been closed: the work is over
                    break
                wait = AGAIN
                if not self._is_ours():
                    continue
                self.shown = True
                said = line(verb, min(count, total), total, time.monotonic() - begin)
                self._write(_CLEAR + said[: self._width()])
            if self.shown and self._is_ours():
                self._write(_CLEAR)
        except OSError:
            return  # the terminal is gone: the work goes on
        finally:
            ended.release()

    def _is_ours(self) -> bool:
        """Whether we are in the foreground of the terminal, or it is not the one that controls us."""
        try:
            return os.tcgetpgrp(self._fd) == os.getpgrp()
        except OSError:
            return True

    def _width(self) -> int | None:
        """What fits into a line: one that runs over into the next cannot be taken back."""
        try:
            columns = os.get_terminal_size(self._fd).columns
        except OSError:
            return None
        return columns - 1 if columns else None

    def _write(self, text: str) -> None:
        os.write(self._fd, text.encode())


def _resident(pid: int) -> int:
    """Bytes of memory that a task has, 0 if there is none; proc_pid_statm(5)."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


def line(verb: str, done: int, total: int, seconds: float) -> str:
    """Pages, bytes, rate and what remains."""
    rate = done / seconds if seconds else 0
    left = f", {(total - done) / rate:.0f} s left" if rate else ""
    return f"{verb} {done // PAGE} of {total // PAGE} pages, {size(done)} of {size(total)}, {size(int(rate))}/s{left}"


def size(count: int) -> str:
    """Bytes as a person reads them."""
    number = float(count)
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"
