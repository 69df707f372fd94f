# SPDX-License-Identifier: GPL-2.0-only
"""The log of a run, in CRIU's form: levels 1 error, 2 warning, 3 info, 4 debug; time stamps from level 3 on.

Lines are kept in memory, unformatted, until `flush()`, which nobody calls while tasks are frozen. What is not flushed
is lost when the process is killed outright.
"""

from __future__ import annotations

import os
import sys
import time

from pycriu.errors import UserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

ERROR, WARN, INFO, DEBUG = 1, 2, 3, 4
DEFAULT_LEVEL = WARN

_MARKS = {ERROR: "Error ", WARN: "Warn  "}  # of equal width; info and debug have none

STDERR, STDOUT = 2, 1
TOO_LATE = "signal %d came when all was done: nothing is undone"


class Log:
    """Where lines go: a descriptor, and with `echo` standard error for errors if that is another one.

    A context manager: leaving it flushes.
    """

    def __init__(
        self, level: int = DEFAULT_LEVEL, fd: int = STDERR, started: float | None = None, *, echo: bool = True
    ) -> None:
        self.level = level
        self.fd = fd
        self._echo = echo
        self._started = time.monotonic() if started is None else started
        self._lines: list[tuple[int, float, str, str, tuple[object, ...]]] = []
        self._lost = False  # whether it has been told that lines are missing

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def error(self, text: str, *args: object, where: str | None = None) -> None:
        """What failed. `where` is the place in the source, by default the caller's."""
        self._add(ERROR, text, args, where or _caller())

    def warn(self, text: str, *args: object) -> None:
        """What may surprise the user."""
        if self.level >= WARN:
            self._add(WARN, text, args, _caller())

    def info(self, text: str, *args: object) -> None:
        """A step of the work. Arguments are put in by `%`, at flush time."""
        if self.level >= INFO:
            self._add(INFO, text, args, "")

    def debug(self, text: str, *args: object) -> None:
        """What a developer wants to see."""
        if self.level >= DEBUG:
            self._add(DEBUG, text, args, "")

    def bug(self, error: Exception) -> None:
        """What nobody foresaw: our fault."""
        self.error("this is a bug of pycriu: %s: %s", type(error).__name__, error, where=place_of(error))
        if self.level >= DEBUG:
            import traceback

            self.debug("%s", "".join(traceback.format_exception(error)).rstrip())

    def flush(self) -> None:
        """Format and write what was collected."""
        lines, self._lines = self._lines, []
        if not lines:
            return
        lost = _write_all(self.fd, "".join(self._format(*line) for line in lines))
        if not self._echo or self.fd == STDERR:
            return
        said = [text % args if args else text for level, _, _, text, args in lines if level == ERROR]
        if lost and not self._lost:
            self._lost = True
            said.insert(0, f"the log is not complete: {lost.strerror}")
        _write_all(STDERR, "".join(f"pycriu: {text}\n" for text in said))

    def _add(self, level: int, text: str, args: tuple[object, ...], where: str) -> None:
        self._lines.append((level, time.monotonic(), where, text, args))

    def _format(self, level: int, moment: float, where: str, text: str, args: tuple[object, ...]) -> str:
        stamp = f"({timestamp(moment - self._started)}) " if self.level >= INFO else ""
        place = f"{_MARKS[level]}({where}): " if level in _MARKS else ""
        return f"{stamp}{place}{text % args if args else text}\n"


def timestamp(seconds: float) -> str:
    """Seconds since the start as CRIU writes them: `SS.uuuuuu`."""
    micros = max(0, int(seconds * 1_000_000))
    return f"{micros // 1_000_000:02d}.{micros % 1_000_000:06d}"


def open_log(name: str | None, work_dir: str) -> int:
    """The descriptor for `-o`: none is standard error, `-` standard output, else a file in the work directory."""
    if name is None:
        return STDERR
    if name == "-":
        return STDOUT
    path = os.path.join(work_dir, name)
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UserError(
            f"log file {path}: {os.strerror(error.errno or 0)}", hint="-o is relative to -W, -W to -D"
        ) from None


def fill_standard_descriptors() -> None:
    """Whoever starts us may have closed 0, 1 or 2: an image with such a number would get what we say."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            fd = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            os.set_inheritable(fd, True)


def place_of(error: BaseException) -> str:
    """Where an error was raised, as `file:line`."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "?" if trace is None else _place(trace.tb_frame.f_code.co_filename, trace.tb_lineno)


def _caller() -> str:
    frame = sys._getframe(2)
    return _place(frame.f_code.co_filename, frame.f_lineno)


def _place(file: str, line: int) -> str:
    """The path from the package on, which is the same on every machine."""
    _, found, tail = file.rpartition("/pycriu/")
    return f"pycriu/{tail}:{line}" if found else f"{file}:{line}"


def _write_all(fd: int, text: str) -> OSError | None:
    """What stood in the way, if not all could be written: no dump fails because its log is on a full disk."""
    data = memoryview(text.encode(errors="backslashreplace"))
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:  # by somebody who has the terminal or pipe, too: we wait as if it were not
            _wait_for_room(fd)
        except OSError as error:
            return error
    return None


def _wait_for_room(fd: int) -> None:
    import select

    look = select.poll()
    look.register(fd, select.POLLOUT)
    look.poll()
