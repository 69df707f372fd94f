# SPDX-License-Identifier: GPL-2.0-only
"""`pycriu cpuinfo dump` writes what this CPU offers; `pycriu cpuinfo check` holds it against what an image has."""

from __future__ import annotations

import os

from pycriu.actions import Request, light_protobuf
from pycriu.errors import UserError


def run(request: Request) -> int:
    """One of the two."""
    if request.words not in (["dump"], ["check"]):
        raise UserError("cpuinfo requires an action: dump or check")
    light_protobuf()
    from pycriu.arch import cpuinfo
    from pycriu.images import store

    what = cpuinfo.wanted(request.text("cpu-cap") or "")
    if request.words == ["dump"]:
        name, entry = cpuinfo.here()
        store.write_alone(os.path.join(request.images, name), entry)
        return 0
    with store.ImagesDir(request.images) as images:
        cpuinfo.check(images, what)
    return 0
