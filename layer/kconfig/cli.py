# SPDX-License-Identifier: GPL-2.0-only
"""`layer audit` and `kernel-config/audit`: words on a command line → one audit, printed.

The only module of `layer.kconfig` that prints. Exit status: 0 all that is required is met, 1 something is not, 2 bad
input, 3 could not evaluate.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from layer.errors import LayerError
from layer.kconfig import report, selfcheck
from layer.kconfig.request import Request, answer

DEFAULT_TEMPLATE = "feature/criu"

EPILOG = """\
INPUT is recognised by its content: a .config (plain or compressed), /proc/config.gz, a kernel (bzImage, Image, vmlinux)
built with CONFIG_IKCONFIG, a build folder of this layer, a kernel source tree (then it is audited what the fragments
would become in it), or - for standard input. Without INPUT: the running kernel's /proc/config.gz, else /boot/config-*.

Exit status: 0 met, 1 a required symbol is not met, 2 bad input, 3 could not evaluate.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    words = argparse.ArgumentParser(
        prog="audit",
        description="Say of each kernel symbol that a template asks for whether a configuration has it; if not, why.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    words.add_argument("input", nargs="?", metavar="INPUT", help="what to audit")
    asked = words.add_argument_group("what is asked for")
    asked.add_argument("--template", "--templates", action="append", default=[], metavar="NAME",
                       help=f"a template's fragments; repeat, or separate by commas ({DEFAULT_TEMPLATE})")  # fmt: skip
    asked.add_argument(
        "--fragment", action="append", default=[], type=Path, metavar="FILE", help="a fragment, after those"
    )
    asked.add_argument("--strict", action="store_true", help="optional symbols count as required")
    judged = words.add_argument_group("how it is judged")
    judged.add_argument("--kernel-tree", type=Path, metavar="DIR",
                        help="the kernel's source (else what a build kept of that release)")  # fmt: skip
    judged.add_argument("--plain", action="store_true", help="compare only, even where a tree is at hand")
    judged.add_argument("--arch", "--machine", metavar="NAME", help="the machine, where INPUT does not tell it")
    judged.add_argument("--cross", metavar="PREFIX", help="prefix of the compiler that the kernel is built with")
    judged.add_argument("--self-check", action="store_true",
                        help="compare with what make itself says of the fragments in --kernel-tree")  # fmt: skip
    told = words.add_argument_group("how it is told")
    told.add_argument("--format", choices=("text", "json"), default="text")
    told.add_argument("--all", action="store_true", help="name the symbols that are met, too")
    told.add_argument("--emit", type=Path, metavar="FILE", help="write the fix as a fragment")
    return words


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status; every refusal is told on standard error."""
    options = parser().parse_args(argv)
    try:
        return _run(options)
    except LayerError as error:
        sys.stderr.write(f"audit: {error}\n")
        return error.exit_code
    except OSError as error:
        sys.stderr.write(f"audit: {error.filename or 'input'}: {error.strerror}\n")
        return 2


def _run(options: argparse.Namespace) -> int:
    templates = [name for words in options.template for name in words.split(",") if name]
    if not templates and not options.fragment:
        templates = [DEFAULT_TEMPLATE]
    request = Request(
        source=options.input,
        templates=tuple(templates),
        fragments=tuple(options.fragment),
        arch=options.arch,
        tree=options.kernel_tree,
        cross=options.cross,
        plain=options.plain,
    )
    if options.self_check:
        return _self_check(request)
    result = answer(request)
    unmet = result.unmet(required=True) + (result.unmet(required=False) if options.strict else ())
    code = 3 if result.failure else 1 if unmet else 0
    if options.emit and result.fix is not None:
        options.emit.write_text(report.as_fragment(result, result.fix))
    if options.format == "json":
        sys.stdout.write(report.as_json(result, code))
    else:
        sys.stdout.write(report.as_text(result, code, colour=_colour(), everything=options.all))
    if options.emit and result.fix is None:
        sys.stderr.write("audit: no fix was written: it takes a Kconfig tree (--kernel-tree) to find one\n")
    return code


def _self_check(request: Request) -> int:
    result = selfcheck.compare(request)
    sys.stdout.write(f"{result}\n")
    return 1 if result.differing else 0


def _colour() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")
