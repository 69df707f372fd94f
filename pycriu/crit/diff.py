# SPDX-License-Identifier: GPL-2.0-only
"""`crit diff`: what of a checkpoint is new, gone or changed in another, field by field, and which pages.

Memory is compared page by page at the same addresses, wherever the images have the pages. Exit status as diff(1): 0 for
the same, 1 for others, 2 for trouble.
"""

from __future__ import annotations

import fnmatch
import json
from typing import TYPE_CHECKING, Any, TextIO

from pycriu.crit import differences
from pycriu.crit.content import PIECE, clipped, has_content
from pycriu.crit.differences import ADDED, CHANGED, REMOVED, Change
from pycriu.crit.find import protection
from pycriu.crit.pages import both, compared
from pycriu.crit.space import Memory, Process, opened, processes
from pycriu.errors import printable
from pycriu.images import catalogue, store

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

TROUBLE = 2  # the exit status when something is wrong

_MARKS = {ADDED: "+", REMOVED: "-", CHANGED: "~"}
_LONGEST = 200  # characters of a value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `crit diff`."""
    parser.add_argument("before", metavar="A", help="a directory of images, or an archive of them")
    parser.add_argument("after", metavar="B", help="another")
    parser.add_argument(
        "-I", "--ignore", action="append", default=[], metavar="GLOB",
        help="leave out fields, as IMAGE:PATH, such as 'inventory.img:dump_uptime'",
    )  # fmt: skip
    parser.add_argument("--no-pages", action="store_true", help="do not compare memory")
    parser.add_argument("-q", "--brief", action="store_true", help="only the exit status")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace, out: TextIO) -> int:
    """Compare."""
    with opened(args.before) as before, opened(args.after) as after:
        report = compare(before, after, args.ignore, with_pages=not args.no_pages)
    if args.json:
        out.write(json.dumps(report, indent=2) + "\n")
    elif not args.brief:
        out.writelines(_text(report))
    return 1 if any(report.values()) else 0


def compare(before: Sequence[Any], after: Sequence[Any], ignore: Sequence[str], *, with_pages: bool) -> dict[str, Any]:
    """All differences of two checkpoints, each given with those that it builds upon."""
    old, new = before[0], after[0]
    names = sorted({*old.names(), *new.names()})
    changes = {}
    only: dict[str, str] = {}
    for name in filter(_is_compared, names):
        if not (old.exists(name) and new.exists(name)):
            if not _ignored(name, "", ignore):
                only[name] = REMOVED if old.exists(name) else ADDED
            continue
        found = [one for one in _image(old, new, name) if not _ignored(name, one.path, ignore)]
        if found:
            changes[name] = [one._asdict() for one in found]
    return {"images": only, "entries": changes, "memory": _memory(before, after) if with_pages else []}


def _is_compared(name: str) -> bool:
    """Whether an image is compared by its entries: pages are by their addresses, and statistics are of the run."""
    return not name.startswith(("pages-", "pagemap-")) and store.kind_of(name).framing != catalogue.SERVICE


def _ignored(name: str, path: str, ignore: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(f"{name}:{path}", one) or fnmatch.fnmatchcase(name, one) for one in ignore)


def _image(old: Any, new: Any, name: str) -> Iterator[Change]:
    if store.kind_of(name).framing != catalogue.RAW:
        yield from differences.entries(old.read_with_payloads(name), new.read_with_payloads(name))
        return
    with old.raw(name) as one, new.raw(name) as other:
        while True:
            piece, another = one.read(PIECE), other.read(PIECE)
            if piece != another:
                yield Change("", CHANGED, f"{old.size(name)} bytes", f"{new.size(name)} bytes")
                return
            if not piece:
                return


def _memory(before: Sequence[Any], after: Sequence[Any]) -> list[dict[str, Any]]:
    """The mappings of which pages differ."""
    old, new = ({one.pid: one for one in processes(side[0])} for side in (before, after))
    found: list[dict[str, Any]] = []
    with Memory(before) as memory_before, Memory(after) as memory_after:
        for pid in [pid for pid in new if pid in old]:
            found += _process(old[pid], new[pid], memory_before, memory_after)
    return found


def _process(old: Process, new: Process, memory_before: Memory, memory_after: Memory) -> Iterator[dict[str, Any]]:
    page = new.page_size
    pages_before, pages_after = memory_before.own_pages(old), memory_after.own_pages(new)
    every = (one for vma in old.vmas for one in memory_before.stretches(old, vma, pages_before))
    all_before = list(filter(has_content, every))
    for vma in new.vmas:
        here = list(filter(has_content, memory_after.stretches(new, vma, pages_after)))
        there = list(clipped(all_before, vma.start, vma.end))
        common = list(both(here, there))
        in_both = sum(one.end - one.start for one, _ in common) // page
        changed = sum(1 for pair in common for same in compared(pair, page) if not same)
        added = sum(one.end - one.start for one in here) // page - in_both
        removed = sum(one.end - one.start for one in there) // page - in_both
        if changed or added or removed:
            yield {
                "pid": new.pid,
                "name": new.name,
                "start": vma.start,
                "end": vma.end,
                "protection": protection(vma),
                "mapping": memory_after.name(vma),
                "pages": (vma.end - vma.start) // page,
                "changed": changed,
                "added": added,
                "removed": removed,
            }


def _text(report: dict[str, Any]) -> Iterator[str]:
    for name, kind in report["images"].items():
        yield f"{_MARKS[kind]} {printable(name)}\n"
    for name, changes in report["entries"].items():
        yield f"{printable(name)}\n"
        for one in changes:
            yield f"  {_MARKS[one['kind']]} {_change(one)}\n"
    pid = None
    for one in report["memory"]:
        if one["pid"] != pid:
            pid = one["pid"]
            yield f"memory of {pid} ({printable(one['name'])})\n"
        yield (
            f"  {one['start']:x}-{one['end']:x} {one['protection']} {printable(one['mapping'])}: "
            f"of {one['pages']} pages {one['changed']} changed, {one['added']} new, {one['removed']} gone\n"
        )


def _change(one: dict[str, Any]) -> str:
    values = " → ".join(_value(one[side]) for side in ("before", "after") if one[side] is not None)
    return f"{printable(one['path'])}: {values}" if one["path"] else values


def _value(value: Any) -> str:
    text = printable(value if isinstance(value, str) else json.dumps(value))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(text)} characters)"
