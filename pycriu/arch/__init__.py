# SPDX-License-Identifier: GPL-2.0-only
"""One value per CPU architecture: `native()` is the one we run on."""

from __future__ import annotations

import os

from pycriu.arch.description import Arch as Arch
from pycriu.errors import Unsupported


def native() -> Arch:
    """The architecture of this machine; Unsupported where there is none. Only the one that is needed is imported."""
    machine = os.uname().machine
    if machine == "x86_64":
        from pycriu.arch.x86_64 import X86_64

        return X86_64
    if machine == "aarch64":
        from pycriu.arch.aarch64 import AARCH64

        return AARCH64
    raise Unsupported(f"pycriu does not know this CPU architecture ({machine})", "it knows x86_64 and aarch64")
