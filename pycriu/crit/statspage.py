# SPDX-License-Identifier: GPL-2.0-only
"""The figures of a checkpoint as one page of HTML that needs nothing else: no script, no font, no network.

Whatever comes out of an image is escaped; the page forbids itself, by its policy, everything but its own styles.
"""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING, Any

from pycriu.crit.statstext import size, tree
from pycriu.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_WIDTH = 960
_ROW = 26
_MOST_PROCESSES, _MOST_MAPS, _MOST_MAPPINGS, _MOST_IMAGES = 1000, 60, 300, 30

COLOURS = {
    "anonymous": "#4e79a7", "heap": "#59a14f", "stack": "#f28e2b", "shared": "#b07aa1", "memfd": "#d37295",
    "System V": "#9c755f", "file": "#bab0ac", "file, shared": "#8cd17d", "kernel": "#499894",
}  # fmt: skip

_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 980px; padding: 0 10px;
       color: #1c1e21; background: #fff }
h1 { font-size: 1.5em; overflow-wrap: anywhere } h2 { font-size: 1.15em; margin-top: 2em }
svg { display: block; width: 100%; height: auto } svg text { font: 12px system-ui, sans-serif; fill: currentColor }
table { border-collapse: collapse; margin: .5em 0 } th, td { padding: .15em .9em .15em 0; text-align: left }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
.tables { display: flex; flex-wrap: wrap; gap: 0 3em } .note { color: #666 }
.key span { display: inline-block; margin-right: 1.2em } .key i { display: inline-block; width: .9em; height: .9em;
       margin-right: .35em; vertical-align: -.1em }
@media (prefers-color-scheme: dark) { body { color: #e4e6eb; background: #18191a } .note { color: #aaa } }
"""


def page(report: dict[str, Any]) -> str:
    """The whole page."""
    title = f"Checkpoint {_text(report['images'])}"
    totals = report["totals"]
    summary = (
        f"{totals['processes']} processes, {totals['threads']} threads, {totals['files']} files, "
        f"{size(totals['bytes'])} of images"
    )
    body = "".join(
        [
            f"<h1>{title}</h1><p>{summary}</p>",
            "<h2>Processes</h2>", _tree(report["processes"]),
            "<h2>Memory</h2>", _key(report["memory"]), _maps(report["processes"]),
            "<h2>Where the bytes are</h2>", _bars(report["sizes"]),
            "<h2>Figures</h2>", _tables(report),
        ]
    )  # fmt: skip
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body>{body}</body></html>\n"
    )


def _text(value: object) -> str:
    """A value for the page: nothing in it is markup."""
    return html.escape(printable(str(value)))


def _svg(height: int, label: str, parts: Iterable[str]) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{_text(label)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def _tree(processes: list[dict[str, Any]]) -> str:
    """The tree of processes: a line for each, with a bar as long as what is stored of it."""
    rows = list(tree(processes))
    shown = rows[:_MOST_PROCESSES]
    largest = max((one["stored"] for _, one in shown), default=0) or 1
    at: dict[int, int] = {}
    parts = []
    for number, (depth, one) in enumerate(shown):
        x, y = 12 + 22 * min(depth, 20), _ROW * number
        at[one["pid"]] = y
        if depth and one["parent"] in at:
            parts.append(f'<path d="M{x - 16} {at[one["parent"]] + 22}V{y + 13}H{x - 4}" fill="none" stroke="#999"/>')
        width = round(300 * one["stored"] / largest, 1)
        parts.append(f'<rect x="{_WIDTH - 320}" y="{y + 6}" width="{width}" height="14" fill="#4e79a7"/>')
        state = "" if one["state"] == "alive" else f", {one['state']}"
        threads = f", {one['threads']} threads" if one["threads"] > 1 else ""
        words = f"{one['pid']} {one['name']} ({size(one['stored'])}{threads}{state})"
        parts.append(f'<circle cx="{x}" cy="{y + 13}" r="3.5" fill="#888"/>')
        parts.append(f'<text x="{x + 10}" y="{y + 17}">{_text(words)}</text>')
    left_out = _note(len(rows) - len(shown), "processes")
    return _svg(_ROW * len(shown) + 4, "the process tree", parts) + left_out


def _key(memory: dict[str, Any]) -> str:
    spans = "".join(f'<span><i style="background:{COLOURS[kind]}"></i>{_text(kind)}</span>' for kind in memory)
    return (
        f'<p class="key">{spans}</p><p class="note">Widths grow with the logarithm of the size; '
        "what is filled is in the images.</p>"
    )


def _maps(processes: list[dict[str, Any]]) -> str:
    """The address space of each process, from low to high."""
    live = [one for one in processes if one["mappings"]]
    shown = live[:_MOST_MAPS]
    parts = []
    for one in shown:
        mappings = _largest(one["mappings"])
        head = f"{one['pid']} {one['name']}: {size(one['stored'])} stored of {size(one['mapped'])}"
        parts.append(
            f"<p>{_text(head)}{_note(len(one['mappings']) - len(mappings), 'small mappings', inline=True)}</p>"
        )
        parts.append(_svg(34, f"memory of {one['pid']}", _map(mappings)))
    return "".join(parts) + _note(len(live) - len(shown), "processes")


def _largest(mappings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if len(mappings) <= _MOST_MAPPINGS:
        return mappings
    least = sorted((one["size"] for one in mappings), reverse=True)[_MOST_MAPPINGS - 1]
    return [one for one in mappings if one["size"] >= least][:_MOST_MAPPINGS]


def _map(mappings: list[dict[str, Any]]) -> Iterator[str]:
    weights = [math.log2(max(one["size"], 2)) - 8 for one in mappings]
    scale = _WIDTH / sum(max(weight, 1) for weight in weights)
    x = 0.0
    for one, weight in zip(mappings, weights, strict=True):
        width = max(weight, 1) * scale
        colour = COLOURS[one["kind"]]
        fill = 30 * one["stored"] / one["size"]
        words = f"{one['start']:#x} {size(one['size'])}, {size(one['stored'])} stored, {one['kind']} {one['name']}"
        yield (
            f'<g><title>{_text(words)}</title><rect x="{x:.2f}" y="2" width="{width:.2f}" height="30" fill="{colour}" '
            f'fill-opacity=".25" stroke="{colour}" stroke-width=".6"/>'
            f'<rect x="{x:.2f}" y="{32 - fill:.2f}" width="{width:.2f}" height="{fill:.2f}" fill="{colour}"/></g>'
        )
        x += width


def _bars(sizes: dict[str, int]) -> str:
    """The images, the largest first."""
    shown = list(sizes.items())[:_MOST_IMAGES]
    largest = max((number for _, number in shown), default=0) or 1
    parts = []
    for number, (name, length) in enumerate(shown):
        y = 20 * number
        width = round(520 * length / largest, 1)
        parts.append(f'<text x="0" y="{y + 14}">{_text(name)}</text>')
        parts.append(f'<rect x="260" y="{y + 3}" width="{width}" height="14" fill="#f28e2b"/>')
        parts.append(f'<text x="{270 + width}" y="{y + 14}">{size(length)}</text>')
    return _svg(20 * len(shown) + 4, "images by size", parts) + _note(len(sizes) - len(shown), "images")


def _note(count: int, what: str, *, inline: bool = False) -> str:
    if count <= 0:
        return ""
    words = f"{count} {what} are not shown"
    return f' <span class="note">({words})</span>' if inline else f'<p class="note">{words}.</p>'


def _tables(report: dict[str, Any]) -> str:
    pages = report["pages"]
    rows = [(name, str(pages[name])) for name in ("pages", "zero", "duplicates", "repeats the parent") if name in pages]
    tables = [
        _table("Memory", ((kind, size(one["mapped"]), size(one["stored"])) for kind, one in report["memory"].items())),
        _table("Files", report["files"].items()),
        _table("Sockets", report["sockets"].items()),
        _table("Timers", ((kind, one["timers"], f"{one['armed']} armed") for kind, one in report["timers"].items())),
        _table("Pages" if pages["exact"] else "Pages (about)", rows),
    ]
    return f'<div class="tables">{"".join(tables)}</div>'


def _table(head: str, rows: Iterable[tuple[object, ...]]) -> str:
    lines = "".join(
        f"<tr><td>{_text(first)}</td>{''.join(f'<td class=n>{_text(cell)}</td>' for cell in rest)}</tr>"
        for first, *rest in rows
    )
    return f"<table><tr><th>{_text(head)}</th></tr>{lines}</table>" if lines else ""
