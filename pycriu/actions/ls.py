# SPDX-License-Identifier: GPL-2.0-only
"""`pycriu ls`."""

from __future__ import annotations

import os
import pwd
import time

from pycriu.actions import Request, say
from pycriu.errors import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pycriu.stored.sets import Set


def run(request: Request) -> int:
    """List the checkpoints below directories; 1 if one is broken, or there is something that cannot be looked at."""
    from pycriu.stored import sets

    hidden: list[OSError] = []
    found = [one for top in request.words or ["."] for one in sets.known(os.path.normpath(top), hidden.append)]
    for error in hidden:
        request.log.warn("%s: %s", error.filename, error.strerror)
    if request.flag("json"):
        import json

        say([json.dumps({"schema": 1, "sets": [one.as_dict() for one in found]}, indent=2)])
    else:
        say(table(found))
    return 1 if hidden or any(one.state == sets.BROKEN for one in found) else 0


def table(found: list[Set]) -> list[str]:
    """A line for each, and its faults below it."""
    head = ("MADE", "OWNER", "PID", "NAME", "TASKS", "SIZE", "STATE", "PATH")
    rows = [head, *(row(one) for one in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = []
    for cells, one in zip(rows, (None, *found), strict=True):
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
        if one is not None and one.fault:
            lines.append(f"    {printable(one.fault)}")
    return lines


def row(one: Set) -> tuple[str, ...]:
    """The cells."""
    path = printable(one.path) + (f" <- {', '.join(map(printable, one.parents))}" if one.parents else "")
    made = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.made)) if one.made else "-"
    return (
        made, _user(one.owner), str(one.root or "-"), printable(one.name or "-"), str(one.processes or "-"),
        size(one.size), one.state, path,
    )  # fmt: skip


def size(number: int) -> str:
    """Bytes in a unit that people read."""
    value = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.0f} TiB"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
