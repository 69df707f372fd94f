# SPDX-License-Identifier: GPL-2.0-only
"""`pycriu doctor`."""

from __future__ import annotations

from pycriu.actions import Request, say


def run(request: Request) -> int:
    """Find out whether processes can be dumped and restored here, and say what to do."""
    from pycriu import doctor
    from pycriu.doctor import examination

    findings = examination.findings()
    if request.flag("json"):
        say([doctor.as_json(findings)])
    else:
        say([*(line for one in findings for line in one.lines()), doctor.verdict(findings)])
    return 0 if doctor.passes(findings) else 1
