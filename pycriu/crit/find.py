# SPDX-License-Identifier: GPL-2.0-only
"""`crit find`: text, a regular expression or bytes in the memory of a checkpoint.

Searched is what the images hold: private pages, shared memory once for every mapping of it, and with `--files` what is
mapped of files, too. Pages that follow each other are searched as one, whatever mappings they are of.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from pycriu.crit import search
from pycriu.crit.content import runs
from pycriu.crit.core import chosen
from pycriu.crit.space import Memory, Process, opened, processes
from pycriu.errors import UserError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from pycriu.crit.search import Match, Pattern

TROUBLE = 2  # the exit status when something is wrong

_MAX_LONGEST = 1 << 20
_MAX_CONTEXT = 1 << 12
_PROTECTION = "rwx"


class Hit(NamedTuple):
    """A match, and the mapping in which it begins."""

    process: Process
    vma: Any
    name: str
    match: Match


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `crit find`."""
    parser.add_argument("images", metavar="DIR", help="a directory of images, or an archive of them")
    parser.add_argument("pattern", metavar="PATTERN", help="what to look for: a text")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("-e", "--regex", action="store_true", help="it is a regular expression (of bytes, as Python's)")
    how.add_argument("-x", "--hex", action="store_true", help="it is bytes in hexadecimal")
    how.add_argument("--utf16", action="store_true", help="a text in UTF-16 of little endian")
    parser.add_argument("-i", "--ignore-case", action="store_true", help="of ASCII letters")
    parser.add_argument("-p", "--pid", type=int, metavar="PID", help="only in this process")
    parser.add_argument("-m", "--max-count", type=int, metavar="N", help="stop after N matches")
    parser.add_argument("-C", "--context", type=int, default=16, metavar="N", help="bytes around a match (default: 16)")
    parser.add_argument("-c", "--count", action="store_true", help="only how many there are in each process")
    parser.add_argument("--longest", type=int, default=search.LONGEST, metavar="N", help="of a regex match, in bytes")
    parser.add_argument("--files", action="store_true", help="also in what is mapped of files and not in the images")
    parser.add_argument("--root", metavar="DIR", default="/", help="where these files lie (default: /)")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each match")


def run(args: argparse.Namespace, out: TextIO) -> int:
    """Search; 0 where there is a match, 1 where there is none, as grep(1)."""
    pattern = wanted(args)
    with opened(args.images) as layers:
        found = chosen(processes(layers[0]), args.pid)
        with Memory(layers, from_disk=args.files, root=args.root) as memory:
            total = _count(found, memory, pattern, out) if args.count else _list(found, memory, pattern, args, out)
    return 0 if total else 1


def wanted(args: argparse.Namespace) -> Pattern:
    """The pattern of the command line; UserError where it is none."""
    if not 1 <= args.longest <= _MAX_LONGEST:
        raise UserError(f"--longest {args.longest}: from 1 to {_MAX_LONGEST} bytes")
    if not 0 <= args.context <= _MAX_CONTEXT:
        raise UserError(f"--context {args.context}: from 0 to {_MAX_CONTEXT} bytes")
    if args.max_count is not None and args.max_count < 1:
        raise UserError(f"--max-count {args.max_count}: not a positive number")
    if args.hex:
        return search.hexadecimal(args.pattern)
    if args.regex:
        return search.expression(args.pattern, longest=args.longest, ignore_case=args.ignore_case)
    encoding = "utf-16-le" if args.utf16 else "utf-8"
    return search.text(args.pattern, ignore_case=args.ignore_case, encoding=encoding)


def _count(found: list[Process], memory: Memory, pattern: Pattern, out: TextIO) -> int:
    total = 0
    for process in found:
        count = sum(1 for _ in hits(process, memory, pattern, 0))
        out.write(f"{process.pid}: {count}\n")
        total += count
    return total


def _list(found: list[Process], memory: Memory, pattern: Pattern, args: argparse.Namespace, out: TextIO) -> int:
    total = 0
    for process in found:
        for hit in hits(process, memory, pattern, args.context):
            out.write(as_json(hit) if args.json else as_text(hit))
            total += 1
            if total == args.max_count:
                return total
    return total


def hits(process: Process, memory: Memory, pattern: Pattern, context: int) -> Iterator[Hit]:
    """Every match in the memory of a process, by address."""
    own = memory.own_pages(process)
    every = (one for vma in process.vmas for one in memory.stretches(process, vma, own))
    vmas = iter(process.vmas)
    vma = next(vmas, None)
    for start, pieces in runs(every):
        for match in pattern.matches(start, pieces, context):
            while vma is not None and vma.end <= match.at:
                vma = next(vmas, None)
            yield Hit(process, vma, memory.name(vma), match)


def as_text(hit: Hit) -> str:
    """One line."""
    vma, match = hit.vma, hit.match
    shown = f"{_shown(match.before)}[{_shown(match.text)}]{_shown(match.behind)}"
    where = f"{vma.start:x}-{vma.end:x} {protection(vma)}"
    name = f" {_shown(hit.name.encode(errors='surrogateescape'))}" if hit.name else ""
    return f"{hit.process.pid} {match.at:#x} ({where}{name} +{match.at - vma.start:#x}): {shown}\n"


def as_json(hit: Hit) -> str:
    """One line of JSON."""
    vma, match = hit.vma, hit.match
    said = {
        "pid": hit.process.pid,
        "address": match.at,
        "match": match.text.hex(),
        "text": match.text.decode(errors="replace"),
        "mapping": {"start": vma.start, "end": vma.end, "protection": protection(vma), "name": hit.name},
        "offset": match.at - vma.start,
    }
    return json.dumps(said) + "\n"


def protection(vma: Any) -> str:
    """As /proc/PID/maps writes it."""
    bits = "".join(letter if vma.prot >> bit & 1 else "-" for bit, letter in enumerate(_PROTECTION))
    return bits + ("s" if vma.flags & 1 else "p")


def _shown(data: bytes) -> str:
    """Bytes for a terminal: nothing in them can be a control character of it."""
    return "".join(chr(byte) if 32 <= byte < 127 and byte != 92 else f"\\x{byte:02x}" for byte in data)
