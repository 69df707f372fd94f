# SPDX-License-Identifier: GPL-2.0-only
"""What `outside` and `init` tell each other: lines of JSON in two pipes."""

from __future__ import annotations

import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# What a message says, by its first word.
MADE = "made"  # init: the tree is complete and stands still; the PID of the root
GO = "go"  # outside: let it run
DONE = "done"  # init: it runs; microseconds, pages
FAILED = "failed"  # init: nothing is left; message, hint
ENDED = "ended"  # init: the root has; its wait status, and whether it was the last


class Line:
    """A pipe in each direction, as one side has them."""

    def __init__(self, reader: int, writer: int) -> None:
        self._reader, self.writer = reader, writer
        self._rest = b""
        self.said = ""  # the last word of this side
        self.closed = False

    def tell(self, word: str, *values: Any) -> None:
        """Say something; BrokenPipeError where nobody listens any more."""
        self.said = word
        try:
            os.write(self.writer, json.dumps([word, *values]).encode() + b"\n")
        except BrokenPipeError:
            self.said = ""
            raise

    def hear(self) -> list[Any]:
        """The next message; an empty one when the other side has ended."""
        while b"\n" not in self._rest:
            more = os.read(self._reader, 4096)
            if not more:
                return []
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        heard: list[Any] = json.loads(line)
        return heard

    def close(self) -> None:
        """Both."""
        self.closed = True
        os.close(self._reader)
        os.close(self.writer)


def lines() -> tuple[Line, Line]:
    """Two ends that belong together."""
    ours, theirs = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)
    return Line(ours[0], theirs[1]), Line(theirs[0], ours[1])
