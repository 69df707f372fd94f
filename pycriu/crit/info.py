# SPDX-License-Identifier: GPL-2.0-only
"""`crit info`: the magic of an image, and how many entries it has; of a checkpoint all images and their sizes."""

from __future__ import annotations

import argparse
import json
from typing import Any, TextIO

from pycriu.crit import source
from pycriu.images import catalogue, decoded, store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The image."""
    parser.add_argument("in", metavar="IN", help="an image, a checkpoint, or ARCHIVE/IMAGE")


def run(args: argparse.Namespace, out: TextIO) -> int:
    """Print magic and number of entries."""
    path = getattr(args, "in")
    found: dict[str, Any]
    if source.is_checkpoint(path):
        with source.open_source(path) as images:
            found = {name: _told(images, name) for name in images.names()}
    else:
        found = decoded.info(*source.read_file(path))
    json.dump(found, out, indent=4)
    out.write("\n")
    return 0


def _told(images: source.Source, name: str) -> dict[str, Any]:
    size = {"bytes": images.size(name)}
    return size if store.kind_of(name).framing == catalogue.RAW else decoded.info(images.bytes(name), name) | size
