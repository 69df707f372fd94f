# SPDX-License-Identifier: GPL-2.0-only
"""`lock`: move the lock of sources to what the archives sign today."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from layer import cache, plan, recipes, yamlfile
from layer.errors import InputError
from layer.fetch import lock, obtain

if TYPE_CHECKING:
    from layer.cli.options import Verbs


def add_verbs(verbs: Verbs) -> None:
    """Add `lock`."""
    told = "move recipes/sources.lock to what the archives sign today"
    parser = verbs.add_parser("lock", description=told, help=told)
    parser.add_argument("recipe", nargs="*", help="only these recipes (default: all)")
    parser.add_argument("--missing", action="store_true", help="only recipes that the lock does not have yet")
    parser.set_defaults(verb=run)


def run(arguments: argparse.Namespace) -> int:
    """Ask the origins and write the lock."""
    pins = lock.read(plan.LOCK)
    known = recipes.names()
    unknown = next((name for name in arguments.recipe if name not in known), None)
    if unknown:
        raise InputError(f"unknown recipe {unknown!r}", hint=yamlfile.suggestion(unknown, known))
    chosen = [recipes.load(name) for name in arguments.recipe or known]
    refreshed: set[str] = set()
    for recipe in chosen:
        if not recipe.locked or (arguments.missing and recipe.name in pins):
            continue
        suite = getattr(recipe.source, "suite", "")
        before = pins.get(recipe.name)
        pins[recipe.name] = obtain.today(recipe, cache.default(), refresh=suite not in refreshed)
        refreshed.add(suite)
        moved = "new" if before is None else "unchanged" if before == pins[recipe.name] else f"was {before.version}"
        print(f"{recipe.name:<20} {pins[recipe.name].version} ({moved})")
    wanted = {name: pin for name, pin in pins.items() if name in known}
    lock.write(plan.LOCK, wanted)
    return 0
