# SPDX-License-Identifier: GPL-2.0-only
"""The sources of a plan's recipes at hand, with what stands in for a version that its archive has dropped."""

from __future__ import annotations

from layer import progress
from layer.fetch import lock, obtain
from layer.plan import Plan


def fetch(plan: Plan, name: str) -> Plan:
    """Have the recipe's source at hand, unless its output is; returns the plan with the pin that was really used."""
    recipe, pin = plan.recipes[name], plan.pin(name)
    if pin is None or plan.output(name).is_dir():
        return plan
    try:
        obtain.obtain(recipe, pin, plan.cache)
    except lock.GoneError:
        stand_in = obtain.substitute(recipe, pin, plan.cache, progress.say, strict=plan.configuration.strict_lock)
        with plan.cache.turn("overlay"):
            lock.write(plan.folder.overlay, {**lock.read(plan.folder.overlay), name: stand_in})
        plan = plan.with_pin(name, stand_in)
        obtain.obtain(recipe, stand_in, plan.cache)
    return plan
