# SPDX-License-Identifier: GPL-2.0-only
"""`pycriu check`."""

from __future__ import annotations

from pycriu.actions import Request, say
from pycriu.check import check
from pycriu.options import CheckOptions


def run(request: Request) -> int:
    """Say what this kernel lacks."""
    options = CheckOptions(
        extra=request.flag("extra") or request.flag("all"),
        feature=request.text("feature"),
        list_features=request.flag("list"),
        experimental=request.flag("experimental") or request.flag("all"),
        json=request.flag("json"),
    )
    report = check(options)
    say(report.lines)
    return report.status
