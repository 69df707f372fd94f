# SPDX-License-Identifier: GPL-2.0-only
"""`crit info`: the magic of an image, and how many entries it has."""

from __future__ import annotations

import argparse
import json
from typing import TextIO

from pycriu.crit import magics
from pycriu.errors import UserError
from pycriu.images import framing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The image."""
    parser.add_argument("in", metavar="IN", help="an image")


def run(args: argparse.Namespace, out: TextIO) -> int:
    """Print magic and number of entries; what belongs to an entry (pages of a pagemap excepted) is read over."""
    path = getattr(args, "in")
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    kind = magics.kind_of(data, path)
    count = sum(1 for _ in framing.entries(kind, data, path))
    json.dump({"magic": magics.name_of(kind), "count": count}, out, indent=4)
    out.write("\n")
    return 0
