# SPDX-License-Identifier: GPL-2.0-only
"""`configure`: choose templates, a machine and a kernel; or ask what there is to choose from."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from layer import configure, explain, machine, templates

if TYPE_CHECKING:
    from layer.cli.options import Verbs

DESCRIPTION = (
    "Resolve templates into a build folder. Exit status 2: something named here does not exist or does not fit."
)


def add_verbs(verbs: Verbs) -> None:
    """Add `configure`."""
    parser = verbs.add_parser(
        "configure", prog="configure", description=DESCRIPTION, help="choose templates; make a build folder"
    )
    parser.add_argument(
        "--template",
        "--templates",
        action="append",
        default=[],
        metavar="NAME[,NAME…]",
        help="a feature to build in; repeatable",
    )
    parser.add_argument("--machine", default="x86_64", help="what to build for (default: %(default)s)")
    parser.add_argument("--kernel", default=None, help=f"one of: {', '.join(configure.kernels())} (default: the first)")
    parser.add_argument(
        "--kernel-fragment",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="kernel options on top; repeatable",
    )
    parser.add_argument("--builddir", type=Path, default=None, help="default: build/MACHINE")
    parser.add_argument(
        "--strict-lock",
        action="store_true",
        help="fail when the archive has dropped a locked source, instead of taking its successor",
    )
    parser.add_argument("--list-templates", action="store_true", help="what --template can name")
    parser.add_argument("--list-machines", action="store_true", help="what --machine can name")
    parser.add_argument("--explain", metavar="NAME", help="what a template adds, why, and through whom")
    parser.add_argument("--quiet", action="store_true", help="say something only when something changed")
    parser.set_defaults(verb=run)


def run(arguments: argparse.Namespace) -> int:
    """Configure, or answer."""
    if arguments.list_templates:
        return _list({name: templates.load(name).summary for name in templates.names()})
    if arguments.list_machines:
        return _list({name: machine.load(name).summary for name in machine.names()})
    if arguments.explain:
        print("\n".join(explain.explain(arguments.explain, arguments.machine)))
        return 0
    return _configure(arguments)


def _configure(arguments: argparse.Namespace) -> int:
    wanted = tuple(name.strip() for words in arguments.template for name in words.split(",") if name.strip())
    request = configure.Request(
        templates=wanted,
        machine=arguments.machine,
        kernel=arguments.kernel or configure.kernels()[0],
        builddir=arguments.builddir,
        extra_fragments=tuple(arguments.kernel_fragment),
        strict_lock=arguments.strict_lock,
    )
    done = configure.configure(request)
    if arguments.quiet and not done.changed:
        return 0
    chosen = done.configuration
    print(f"{'configured' if done.changed else 'unchanged'}: {done.folder.path}")
    print(f"  templates  {', '.join(chosen.templates)}")
    print(f"  packages   {', '.join(chosen.packages)}")
    print(f"  kernel     {chosen.kernel}: {', '.join(Path(name).stem for name in chosen.fragments)}")
    for banner in done.banners:
        print(f"  {banner}")
    ninja = Path(sys.executable).with_name("ninja")
    program = ninja if ninja.is_file() else shutil.which("ninja") or "ninja"
    print(f"next: {program} -C {done.folder.path}")
    return 0


def _list(rows: dict[str, str]) -> int:
    width = max(len(name) for name in rows)
    for name, summary in rows.items():
        print(f"{name:<{width}}  {summary}")
    return 0
