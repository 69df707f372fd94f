# SPDX-License-Identifier: GPL-2.0-only
"""Magics by name and names by magic, as CRIU's bindings have them."""

from __future__ import annotations

from pycriu.images import catalogue, magics

by_name = {"IMG_COMMON": catalogue.IMG_COMMON_MAGIC, "IMG_SERVICE": catalogue.IMG_SERVICE_MAGIC}
by_name |= {name: kind.magic for name, kind in magics.BY_NAME.items()}
by_val = {magic: name for name, magic in by_name.items()}
