# SPDX-License-Identifier: GPL-2.0-only
"""Which files of a package go into an image: include and exclude globs over paths without the leading slash.

`*` and `?` stay within one name, `**` crosses folders. Character classes are not known.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

WORDS = re.compile(r"\*\*/|\*\*|\*|\?")
MEANING = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


def matches(path: str, globs: Iterable[str]) -> bool:
    """Whether any of `globs` stands for the whole of `path`."""
    return any(_compiled(glob).fullmatch(path) for glob in globs)


@functools.cache
def _compiled(glob: str) -> re.Pattern[str]:
    pattern, end = "", 0
    for found in WORDS.finditer(glob):
        pattern += re.escape(glob[end : found.start()]) + MEANING[found[0]]
        end = found.end()
    return re.compile(pattern + re.escape(glob[end:]), re.DOTALL)
