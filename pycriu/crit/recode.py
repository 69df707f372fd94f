# SPDX-License-Identifier: GPL-2.0-only
"""`crit decode`, `crit encode`, `crit show`: an image <-> JSON.

A directory, an archive and a folder of either stand for all images in them: an object of name → image.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any, TextIO

from pycriu.crit import source
from pycriu.crit.output import replaced
from pycriu.errors import UserError
from pycriu.images import catalogue, decoded, store

_FORMATS = ("raw", "nice")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of all three, each where it belongs."""
    command = parser.prog.split()[-1]
    if command == "show":
        parser.add_argument("in", metavar="IN", help="an image, a checkpoint, or ARCHIVE/IMAGE")
        parser.add_argument("--nopl", action="store_true", help="leave out what follows entries; tell its size")
        parser.set_defaults(out=None, pretty=True, format="nice")
        return
    parser.add_argument("-i", "--in", help="what to read (default: standard input)")
    parser.add_argument("-o", "--out", help="what to write (default: standard output)")
    words = "raw: one line; nice: indented (default: raw for files, nice for standard output)"
    parser.add_argument("-f", "--format", choices=_FORMATS, help=words if command == "decode" else argparse.SUPPRESS)
    if command == "decode":
        parser.add_argument("--pretty", action="store_true", help="indented, some numbers as a person reads them")
        parser.add_argument("--nopl", action="store_true", help="leave out what follows entries; tell its size")


def run(args: argparse.Namespace, out: TextIO) -> int:
    """Do what the command says."""
    if args.command == "encode":
        _encode(getattr(args, "in"), args.out, out)
    else:
        _decode(args, out)
    return 0


# ------------------------------------------------------------------------------------------------------------- decode


def _decode(args: argparse.Namespace, out: TextIO) -> None:
    path = getattr(args, "in")
    if path is not None and source.is_checkpoint(path):
        with source.open_source(path) as images:
            found: Any = {name: _image(images.bytes(name), name, args) for name in images.names() if _has_entries(name)}
    else:
        data, label = _standard_input() if path is None else source.read_file(path)
        found = _image(data, label, args)
    nice = args.pretty or (args.format or ("raw" if args.out else "nice")) == "nice"
    if args.out is None:
        json.dump(found, out, indent=4 if nice else None)
        out.write("\n")
        return
    with replaced(args.out, chosen=True) as file:
        for text in json.JSONEncoder(indent=4 if nice else None).iterencode(found):
            file.write(text.encode("ascii"))


def _standard_input() -> tuple[bytes, str]:
    return source.bounded(sys.stdin.buffer, "standard input"), "standard input"


def _has_entries(name: str) -> bool:
    return store.kind_of(name).framing != catalogue.RAW


def _image(data: bytes, label: str, args: argparse.Namespace) -> dict[str, Any]:
    return decoded.load(data, label, pretty=args.pretty, payload=not args.nopl)


# ------------------------------------------------------------------------------------------------------------- encode


def _encode(path: str | None, out_path: str | None, out: TextIO) -> None:
    label = path or "standard input"
    try:
        if path is None:
            values = json.load(sys.stdin)
        else:
            with open(path, encoding="utf-8") as file:
                values = json.load(file)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{label}: not text", "encode reads JSON; an image is decoded") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{label}: not JSON: {error}") from None
    if isinstance(values, dict) and decoded.MAGIC not in values and values and all(map(catalogue.lookup, values)):
        _encode_all(values, out_path)
        return
    data = decoded.dump(values, label)
    if out_path is None:
        out.buffer.write(data)
        out.buffer.flush()
    else:
        with replaced(out_path, chosen=True) as file:
            file.write(data)


def _encode_all(values: dict[str, Any], folder: str | None) -> None:
    """Images by name into a directory; nothing is written unless all can be."""
    if folder is None:
        raise UserError("this JSON holds several images", "-o names the directory for them")
    images = {name: decoded.dump(image, name) for name, image in values.items()}
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}") from None
    for name, data in images.items():
        with replaced(os.path.join(folder, name)) as file:
            file.write(data)
