# SPDX-License-Identifier: GPL-2.0-only
"""--evasive-devices: a device whose path is gone is as good under any other."""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pycriu.fds.openfile import OpenFile

DEVICES = "/dev"


def redirect(file: OpenFile) -> None:
    """Take the device of `file` as opened by a path that leads to it: if its own does not, by another below /dev."""
    device = file.status.st_rdev
    if _leads_to(file.link, device):
        return
    for folder, _, names in os.walk(DEVICES):
        for name in sorted(names):
            path = os.path.join(folder, name)
            if _leads_to(path, device):
                file.link, file.status = path, os.lstat(path)
                return


def _leads_to(path: str, device: int) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == device
