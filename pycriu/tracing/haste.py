# SPDX-License-Identifier: GPL-2.0-only
"""Coming before others while a tree stands still, or is not yet there again."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

_FIRST = -20  # the nice value, see sched(7)


class Haste:
    """A scope in which we, and the threads that we start, come before all ordinary work of the machine.

    A tree that we have stopped waits for us; on a busy machine it would wait for everybody else, too. Without
    CAP_SYS_NICE it does: then nothing changes.
    """

    def __enter__(self) -> Self:
        self._before: int | None = os.getpriority(os.PRIO_PROCESS, 0)
        try:
            os.setpriority(os.PRIO_PROCESS, 0, _FIRST)
        except PermissionError:
            self._before = None
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """The tree goes on, or is not going to. Safe to call twice."""
        if self._before is not None:
            os.setpriority(os.PRIO_PROCESS, 0, self._before)
            self._before = None
