# SPDX-License-Identifier: GPL-2.0-only
"""From a choice of templates to a build folder: the resolved configuration, the collected READMEs, and ninja's graph.

Writes only what differs, so that running it again changes nothing, not even a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from layer import configuration, graph, machine, plan, recipes, templates, yamlfile
from layer.cache import write_if_changed
from layer.configuration import BuildFolder, Configuration
from layer.errors import InputError
from layer.recipes import TOP
from layer.templates import Chosen

FRAGMENTS = TOP / "kernel-config"


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for."""

    templates: tuple[str, ...]
    machine: str
    kernel: str
    builddir: Path | None
    extra_fragments: tuple[Path, ...] = ()
    strict_lock: bool = False


@dataclass(frozen=True, slots=True)
class Configured:
    """What came of it."""

    folder: BuildFolder
    configuration: Configuration
    changed: bool
    banners: tuple[str, ...]


def configure(request: Request) -> Configured:
    """Resolve the request and write the build folder; InputError when it cannot be."""
    chosen = templates.resolve(request.templates, machine.load(request.machine).name)
    folder = BuildFolder((request.builddir or default_folder(request)).absolute())
    resolved = _resolve(request, chosen)
    changed = configuration.write(folder, resolved)
    changed |= write_if_changed(folder.path / "README_templates", readmes(chosen))
    planned = plan.load(folder.path)
    changed |= write_if_changed(folder.graph, graph.render(planned))
    changed |= write_if_changed(folder.path / "build.ninja.d", graph.depfile(planned))
    banners = tuple(one.template.banner for one in chosen if one.template.banner)
    return Configured(folder, resolved, changed, banners)


def default_folder(request: Request) -> Path:
    """build/<machine>, with the kernel's name when it is not the default one."""
    return (
        TOP / "build" / (request.machine if request.kernel == kernels()[0] else f"{request.machine}-{request.kernel}")
    )


def kernels() -> tuple[str, ...]:
    """The kernel recipes, the default one first: the highest version."""
    found = [name for name in recipes.names() if name.startswith("linux-")]
    return tuple(
        sorted(found, key=lambda name: [int(part) for part in name.removeprefix("linux-").split(".")], reverse=True)
    )


def readmes(chosen: tuple[Chosen, ...]) -> str:
    """The READMEs of the chosen templates, each under its name."""
    parts = []
    for one in chosen:
        why = f"required by {one.required_by[-1]}" if one.required_by else "chosen"
        title = f"{one.template.name}: {one.template.summary}"
        parts.append(f"{title}\n{'=' * len(title)}\n({why})\n\n{one.template.readme.strip()}\n")
    return "\n\n".join(parts)


def fragments(chosen: tuple[Chosen, ...], machine_name: str) -> tuple[str, ...]:
    """The kernel fragments of the templates, each once, as paths in the repository."""
    found: dict[str, None] = {}
    for one in chosen:
        for index, written in enumerate(one.template.kernel):
            name = written.replace("{machine}", machine_name)
            if not (FRAGMENTS / f"{name}.cfg").is_file():
                raise InputError(
                    f"{one.template.name} wants the kernel fragment {name!r}, which does not exist",
                    hint=yamlfile.suggestion(name, (path.stem for path in FRAGMENTS.glob("*.cfg"))),
                    file=one.template.document.file,
                    line=one.template.document.line("kernel", index),
                )
            found[f"kernel-config/{name}.cfg"] = None
    return tuple(found)


def _resolve(request: Request, chosen: tuple[Chosen, ...]) -> Configuration:
    if request.kernel not in kernels():
        raise InputError(f"unknown kernel {request.kernel!r}", hint=yamlfile.suggestion(request.kernel, kernels()))
    missing = next((path for path in request.extra_fragments if not path.is_file()), None)
    if missing:
        raise InputError("no such kernel fragment", file=missing)
    packages: dict[str, None] = {}
    for one in chosen:
        for index, name in enumerate(one.template.packages):
            if name not in recipes.names():
                raise InputError(
                    f"{one.template.name} wants the package {name!r}, which no recipe makes",
                    hint=yamlfile.suggestion(name, recipes.names()),
                    file=one.template.document.file,
                    line=one.template.document.line("packages", index),
                )
            packages[name] = None
    extra = tuple(str(path.absolute()) for path in request.extra_fragments)
    return Configuration(
        machine=request.machine,
        kernel=request.kernel,
        requested=request.templates,
        templates=tuple(one.template.name for one in chosen),
        packages=tuple(packages),
        fragments=(*fragments(chosen, request.machine), *extra),
        strict_lock=request.strict_lock,
        command=command(request),
    )


def command(request: Request) -> tuple[str, ...]:
    """The arguments of configure that ask for just this again."""
    words = [f"--template={','.join(request.templates)}"] if request.templates else []
    words += [f"--machine={request.machine}", f"--kernel={request.kernel}"]
    words += [f"--kernel-fragment={path.absolute()}" for path in request.extra_fragments]
    if request.builddir and request.builddir.absolute() != default_folder(request):
        words.append(f"--builddir={request.builddir.absolute()}")
    return (*words, *(["--strict-lock"] if request.strict_lock else []))
