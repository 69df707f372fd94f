# SPDX-License-Identifier: GPL-2.0-only
"""A program that was asked whether it can be saved now: its answer as BLCR's exit code."""

from __future__ import annotations

from pycriu.blcr.codes import CR_EPERMFAIL, CR_ETEMPFAIL, Failure
from pycriu.errors import HookFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pycriu.errors import PycriuError

NOT_NOW = 75  # EX_TEMPFAIL of sysexits.h: the status of those who say so
SAYS_LATER = "Checkpoint cancelled by application: try again later"
SAYS_NO = "Checkpoint cancelled by application: unable to checkpoint"


def refusal(error: PycriuError) -> Failure | None:
    """The end of a checkpoint that a program has refused; None for an error of another kind."""
    if not isinstance(error, HookFailed):
        return None
    later = error.status == NOT_NOW
    details = tuple(line.strip() for line in str(error).splitlines())
    return Failure(CR_ETEMPFAIL if later else CR_EPERMFAIL, SAYS_LATER if later else SAYS_NO, details)
