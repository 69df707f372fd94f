# SPDX-License-Identifier: GPL-2.0-only
"""`crit check`: whether a checkpoint is whole and agrees with itself. What is wrong is told with file, entry and field.

    model         every image, read once; what cannot be read is a finding and taken for empty
    processes     pstree against core, ids, fs, mm, descriptor tables; values of tasks and threads
    mappings      mappings, page maps, pages, parents
    openfiles     descriptors against files, files against what they refer to
    kinds         what single kinds of file say
    namespaces    namespaces, mounts, IPC, control groups, filters
    additions     pycriu's own images

Each rule is one that a restore depends on, or that no dump breaks: images that a dump has made, be it CRIU's or ours,
have no findings.
"""

from __future__ import annotations

import argparse
import json
from typing import TextIO

from pycriu.crit.check import additions, kinds, mappings, namespaces, openfiles, processes
from pycriu.crit.check.model import Finding, Model
from pycriu.crit.source import Source, open_source


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The checkpoint."""
    parser.add_argument("dir", metavar="DIR", help="a directory of images, or an archive with them")
    parser.add_argument("--json", action="store_true", help="print the findings as a list of objects")


def run(args: argparse.Namespace, out: TextIO) -> int:
    """Print what is wrong; 1 if anything is."""
    with open_source(args.dir) as images:
        found = findings(images)
    if args.json:
        json.dump([finding.as_dict() for finding in found], out, indent=4)
        out.write("\n")
    else:
        for finding in found:
            out.write(f"{finding}\n")
        out.write(f"{args.dir}: {_count(len(found))}\n")
    return 1 if found else 0


def _count(number: int) -> str:
    return {0: "no fault found", 1: "1 fault"}.get(number, f"{number} faults")


def findings(images: Source) -> list[Finding]:
    """Everything that is wrong, in the order of the rules."""
    model = Model(images)
    if not model.is_memory_only:
        processes.check(model)
    mappings.check(model)
    additions.check_tracks(model)
    if not model.is_memory_only:
        for part in (openfiles, kinds, namespaces, additions):
            part.check(model)
    return model.findings
