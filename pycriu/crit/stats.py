# SPDX-License-Identifier: GPL-2.0-only
"""`crit stats`: what a checkpoint is made of, in figures, and how much smaller it could be.

Every page is looked at: pages of zeros need not have been stored, and of equal pages one would do. Sizes are in bytes.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any, TextIO

from pycriu.crit.content import Pagemaps, Stretch, has_content
from pycriu.crit.output import replaced
from pycriu.crit.pages import Census
from pycriu.crit.space import Memory, Process, kind_name, object_kind, opened, processes
from pycriu.images import catalogue, store
from pycriu.images.catalogue import AIORING, FILE_SHARED, HEAP, MAP_GROWSDOWN, STACK, VDSO, VSYSCALL, VVAR

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence

Report = dict[str, Any]

_STATES = {1: "alive", 2: "dead", 3: "stopped"}
_FAMILIES = {2: "IPv4", 10: "IPv6"}
_TYPES = {1: "stream", 2: "datagram", 3: "raw", 5: "packet sequence"}
_TCP = (
    "", "established", "SYN sent", "SYN received", "FIN wait 1", "FIN wait 2", "time wait", "closed", "close wait",
    "last ACK", "listening", "closing",
)  # fmt: skip
_PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6", 136: "UDP-Lite"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `crit stats`."""
    parser.add_argument("images", metavar="DIR", help="a directory of images, or an archive of them")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("--html", metavar="FILE", help="a page with the tree, the memory and where the bytes are")


def run(args: argparse.Namespace, out: TextIO) -> int:
    """Tell them; a page goes to its file."""
    with opened(args.images) as layers:
        report = gather(layers)
    if args.html is not None:
        from pycriu.crit.statspage import page

        with replaced(args.html, chosen=True) as file:
            file.write(page(report).encode(errors="replace"))
    if args.json:
        out.write(json.dumps(report, indent=2) + "\n")
    elif args.html is None:
        from pycriu.crit.statstext import text

        out.write(text(report))
    return 0


def gather(layers: Sequence[Any]) -> Report:
    """All figures of a checkpoint; `layers` are its images, and those that they build upon."""
    images = layers[0]
    tree = list(images.read("pstree.img"))
    live = {one.pid: one for one in processes(images)}
    with Memory(layers) as memory:
        mappings = {pid: _mappings(process, memory) for pid, process in live.items()}
    files = list(images.read("files.img")) if images.exists("files.img") else []
    names = [name for name in images.names() if store.kind_of(name).framing != catalogue.SERVICE]
    sizes = {name: images.size(name) for name in names}
    return {
        "images": images.path,
        "parents": len(layers) - 1,
        "totals": {
            "processes": len(tree),
            "zombies": len(tree) - len(live),
            "threads": sum(len(entry.threads) for entry in tree if entry.pid in live),
            "bytes": sum(sizes.values()),
            "files": len(files),
        },
        "processes": [_process(images, entry, live.get(entry.pid), mappings.get(entry.pid, [])) for entry in tree],
        "memory": _by_kind(one for of_process in mappings.values() for one in of_process),
        "files": dict(Counter(kind_name(entry.type) for entry in files).most_common()),
        "sockets": dict(Counter(filter(None, map(_socket, files))).most_common()),
        "timers": _timers(live.values(), files),
        "pages": _pages(layers, live.values()),
        "sizes": dict(sorted(sizes.items(), key=lambda pair: -pair[1])),
    }


def _process(images: Any, entry: Any, process: Process | None, mappings: list[Report]) -> Report:
    core = process.core if process else images.read_one(f"core-{entry.pid}.img")
    return {
        "pid": entry.pid,
        "parent": entry.ppid,
        "name": core.tc.comm,
        "state": _STATES.get(core.tc.task_state, str(core.tc.task_state)),
        "threads": len(entry.threads),
        "mapped": sum(one["size"] for one in mappings),
        "stored": sum(one["stored"] for one in mappings),
        "mappings": mappings,
    }


