# SPDX-License-Identifier: GPL-2.0-only
"""`pycriu gc`."""

from __future__ import annotations

import time

from pycriu.actions import Request, say
from pycriu.command import arguments
from pycriu.errors import UserError, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pycriu.stored.collect import Verdict


def run(request: Request) -> int:
    """Remove checkpoints that are not wanted any more; 1 if one cannot be removed."""
    if not request.words:
        raise UserError("gc needs a directory", "pycriu gc --keep N DIR: checkpoints below DIR are removed")
    from pycriu.stored import collect

    keep = arguments.number(request.values, "keep")
    old = collect.age(request.text("older-than") or "0s")
    dry = request.flag("dry-run")
    verdicts = collect.collect(
        request.words,
        keep,
        time.time() - old,
        dry=dry,
        hidden=lambda error: request.log.warn("%s: %s", error.filename, error.strerror),
    )
    if request.flag("json"):
        import json

        say([json.dumps({"schema": 1, "dry": dry, "sets": [one.as_dict() for one in verdicts]}, indent=2)])
    else:
        say(lines(verdicts, dry=dry))
    return 1 if any(one.failed for one in verdicts) else 0


def lines(verdicts: list[Verdict], *, dry: bool) -> list[str]:
    """One for each, and the sum."""
    word = "would remove" if dry else "removed"
    gone = [one for one in verdicts if one.removed]
    told = [
        f"{word if one.removed else 'kept'} {printable(one.path)}{f': {printable(one.why)}' if one.why else ''}"
        for one in verdicts
    ]
    return [*told, f"{word} {len(gone)} of {len(verdicts)}, {sum(one.size for one in gone) >> 10} KiB"]
