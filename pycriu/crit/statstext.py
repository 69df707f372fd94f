# SPDX-License-Identifier: GPL-2.0-only
"""The figures of a checkpoint as tables of plain text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pycriu.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_LARGEST = 12  # images that are named one by one


def text(report: dict[str, Any]) -> str:
    """Everything, for a terminal."""
    totals, pages = report["totals"], report["pages"]
    parts = [
        _counted(totals),
        table(
            ("PID", "PARENT", "STATE", "THREADS", "MAPPED", "STORED", "NAME"),
            ([one[key] for key in ("pid", "parent", "state", "threads")]
             + [size(one["mapped"]), size(one["stored"]), "  " * depth + printable(one["name"])]
             for depth, one in tree(report["processes"])),
            left=(2, 6),
        ),
        table(
            ("MEMORY", "MAPPINGS", "MAPPED", "STORED"),
            (
                (kind, one["mappings"], size(one["mapped"]), size(one["stored"]))
                for kind, one in report["memory"].items()
            ),
        ),
        table(("FILES", ""), report["files"].items()),
        table(("SOCKETS", ""), report["sockets"].items()),
        table(("TIMERS", "", "ARMED"), ((kind, one["timers"], one["armed"]) for kind, one in report["timers"].items())),
        table(("PAGES", "", "BYTES"), ((name, count, size(count * pages["size"])) for name, count in _counts(pages))),
        table(("IMAGE", "BYTES"), ((name, size(number)) for name, number in _largest(report["sizes"]))),
    ]  # fmt: skip
    return "\n".join(part for part in parts if part)


def _counted(totals: dict[str, int]) -> str:
    words = [f"{totals[name]} {name}" for name in ("processes", "threads", "zombies", "files")]
    return f"{', '.join(words)}; {size(totals['bytes'])} of images\n"


def _counts(pages: dict[str, Any]) -> Iterable[tuple[str, int]]:
    about = "" if pages["exact"] else " (about)"
    yield "stored", pages["pages"]
    yield "zeros: need not be", pages["zero"]
    yield f"copies of others{about}", pages["duplicates"]
    if "repeats the parent" in pages:
        yield "the same in the parent", pages["repeats the parent"]


def _largest(sizes: dict[str, int]) -> list[tuple[str, int]]:
    shown = list(sizes.items())[:_LARGEST]
    rest = len(sizes) - len(shown)
    return [*shown, (f"{rest} more", sum(sizes.values()) - sum(number for _, number in shown))] if rest else shown


def tree(processes: Sequence[dict[str, Any]]) -> Iterable[tuple[int, dict[str, Any]]]:
    """Parents before children, each with its depth; who has no parent here, or is its own ancestor, at the left."""
    children: dict[int, list[dict[str, Any]]] = {}
    pids = {one["pid"] for one in processes}
    for one in processes:
        known = one["parent"] in pids and one["parent"] != one["pid"]
        children.setdefault(one["parent"] if known else 0, []).append(one)
    seen: set[int] = set()
    for start in (children.get(0, []), processes):
        waiting = [(0, one) for one in reversed(start) if one["pid"] not in seen]
        while waiting:
            depth, one = waiting.pop()
            if one["pid"] in seen:
                continue
            seen.add(one["pid"])
            yield depth, one
            waiting += [(depth + 1, child) for child in reversed(children.get(one["pid"], []))]


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], left: Sequence[int] = (0,)) -> str:
    """Columns under their heads, numbers to the right; nothing where there are no rows."""
    cells = [[str(cell) for cell in row] for row in rows]
    if not cells:
        return ""
    widths = [max(len(row[column]) for row in [list(heads), *cells]) for column in range(len(heads))]
    lines = []
    for row in [list(heads), *cells]:
        aligned = [
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(aligned).rstrip() + "\n")
    return "".join(lines)


def size(number: int) -> str:
    """A number of bytes for people."""
    value = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
