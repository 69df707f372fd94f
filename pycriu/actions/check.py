# SPDX-License-Identifier: GPL-2.0-only
"""`pycriu check`."""

from __future__ import annotations

import os

from pycriu import check, log
from pycriu.actions import Request
from pycriu.options import CheckOptions


def run(request: Request) -> int:
    """Say what this kernel lacks."""
    options = CheckOptions(
        extra=request.flag("extra") or request.flag("all"),
        feature=request.text("feature"),
        list_features=request.flag("list"),
    )
    report = check.check(options)
    try:
        print("\n".join(report.lines), flush=True)
    except BrokenPipeError:  # `| head`: who reads no further has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), log.STDOUT)  # the interpreter flushes once more at its end
    return report.status
