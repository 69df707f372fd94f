# SPDX-License-Identifier: GPL-2.0-only
"""What the kernel demands of whoever saves or restarts processes."""

from __future__ import annotations

import errno

from pycriu.blcr.codes import Failure
from pycriu.kernel import procfs

CAP_SYS_ADMIN, CAP_CHECKPOINT_RESTORE = 21, 40


def demand(what: str) -> None:
    """Failure unless we have a capability without which nothing can be done."""
    capable = int(procfs.parse_status(procfs.text("self", "status"))["CapEff"], 16)
    if not capable & (1 << CAP_SYS_ADMIN | 1 << CAP_CHECKPOINT_RESTORE):
        raise Failure(
            errno.EPERM, f"{what} failed: CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE is needed", ("run it as root",)
        )
