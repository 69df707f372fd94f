# SPDX-License-Identifier: GPL-2.0-only
"""ninja's file: one explicit edge for every source, recipe, image and question. Pure: a plan in, text out.

Whether an edge has anything to do is decided by keys, not by times: ninja's times only say when to ask. An edge whose
key is unchanged leaves its stamp alone, and ninja (`restat`) then stops there.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

from layer import keys
from layer.plan import LOCK, Plan
from layer.recipes import RECIPES, PathSource, Recipe
from layer.templates import TEMPLATES

FETCHES_AT_ONCE = 3
# Two recipes at once keep every core busy while one of them sits in a configure script; each runs make with all cores.
BUILDS_AT_ONCE = 2

RULES = """\
rule configure
  command = $layer configure --quiet $arguments
  description = configure
  depfile = build.ninja.d
  generator = 1
  restat = 1
rule fetch
  command = $layer fetch $recipe --builddir .
  description = fetch $recipe
  pool = fetches
  restat = 1
rule recipe
  command = $layer build $recipe --builddir .
  description = build $recipe
  pool = builds
  restat = 1
rule image
  command = $layer image --builddir .
  description = image
  restat = 1
rule ask
  command = $layer $verb --builddir .
  description = $verb
  pool = console
"""


def render(plan: Plan) -> str:
    """The whole file."""
    arguments = _shell(plan.configuration.command)
    layer = _shell([sys.executable, "-X", "utf8", "-m", "layer"])
    lines = [
        "# Made by ./configure " + arguments,
        "ninja_required_version = 1.10",
        f"layer = PYTHONPATH={_shell([str(plan.top)])} {layer}",
        f"pool fetches\n  depth = {FETCHES_AT_ONCE}",
        f"pool builds\n  depth = {BUILDS_AT_ONCE}",
        RULES,
        _edge("build.ninja", "configure", variables={"arguments": arguments}),
    ]
    for recipe in plan.recipes.values():
        lines += _recipe_edges(plan, recipe)
    lines += _image_edges(plan)
    lines += _question_edges(plan)
    lines.append("default image\n")
    return "\n".join(lines)


def depfile(plan: Plan) -> str:
    """What configure read, as a makefile: unlike an input that the graph itself names, a file of it may vanish."""
    names = " ".join(str(path).replace(" ", "\\ ") for path in dict.fromkeys(sorted(_configuration_inputs(plan))))
    return f"build.ninja: {names}\n"


def _recipe_edges(plan: Plan, recipe: Recipe) -> list[str]:
    name = recipe.name
    inputs = [recipe.file, *(plan.top / patch for patch in recipe.patches), *_repository_inputs(plan, recipe)]
    inputs += plan.fragments() if recipe.kernel else ()
    edges = []
    if recipe.locked:
        edges.append(
            _edge(f"recipes/{name}.fetched", "fetch", implicit=[recipe.file, LOCK], variables={"recipe": name})
        )
        inputs.append(Path(f"recipes/{name}.fetched"))
    needed = [Path(f"recipes/{one.name}.json") for one in plan.depends(name)]
    edges.append(_edge(f"recipes/{name}.json", "recipe", implicit=[*inputs, *needed], variables={"recipe": name}))
    edges.append(f"build {name}: phony recipes/{name}.json\n")
    return edges


def _image_edges(plan: Plan) -> list[str]:
    stamps = [Path(f"recipes/{one.name}.json") for one in (*plan.packages(), plan.recipes[plan.configuration.kernel])]
    code = [path for _, path in keys.repository_files(("layer/image",), plan.top)]
    data = [
        path for _, path in keys.repository_files(("recipes/*.yaml", "recipes/base-files", "recipes/image"), plan.top)
    ]
    made = ["images/boot.json", "images/sbom.cdx.json"]
    return [
        _edge(" ".join(made), "image", implicit=[*stamps, Path("config.json"), *code, *data]),
        "build image: phony images/boot.json\n",
        "build sbom: phony images/sbom.cdx.json\n",
        f"build kernel: phony recipes/{plan.configuration.kernel}.json\n",
    ]


def _question_edges(plan: Plan) -> list[str]:
    """Edges that make no file: ninja runs them each time they are asked for."""
    edges = [
        _edge("audit", "ask", variables={"verb": "audit"}),
        _edge("boot", "ask", implicit=[Path("image")], variables={"verb": "boot"}),
        _edge("reproduce", "ask", implicit=[Path("image")], variables={"verb": "reproduce"}),
        _edge("runtime", "ask", implicit=[Path("image")], variables={"verb": "runtime"}),
    ]
    for name in plan.recipes:
        edges.append(_edge(f"why-{name}", "ask", variables={"verb": f"why {name}"}))
        edges.append(_edge(f"clean-{name}", "ask", variables={"verb": f"clean {name}"}))
    return edges


def _configuration_inputs(plan: Plan) -> list[Path]:
    """What configure reads. Folders are named too: their time changes when a file comes or goes."""
    found: list[Path] = []
    for folder in (TEMPLATES, RECIPES, plan.top / "kernel-config", plan.top / "qemu"):
        found += [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    found += [path for path in TEMPLATES.rglob("*") if path.is_file()]
    found += [*RECIPES.glob("*.yaml"), *(plan.top / "qemu").glob("*.yaml")]
    found += [plan.top / "layer" / f"{module}.py" for module in ("graph", "configure", "templates", "recipes", "plan")]
    for recipe in plan.recipes.values():
        found += [path for path in _repository_inputs(plan, recipe) if path.is_dir()]
    return found


def _repository_inputs(plan: Plan, recipe: Recipe) -> list[Path]:
    """The files of the repository that a recipe reads, and the folders they lie in."""
    patterns = (*recipe.inputs, *(recipe.source.paths if isinstance(recipe.source, PathSource) else ()))
    files = [path for _, path in keys.repository_files(patterns, plan.top)]
    folders = {path.parent for path in files if path.parent != plan.top}
    return [*files, *sorted(folders)]


def _edge(outputs: str, rule: str, *, implicit: Iterable[Path] = (), variables: dict[str, str] | None = None) -> str:
    needs = " ".join(_escape(os.fspath(path)) for path in dict.fromkeys(sorted(implicit)))
    lines = [f"build {outputs}: {rule}" + (f" | {needs}" if needs else "")]
    lines += [f"  {name} = {value}" for name, value in (variables or {}).items()]
    return "\n".join(lines) + "\n"


def _shell(words: Iterable[str]) -> str:
    """Words of a command in a variable: as the shell reads them, and ninja before it."""
    return shlex.join(words).replace("$", "$$")


def _escape(path: str) -> str:
    return path.replace("$", "$$").replace(" ", "$ ").replace(":", "$:")
