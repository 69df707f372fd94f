# SPDX-License-Identifier: GPL-2.0-only
"""What a program is told of a checkpoint."""

from __future__ import annotations

import time

from pycriu.hooks import channel, fresh

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pycriu.hooks.registry import Errors


class Moment:
    """The checkpoint that hooks are called for.

    `outcome` is None before it is known, then continued, restored or failed; `why` says why it failed. `changed` names
    what is another after a restore: pid, hostname, environment, boot. `away` is how many seconds have passed meanwhile
    on the clock of the wall. `message` is what whoever restored it has to say (see `pycriu.warm_start`). `errors` has
    what hooks have raised so far, with their names.
    """

    def __init__(self) -> None:
        self.outcome: str | None = None
        self.why = ""
        self.changed: frozenset[str] = frozenset()
        self.message = b""
        self.errors: Errors = []
        self._facts = fresh.Facts()
        self._begin = time.time()
        self.away = 0.0

    def ended(self, what: int, why: str, message: bytes) -> None:
        """It is known how it ended."""
        self.outcome, self.why, self.message = channel.OUTCOMES[what], why, message
        if what == channel.RESTORED:
            self.away = max(0.0, time.time() - self._begin)
            self.changed = fresh.Facts().changed(self._facts)