def _mappings(process: Process, memory: Memory) -> list[Report]:
    own = memory.own_pages(process)
    return [
        {
            "start": vma.start,
            "size": vma.end - vma.start,
            "kind": _kind(vma),
            "name": memory.name(vma),
            "stored": _stored(memory.stretches(process, vma, own)),
        }
        for vma in process.vmas
    ]


def _stored(stretches: Iterable[Stretch]) -> int:
    """How much of a mapping the images hold, those that they build upon included."""
    return sum(one.end - one.start for one in stretches if has_content(one))


def _kind(vma: Any) -> str:
    """What sort of memory a mapping is."""
    if vma.status & (VSYSCALL | VDSO | VVAR | AIORING):
        return "kernel"
    kinds = {"memfd": "memfd", "sysv": "System V", "shared": "shared", "file": "file"}
    kind = kinds.get(object_kind(vma), "")
    if kind == "file" and vma.status & FILE_SHARED:
        return "file, shared"
    return kind or (
        "heap" if vma.status & HEAP else "stack" if vma.status & STACK or vma.flags & MAP_GROWSDOWN else "anonymous"
    )


def _by_kind(mappings: Iterable[Report]) -> Report:
    found: dict[str, Report] = {}
    for one in mappings:
        kind = found.setdefault(one["kind"], {"mappings": 0, "mapped": 0, "stored": 0})
        kind["mappings"] += 1
        kind["mapped"] += one["size"]
        kind["stored"] += one["stored"]
    return dict(sorted(found.items(), key=lambda pair: (-pair[1]["stored"], -pair[1]["mapped"])))


def _socket(entry: Any) -> str:
    """What kind of socket a file is; empty for what is none."""
    if entry.HasField("isk"):
        isk = entry.isk
        family = _FAMILIES.get(isk.family, f"family {isk.family}")
        protocol = _PROTOCOLS.get(isk.proto, f"protocol {isk.proto}")
        state = f", {_TCP[isk.state]}" if isk.proto == 6 and 0 < isk.state < len(_TCP) else ""
        return f"{family} {protocol}{state}"
    if entry.HasField("usk"):
        state = ", listening" if entry.usk.state == 10 else ""
        return f"UNIX {_TYPES.get(entry.usk.type, entry.usk.type)}{state}"
    return "netlink" if entry.HasField("nlsk") else "packet" if entry.HasField("psk") else ""


def _timers(live: Iterable[Process], files: Iterable[Any]) -> Report:
    """How many timers there are, and how many of them are armed."""
    intervals, posix = 0, []
    for process in live:
        timers = process.core.tc.timers
        intervals += sum(1 for one in (timers.real, timers.virt, timers.prof) if one.vsec or one.vusec)
        posix += list(timers.posix)
    fds = [entry.tfd for entry in files if entry.HasField("tfd")]
    return {
        "interval": {"timers": intervals, "armed": intervals},
        "POSIX": {"timers": len(posix), "armed": sum(1 for one in posix if one.vsec or one.vnsec)},
        "descriptors": {"timers": len(fds), "armed": sum(1 for one in fds if one.vsec or one.vnsec)},
    }


def _pages(layers: Sequence[Any], live: Iterable[Process]) -> Report:
    """The pages of this checkpoint itself: how many are zeros, how many say what another says."""
    images = layers[0]
    page = min((process.page_size for process in live), default=4096)
    census = Census(page)
    for name in images.names():
        if name.startswith("pages-"):
            with images.raw(name) as file:
                census.take(file)
    report = census.report()
    if len(layers) > 1:
        report["repeats the parent"] = sum(_repeats(layers, f"pagemap-{one.pid}.img", one.page_size) for one in live)
    return report


def _repeats(layers: Sequence[Any], name: str, page: int) -> int:
    """Pages of a checkpoint that are what its parent has at the same address."""
    from pycriu.crit.pages import equal_pages

    with Pagemaps(layers[:1]) as here, Pagemaps(layers[1:]) as before:
        return equal_pages(here.stretches(name, page), before.stretches(name, page), page)
