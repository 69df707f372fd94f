# SPDX-License-Identifier: GPL-2.0-only
"""`image`, `reproduce`, `audit`, `boot`, `runtime`, `demo`: what is done with a whole build folder."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from layer import build, kernelaudit, plan
from layer.cli import options
from layer.configuration import BuildFolder
from layer.errors import InputError
from layer.recipes import TOP

if TYPE_CHECKING:
    from layer.cli.options import Verbs


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs of whole images."""
    table = (
        ("image", run_image, "assemble the image from what the recipes made"),
        ("boot", run_boot, "boot the image with a console"),
        ("runtime", run_runtime, "run the runtime tests on the image"),
        ("demo", run_demo, "show the loop being dumped and restored on the image"),
    )
    for name, verb, told in table:
        parser = verbs.add_parser(name, description=told, help=told)
        options.folder(parser)
        parser.set_defaults(verb=verb)
    told = "build everything again in another folder, and compare the images byte for byte"
    parser = verbs.add_parser("reproduce", description=told, help=told)
    options.folder(parser)
    parser.add_argument("--kernel", action="store_true", help="the kernel too")
    parser.set_defaults(verb=run_reproduce)
    verbs.add_parser(
        "audit", help="judge a kernel configuration against fragments or templates (audit --help)", add_help=False
    )


def run_image(arguments: argparse.Namespace) -> int:
    """Root file system, data disk, kernel, lists."""
    from layer.image.assemble import assemble

    chosen = plan.load(arguments.builddir)
    build.ensure(chosen, (*chosen.packages(), chosen.recipes[chosen.configuration.kernel]))
    for line in assemble(chosen):
        print(line)
    return 0


def run_reproduce(arguments: argparse.Namespace) -> int:
    """The same sources give the same bytes."""
    from layer.image.reproduce import reproduce

    for line in reproduce(plan.load(arguments.builddir), kernel=arguments.kernel):
        print(line)
    return 0


def audit(words: Sequence[str]) -> int:
    """The kernel audit has a command line of its own; in a build folder it judges that folder's choice."""
    from layer.kconfig import cli

    if list(words[:1]) != ["--builddir"]:
        return cli.main(words)
    chosen = plan.load(Path(words[1]))
    return cli.main([*kernelaudit.arguments(chosen), *words[2:]])


def run_boot(arguments: argparse.Namespace) -> int:
    """An interactive console."""
    from layer.target.boot import main

    return main(_boot_json(arguments))


def run_demo(arguments: argparse.Namespace) -> int:
    """The loop stops and resumes, before the user's eyes."""
    from layer.target.demo import main

    return main(_boot_json(arguments))


def run_runtime(arguments: argparse.Namespace) -> int:
    """pytest, on this folder's image."""
    chosen = plan.load(arguments.builddir)
    tests = TOP / "tests/runtime"
    words = ["--qemu", "--require-qemu", "--machine", chosen.machine.name, "--build", str(chosen.folder.path)]
    return subprocess.run([sys.executable, "-m", "pytest", str(tests), *words], cwd=TOP, check=False).returncode


def _boot_json(arguments: argparse.Namespace) -> Path:
    file = BuildFolder(arguments.builddir.absolute()).images / "boot.json"
    if not file.is_file():
        raise InputError("there is no image here yet", hint="`ninja image` makes it", file=file)
    return file
