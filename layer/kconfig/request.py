# SPDX-License-Identifier: GPL-2.0-only
"""One audit as it was asked for: finds the input, the requirement list and the tree, and has it judged.

A tree that cannot be used is no end: the comparison is done without it, and the report says what failed.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from layer import cache, machine, templates
from layer.errors import EvaluationError, InputError
from layer.kconfig import assemble, audit, dotconfig, extract, fragments, skeleton, tree, wishes
from layer.kconfig.audit import Subject
from layer.kconfig.fragments import Fragment
from layer.kconfig.verdicts import Report
from layer.machine import Machine

LARGEST_INPUT = 1 << 30
RUNNING = Path("/proc/config.gz")
OF_A_BUILD = Path("images/kernel.config")  # where a build folder of this layer keeps it


@dataclass(frozen=True, slots=True)
class Request:
    """The words of the command line."""

    source: str | None  # a file, a folder, `-`, or None for the running kernel
    templates: tuple[str, ...]
    fragments: tuple[Path, ...]
    arch: str | None
    tree: Path | None
    cross: str | None
    plain: bool = False  # not even with a tree that an earlier build left in the cache


def answer(request: Request) -> Report:
    """The audit that was asked for."""
    if request.source and tree.is_tree(Path(request.source)):
        source = Path(request.source)
        request = replace(request, tree=request.tree or source)
        if not (source / ".config").is_file():
            return _predicted(request)
    written = read(request.source)
    arch = _arch(request, written)
    subject = Subject(written.name, written, arch)
    asked, names = requirements(request, arch, whole=False)
    found = wishes.gather([entry for fragment in asked for entry in fragment.entries], arch)
    if request.tree is None and not request.plain and arch in machine.names():
        request = replace(request, tree=skeleton.find(cache.default().root, written.release))
    if request.tree is None:
        return audit.compare(subject, found, names)
    try:
        parsed = load_tree(request, arch)
    except EvaluationError as error:
        return replace(audit.compare(subject, found, names), failure=str(error))
    return audit.judge(subject, parsed, found, names)


def requirements(request: Request, arch: str | None, *, whole: bool) -> tuple[tuple[Fragment, ...], tuple[str, ...]]:
    """(fragments in order, their names); `whole` adds those that every image has."""
    files: list[tuple[Path, str]] = []
    if request.templates or whole:
        name = arch if arch in machine.names() else machine.names()[0]
        for chosen in templates.resolve(request.templates, name):
            template = chosen.template
            if whole or template.name != templates.DEFAULT or templates.DEFAULT in request.templates:
                files += [
                    (_fragment(word, name), f"{template.name} ({word.format(machine=name)})")
                    for word in template.kernel
                ]
    files += [(file, str(file)) for file in request.fragments]
    if not files:
        raise InputError(
            f"{', '.join(request.templates)} asks nothing of the kernel",
            hint="name another --template, or a --fragment",
        )
    return tuple(fragments.load(file) for file, _ in files), tuple(name for _, name in files)


def read(source: str | None) -> dotconfig.DotConfig:
    """The configuration in `source`."""
    if source == "-":
        return dotconfig.parse(
            extract.configuration(sys.stdin.buffer.read(LARGEST_INPUT), "standard input"), "standard input"
        )
    file = Path(source) if source else _running()
    if (file / OF_A_BUILD).is_file():
        file = file / OF_A_BUILD
    if (file / ".config").is_file():
        file = file / ".config"
    if file.is_dir():
        raise InputError(f"{file} is a folder, and neither a kernel tree nor a build folder with a configuration")
    if not file.exists():
        raise InputError(f"{file} does not exist")
    return dotconfig.parse(extract.configuration(file.read_bytes(), str(file)), str(file))


def load_tree(request: Request, arch: str | None) -> tree.Tree:
    """The Kconfig tree, for the architecture and with the compiler that were named or that fit."""
    assert request.tree is not None
    if arch is None:
        raise InputError(
            "the architecture cannot be told from the input", hint=f"name it: --arch {'|'.join(machine.names())}"
        )
    if arch not in machine.names():
        raise EvaluationError(
            f"there is no machine {arch}", hint=f"trees can be judged for: {', '.join(machine.names())}"
        )
    target = machine.load(arch)
    cross = cross_prefix(target) if request.cross is None else request.cross
    return tree.load(request.tree, target, cross, cache.default().root)


def cross_prefix(target: Machine) -> str:
    """What Debian puts before the compiler's name, as the recipes do; nothing where only the plain one exists."""
    cross = f"{target.triplet}-"
    return "" if platform.machine() == target.name and shutil.which(f"{cross}gcc") is None else cross


def _predicted(request: Request) -> Report:
    """No configuration yet: what the fragments would become in the tree."""
    arch = request.arch or platform.machine()
    asked, names = requirements(request, arch, whole=True)
    found = wishes.gather([entry for fragment in asked for entry in fragment.entries], arch)
    subject = Subject(f"fragments on allnoconfig, in {request.tree}", None, arch)
    return audit.judge(subject, load_tree(request, arch), found, names)


def _fragment(word: str, name: str) -> Path:
    return assemble.fragment_file(word.format(machine=name))


def _running() -> Path:
    boot = Path(f"/boot/config-{os.uname().release}")
    for file in (RUNNING, boot):
        if file.exists():
            return file
    raise InputError(
        "the running kernel tells no configuration",
        hint=f"neither {RUNNING} nor {boot} exists; name a .config, a kernel image or a tree",
    )


def _arch(request: Request, written: dotconfig.DotConfig) -> str | None:
    if request.arch and written.arch and request.arch != written.arch:
        raise InputError(f"{written.name} configures {written.arch}, not {request.arch}", hint="leave --arch away")
    if request.arch and request.arch not in (*machine.names(), "arm", "riscv64"):
        machine.load(request.arch)  # says what there is
    return request.arch or written.arch
