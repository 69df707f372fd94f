# SPDX-License-Identifier: GPL-2.0-only
"""Letting several processes go as if it were one act, whenever we may be killed."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

SIGKILL = 9


class AllOrNone:
    """A scope at whose end all of `pids` live, or, if we are killed within it, none.

    A guard of our own making waits for one byte, which is the moment of truth. If we end without having sent it, the
    guard kills them all. A single task needs no guard: letting it go is one act. But who is `concerned` needs one,
    having something to do on either side of that moment (`hold`, `released` of fds/kind.py).
    """

    def __init__(self, pids: list[int], concerned: Sequence[Any] = ()) -> None:
        self._pids = pids
        self._concerned = concerned
        self._guard = 0

    def __enter__(self) -> AllOrNone:
        if len(self._pids) < 2 and not self._concerned:
            return self
        heard, self._tell = os.pipe2(os.O_CLOEXEC)
        self._guard = os.fork()
        if not self._guard:
            self._watch(heard)
        os.close(heard)
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if not self._guard:
            return
        try:
            if error is None:
                os.write(self._tell, b"x")
                for one in self._concerned:
                    one.released()
                os.write(self._tell, b"x")
        finally:
            os.close(self._tell)
            os.waitpid(self._guard, 0)

    def _watch(self, heard: int) -> None:
        """The guard's life: it makes system calls and ends."""
        try:
            os.setsid()  # what a terminal sends to us is not for it
            os.close(self._tell)
            if not os.read(heard, 1):
                self._end()
            elif not os.read(heard, 1):
                for one in self._concerned:
                    one.released()
        finally:
            os._exit(0)

    def _end(self) -> None:
        try:
            for one in self._concerned:
                one.hold()
        finally:
            for pid in self._pids:
                os.kill(pid, SIGKILL)
