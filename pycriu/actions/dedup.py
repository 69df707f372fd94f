# SPDX-License-Identifier: GPL-2.0-only
"""`pycriu dedup`."""

from __future__ import annotations

from pycriu.actions import Request, light_protobuf


def run(request: Request) -> int:
    """Free what earlier images have in vain."""
    light_protobuf()
    from pycriu.pages import dedup

    freed = dedup.dedup(request.images)
    request.log.info("Freed %d KiB in %d earlier sets of images", freed.size >> 10, freed.sets)
    return 0
