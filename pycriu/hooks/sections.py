# SPDX-License-Identifier: GPL-2.0-only
"""Critical sections, and the conversation with the engine: neither begins while the other is under way."""

from __future__ import annotations

import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_LOOK = 0.05  # seconds until a thread that waits asks whether it still has to


class Sections:
    """Which threads are in critical sections, and whether a conversation is under way, or waits for their end."""

    def __init__(self) -> None:
        self._inside: dict[int, int] = {}  # thread → how many it is in
        self._gate = threading.Condition()  # with a lock that a thread, and a handler in it, can take again
        self._taken = self._waited_for = False

    def __len__(self) -> int:
        """How many threads are in one."""
        return len(self._inside)

    def __contains__(self, thread: int) -> bool:
        return thread in self._inside

    def take(self) -> bool:
        """Begin a conversation; False where it has to wait until `leave` says so."""
        with self._gate:
            self._waited_for = bool(self._inside)
            self._taken = not self._waited_for
            return self._taken

    def give_back(self) -> None:
        """The conversation is over."""
        with self._gate:
            self._taken = False
            self._gate.notify_all()

    def enter(self, *, may_wait: bool, wanted: Callable[[], bool] = lambda: True) -> None:
        """This thread begins one; if it may, it waits while a conversation is under way, or is about to be.

        Whoever has asked for one may give it up without a word: `wanted` tells. What keeps it waiting may be the end
        of a section that does not end before this one has begun.
        """
        me = threading.get_ident()
        with self._gate:
            while may_wait and me not in self._inside and (self._taken or (self._waited_for and wanted())):
                self._gate.wait(_LOOK)
            self._inside[me] = self._inside.get(me, 0) + 1

    def leave(self) -> bool:
        """It ends; whether a conversation has waited for that."""
        me = threading.get_ident()
        with self._gate:
            self._inside[me] -= 1
            if not self._inside[me]:
                del self._inside[me]
            return self._waited_for and not self._inside

    def forked(self) -> None:
        """In a child, which has one thread."""
        me = threading.get_ident()
        self._gate = threading.Condition()
        self._inside = {thread: count for thread, count in self._inside.items() if thread == me}
        self._taken = self._waited_for = False
