# SPDX-License-Identifier: GPL-2.0-only
"""Critical sections, and the conversation with the engine: neither begins while the other is under way."""

from __future__ import annotations

import threading


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

    def enter(self, *, may_wait: bool) -> None:
        """This thread begins one; if it may, it waits while a conversation is under way, or is about to be."""
        me = threading.get_ident()
        with self._gate:
            while (self._taken or self._waited_for) and me not in self._inside and may_wait:
                self._gate.wait()
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
