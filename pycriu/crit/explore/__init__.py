# SPDX-License-Identifier: GPL-2.0-only
"""`crit x`: what a checkpoint holds, for people. ps, fds, mems and rss print what CRIU's crit prints."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import TextIO

from pycriu.crit.explore import memory, sockets, tasks, timers
from pycriu.crit.explore.view import View
from pycriu.crit.source import open_source
from pycriu.errors import printable

WHAT: dict[str, tuple[Callable[[View], Iterator[str]], str]] = {
    "ps": (tasks.ps, "processes"),
    "tree": (tasks.tree, "processes as a tree, with state, threads and program"),
    "fds": (tasks.fds, "descriptors"),
    "mems": (memory.mems, "mappings"),
    "rss": (memory.rss, "pages that are in the images, beside the mappings that they lie in"),
    "sockets": (sockets.sockets, "sockets: addresses, state, who has them, what waits in them"),
    "timers": (timers.timers, "timers: of processes, of POSIX, timerfds"),
    "signals": (timers.signals, "signals: actions, what is blocked, what is pending"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The checkpoint, and what to show of it."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "\n".join(f"  {what:<9} {text}" for what, (_, text) in WHAT.items())
    parser.add_argument("dir", metavar="DIR", help="a directory of images, or an archive with them")
    parser.add_argument("what", choices=list(WHAT), metavar="WHAT", help=f"one of {', '.join(WHAT)}")


def run(args: argparse.Namespace, out: TextIO) -> int:
    """Print it."""
    with open_source(args.dir) as images:
        for line in WHAT[args.what][0](View(images)):
            out.write("\t".join(map(printable, line.split("\t"))) + "\n")
    return 0
