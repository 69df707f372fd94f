# SPDX-License-Identifier: GPL-2.0-only
"""Templates: folders that each add packages and kernel fragments, resolved into one ordered list.

`default` is always first; requirements come before who requires them; each template appears once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from layer import yamlfile
from layer.errors import InputError
from layer.recipes import TOP
from layer.yamlfile import Document

TEMPLATES = TOP / "templates"
DEFAULT = "default"
FILES = frozenset({"template.yaml", "README"})  # all that a template's folder may hold


@dataclass(frozen=True, slots=True)
class Template:
    """One template; the fields are those of templates/schema.yaml."""

    name: str
    summary: str
    requires: tuple[str, ...]
    architectures: tuple[str, ...]  # empty: every machine
    packages: tuple[str, ...]
    kernel: tuple[str, ...]
    tests: tuple[str, ...]
    banner: str
    readme: str
    document: Document


@dataclass(frozen=True, slots=True)
class Chosen:
    """A template in a resolved list."""

    template: Template
    required_by: tuple[str, ...]  # chain from the one the user named; empty when it was the user


def names(folder: Path = TEMPLATES) -> tuple[str, ...]:
    """Every template there is, sorted."""
    return tuple(sorted(path.parent.relative_to(folder).as_posix() for path in folder.rglob("template.yaml")))


def load(name: str, folder: Path = TEMPLATES) -> Template:
    """The template called `name`, which must exist; InputError when it is malformed."""
    home = folder / name
    unknown = sorted(
        path.name
        for path in home.iterdir()
        if path.name not in FILES and path.is_file() and not path.name.endswith("~")
    )
    if unknown:
        raise InputError(
            f"template {name} holds a file {unknown[0]!r}",
            hint=f"it may hold: {', '.join(sorted(FILES))}",
            file=home / unknown[0],
        )
    document = yamlfile.load(home / "template.yaml", yamlfile.load_schema(TEMPLATES / "schema.yaml"))
    readme = home / "README"
    if not readme.is_file():
        raise InputError(
            f"template {name} has no README", hint="say there what it is for and what it costs", file=readme
        )
    return Template(
        name=name,
        summary=str(document.data["summary"]),
        requires=document.strings("requires"),
        architectures=document.strings("architectures"),
        packages=document.strings("packages"),
        kernel=document.strings("kernel"),
        tests=document.strings("tests"),
        banner=str(document.data.get("banner", "")),
        readme=readme.read_text(),
        document=document,
    )


def resolve(requested: Iterable[str], machine: str, folder: Path = TEMPLATES) -> tuple[Chosen, ...]:
    """`default`, then the requested ones, each after its requirements; InputError on an unknown or circular one."""
    known = names(folder)
    order: dict[str, Chosen] = {}
    for name in (DEFAULT, *requested):
        if name not in known:
            raise InputError(f"unknown template {name!r}", hint=yamlfile.suggestion(name, known))
        _visit(name, (), machine, folder, order)
    return tuple(order.values())


def closure(name: str, chosen: Mapping[str, Template]) -> tuple[Template, ...]:
    """A template and all it requires, out of a resolved list, in that list's order."""
    wanted = {name}
    waiting = [name]
    while waiting:
        for required in chosen[waiting.pop()].requires:
            if required not in wanted:
                wanted.add(required)
                waiting.append(required)
    return tuple(template for template in chosen.values() if template.name in wanted)


def _visit(name: str, chain: tuple[str, ...], machine: str, folder: Path, order: dict[str, Chosen]) -> None:
    """Depth first: requirements before the template; `chain` leads from the requested one to here."""
    if name in order:
        return
    template = load(name, folder)
    _check_machine(template, chain, machine)
    for index, required in enumerate(template.requires):
        line = template.document.line("requires", index)
        if required not in names(folder):
            raise InputError(
                f"{name} requires {required!r}, which does not exist{_asked(chain)}",
                hint=yamlfile.suggestion(required, names(folder)),
                file=template.document.file,
                line=line,
            )
        if required in (*chain, name):
            circle = (*chain, name)[(*chain, name).index(required) :]
            raise InputError(
                f"templates require each other in a circle: {' → '.join((*circle, required))}",
                file=template.document.file,
                line=line,
            )
        _visit(required, (*chain, name), machine, folder, order)
    order[name] = Chosen(template, chain)


def _check_machine(template: Template, chain: tuple[str, ...], machine: str) -> None:
    if template.architectures and machine not in template.architectures:
        raise InputError(
            f"{template.name} is not for {machine}{_asked(chain)}",
            hint=f"it is for: {', '.join(template.architectures)}",
            file=template.document.file,
            line=template.document.line("architectures"),
        )


def _asked(chain: tuple[str, ...]) -> str:
    return f" (required by {' ← '.join(reversed(chain))})" if chain else ""
