# SPDX-License-Identifier: GPL-2.0-only
"""What choosing a template means: templates, packages, kernel options with their reasons, and through whom."""

from __future__ import annotations

from collections.abc import Iterator

from layer import configure, recipes, templates
from layer.kconfig import fragments
from layer.recipes import TOP
from layer.templates import Chosen


def explain(name: str, machine: str) -> tuple[str, ...]:
    """The answer, as lines."""
    chosen = templates.resolve([name], machine)
    template = chosen[-1].template
    lines = [
        f"{name}: {template.summary}",
        f"on {machine}; machines: {', '.join(template.architectures) or 'any'}",
        "",
        "templates, in order",
    ]
    width = max(len(one.template.name) for one in chosen)
    for one in chosen:
        lines.append(f"  {one.template.name:<{width}}  {_through(one)}")
    lines += ["", "packages", *_packages(chosen), "", "kernel options", *_options(chosen, machine)]
    return tuple(lines)


def _through(one: Chosen) -> str:
    if one.required_by:
        return f"required by {' ← '.join(reversed(one.required_by))}"
    return "always first" if one.template.name == templates.DEFAULT else "asked for"


def _packages(chosen: tuple[Chosen, ...]) -> Iterator[str]:
    asked = {name: one.template.name for one in reversed(chosen) for name in one.template.packages}
    closed = recipes.closure(asked)
    for recipe in closed:
        if recipe.native:
            continue
        users = [other.name for other in closed if recipe.name in other.depends]
        why = f"by {asked[recipe.name]}" if recipe.name in asked else f"needed by {', '.join(users)}"
        yield f"  {recipe.name:<20}  {why:<32}  {recipe.summary}"


def _options(chosen: tuple[Chosen, ...], machine: str) -> Iterator[str]:
    for one in chosen:
        for name in configure.fragments((one,), machine):
            fragment = fragments.parse((TOP / name).read_text(), TOP / name)
            yield f"  {name}, by {one.template.name}"
            for entry in fragment.entries:
                optional = " (optional)" if entry.optional or machine in dict(entry.optional_on) else ""
                yield f"    CONFIG_{entry.symbol}={entry.value}{optional}"
                if entry.reason:
                    yield f"        {entry.reason}"
