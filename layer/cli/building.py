# SPDX-License-Identifier: GPL-2.0-only
"""`fetch`, `build`, `clean`, `why`: one recipe of a configured build folder. ninja's edges call these."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from layer import build, cache, plan, sources, why, yamlfile
from layer.cli import options
from layer.errors import InputError
from layer.plan import Plan

if TYPE_CHECKING:
    from layer.cli.options import Verbs


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs of single recipes."""
    table = (
        ("fetch", run_fetch, "have a recipe's source at hand"),
        ("build", run_build, "build a recipe, unless the cache has it"),
        ("clean", run_clean, "forget a recipe's output, here and in the cache"),
        ("why", run_why, "say which field of a recipe's key changed since this folder last built it"),
    )
    for name, verb, told in table:
        parser = verbs.add_parser(name, description=told, help=told)
        parser.add_argument("recipe")
        options.folder(parser)
        parser.set_defaults(verb=verb)


def run_fetch(arguments: argparse.Namespace) -> int:
    """Download and verify; the stamp says which pin."""
    before = _plan(arguments)
    name = arguments.recipe
    pin = sources.fetch(before, name).pin(name)
    cache.write_if_changed(before.folder.fetched(name), json.dumps({"version": pin.version if pin else ""}) + "\n")
    return 0


def run_build(arguments: argparse.Namespace) -> int:
    """Build and say how long it took."""
    built = build.build(_plan(arguments), arguments.recipe)
    if built.seconds:
        print(f"  {built.name}: built in {built.seconds:.0f} s")
    return 0


def run_clean(arguments: argparse.Namespace) -> int:
    """Forget, so that the next build does it again."""
    chosen = _plan(arguments)
    cache.remove(chosen.output(arguments.recipe))
    cache.remove(chosen.folder.stamp(arguments.recipe))
    print(f"{arguments.recipe}: forgotten")
    return 0


def run_why(arguments: argparse.Namespace) -> int:
    """One line a changed field."""
    print("\n".join(why.why(_plan(arguments), arguments.recipe)))
    return 0


def _plan(arguments: argparse.Namespace) -> Plan:
    chosen = plan.load(arguments.builddir)
    if arguments.recipe not in chosen.recipes:
        raise InputError(
            f"{arguments.recipe!r} is not part of this configuration",
            hint=yamlfile.suggestion(arguments.recipe, chosen.recipes),
        )
    return chosen
