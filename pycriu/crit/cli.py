# SPDX-License-Identifier: GPL-2.0-only
"""The `crit` command: words on a command line -> one command -> an exit status. Imports only the command asked for."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper

from pycriu import __version__
from pycriu.errors import PycriuError
from pycriu.log import fill_standard_descriptors

# command → the module in this package, and what it does in a few words
COMMANDS = {
    "decode": ("recode", "an image as JSON"),
    "encode": ("recode", "JSON as an image"),
    "show": ("recode", "an image as JSON for reading (decode --pretty)"),
    "info": ("info", "what an image is: its magic, and how many entries it has"),
    "x": ("explore", "explore a checkpoint: ps, tree, fds, mems, rss, sockets, timers, signals"),
    "check": ("check", "whether a checkpoint is whole and agrees with itself"),
    "core": ("core", "ELF core files of processes, for gdb"),
    "find": ("find", "text, a regular expression or bytes in memory"),
    "convert": ("convert", "a checkpoint as another version of CRIU has it"),
    "edit": ("edit", "an image in an editor, as JSON"),
    "diff": ("diff", "what differs between two checkpoints"),
    "stats": ("stats", "figures: processes, memory, files, sockets, timers, what could be smaller"),
}

_OLD_OPTIONS = ("-i", "--in", "-o", "--out", "-f", "--format")  # stood before the command in 2015


def main(words: Sequence[str] | None = None) -> int:
    """Run `crit`; the words default to those of this process. Returns the exit status: 0 done, 1 not done."""
    fill_standard_descriptors()
    if isinstance(sys.stdout, TextIOWrapper):  # names need not be what the terminal's encoding has
        sys.stdout.reconfigure(errors="backslashreplace")
    out = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - as the one that whoever has started us has closed
    words = _command_first(sys.argv[1:] if words is None else words)
    args = _parser(words[0] if words else "").parse_args(words)
    module = importlib.import_module(f"pycriu.crit.{COMMANDS[args.command][0]}")
    try:
        status: int = module.run(args, out)
        out.flush()
    except PycriuError as error:
        print(f"crit: {error}", file=sys.stderr)
    except OSError as error:
        # the interpreter would complain when it flushes at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
        if not isinstance(error, BrokenPipeError):  # whoever read us has seen enough
            print(f"crit: {error.filename or 'standard output'}: {error.strerror}", file=sys.stderr)
    except KeyboardInterrupt:
        print("crit: interrupted", file=sys.stderr)
    else:
        return status
    return int(getattr(module, "TROUBLE", 1))


def _command_first(words: Sequence[str]) -> list[str]:
    """`-i IN decode` as `decode -i IN`: the options of decode and encode may come before the command."""
    at = 0
    while at < len(words) and words[at].partition("=")[0] in _OLD_OPTIONS:
        at += 1 if "=" in words[at] else 2
    if at and at < len(words) and words[at] in COMMANDS:
        return [words[at], *words[:at], *words[at + 1 :]]
    return list(words)


def _parser(command: str) -> argparse.ArgumentParser:
    """The parser; of the commands only `command` has its arguments."""
    parser = argparse.ArgumentParser(prog="crit", description="The tool for images of CRIU and pycriu.")
    parser.add_argument("--version", action="version", version=f"Version: {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, text) in COMMANDS.items():
        mine = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        if name == command:
            importlib.import_module(f"pycriu.crit.{module}").add_arguments(mine)
    return parser
