# SPDX-License-Identifier: GPL-2.0-only
"""What a terminal would have shown, as plain text: escape sequences gone, one newline per line.

Incremental: a sequence cut in two by a read is held back until its end has come. It does not move a cursor; text that
was overwritten stays.
"""

from __future__ import annotations

import re

_ESCAPE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI … final: colours, and ESC[6n, by which ash asks where the cursor is
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # OSC … BEL: a window title
    r"|\x1b[ -/]+[0-~]|\x1b[0-Z\\^-~]"  # two and three byte sequences
)
_UNFINISHED = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|\][^\x07\x1b]*\x1b?|[ -/]*)?\Z|\r+\Z")
_LONGEST = 256  # what is longer and still has no end is no sequence, and is let through
# A line ends in \r\n on a terminal, in \r\r\n behind two of them. A lone \r stays a \r.
_NEWLINE = re.compile(r"\r+\n")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f]")


class Filter:
    """Text goes in as it arrives; what comes out is plain."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, text: str) -> str:
        """The plain text of `text`, less what cannot be judged yet."""
        text = self._held + text
        unfinished = _UNFINISHED.search(text, max(0, len(text) - _LONGEST))
        self._held = "" if unfinished is None else text[unfinished.start() :]
        return self._plain(text if unfinished is None else text[: unfinished.start()])

    def close(self) -> str:
        """What was held back, at the end of the line."""
        held, self._held = self._held, ""
        return self._plain(held)

    @staticmethod
    def _plain(text: str) -> str:
        return _CONTROL.sub("", _NEWLINE.sub("\n", _ESCAPE.sub("", text)))
