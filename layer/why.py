# SPDX-License-Identifier: GPL-2.0-only
"""Why a recipe would be built (again): the fields of its key now, beside those this folder last used."""

from __future__ import annotations

import json

from layer import keys
from layer.plan import Plan


def why(plan: Plan, name: str) -> tuple[str, ...]:
    """The answer, as lines."""
    key, stamp = plan.key(name), plan.folder.stamp(name)
    have = "the cache has it" if plan.output(name).is_dir() else "the cache does not have it"
    if not stamp.is_file():
        return (f"{name}: never built in this folder; key {key}, {have}",)
    last = json.loads(stamp.read_text())
    if last["key"] == key:
        return (f"{name}: nothing changed; key {key}, {have}",)
    changes = keys.difference(last["fields"], plan.fields(name))
    return (f"{name}: key {last['key']} → {key}, {have}; changed:", *(f"  {line}" for line in changes))
