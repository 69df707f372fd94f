# SPDX-License-Identifier: GPL-2.0-only
"""What an import is asked for, and what it tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pycriu.record import record

if TYPE_CHECKING:
    from collections.abc import Callable

    from pycriu.corefile.descriptors import Line
    from pycriu.corefile.space import Region

SAME, NEW = 0, -1


@record
class Options:
    """What an import is asked for."""

    core: str
    images_dir: str  # exists
    executable: str | None = None
    lines: tuple[Line, ...] | None = None  # descriptors; None: 0 to 2 only
    given: tuple[int, ...] = ()  # descriptors that the restore has open, under names of `build.EXTERNAL`
    strict: bool = False  # refuse where something had to be assumed
    pid: int = SAME  # or NEW: one that is free
    job: bool = False  # in our session and group
    side: str | None = None  # the side-car; None: that of the core's name, if there is one
    choose: Callable[[Region], bool] | None = None  # which writable memory is taken from the core; None: all


@record
class Imported:
    """What was made."""

    pid: int
    was: int  # the PID of then
    threads: int
    pages: int
    arguments: str  # the command line, the first 80 characters
    given: tuple[int, ...]  # descriptors that the restore must be given, under names of `build.EXTERNAL`
    lacks: tuple[str, ...]  # what the core does not hold, and what has been made of that
