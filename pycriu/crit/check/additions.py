# SPDX-License-Identifier: GPL-2.0-only
"""pycriu's own images: what they say is of something that there is, and is said once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pycriu.crit.check.model import Model
from pycriu.crit.check.openfiles import numbers_of

# image → the field that tells of whom, the types of file that it may be
_OF_FILES = {
    "pycriu-files.img": ("id", (1,)), "pycriu-kmsg.img": ("id", (1,)), "pycriu-eventfd.img": ("id", (6,)),
    "pycriu-timerfd.img": ("id", (17,)), "pycriu-epoll.img": ("id", (7,)), "pycriu-tun.img": ("id", (15,)),
    "pycriu-sockets-unix.img": ("id", (5,)), "pycriu-sockets-netlink.img": ("id", (13,)),
    "pycriu-sockets-packet.img": ("id", (10,)),
}  # fmt: skip
_SIZES = {"pycriu-timerfd.img": ("boot", (16,)), "pycriu-files.img": ("digest", (0, 16)),
          "pycriu-epoll.img": ("params", (0, 8))}  # fmt: skip


def check(model: Model) -> None:
    """All of it."""
    for name, (field, kinds) in _OF_FILES.items():
        model.once(name, field)
        for number, entry in enumerate(model.entries(name)):
            model.refer(getattr(entry, field), kinds, (name, number, field))
    for name, (field, sizes) in _SIZES.items():
        for number, entry in enumerate(model.entries(name)):
            if len(getattr(entry, field)) not in sizes:
                model.found(name, f"{len(getattr(entry, field))} bytes", number, field)
    _check_tasks(model)
    _check_watches(model)
    _check_packets(model)
    _check_plugins(model)
    _check_others(model)


def _belongs(model: Model, name: str, field: str, known: Iterable[int], what: str) -> None:
    model.once(name, field)
    known = set(known)
    for number, entry in enumerate(model.entries(name)):
        if getattr(entry, field) not in known:
            model.found(name, f"there is no {what} {getattr(entry, field)}", number, field)


def _check_tasks(model: Model) -> None:
    if "pstree.img" in model.broken:
        return
    threads = {one.pid: {one.pid, *one.threads} for one in model.processes}
    everybody = {tid for some in threads.values() for tid in some}
    for name, pid in model.numbered("pycriu-task"):
        if pid not in threads:
            model.found(name, f"there is no process {pid}")
            continue
        _belongs(model, name, "tid", threads[pid], f"thread of process {pid},")
    for name, pid in model.numbered("pycriu-memory"):
        if pid not in threads:
            model.found(name, f"there is no process {pid}")
        for mm in model.entries(f"mm-{pid}.img"):
            _belongs(model, name, "start", {0} | {vma.start for vma in mm.vmas}, "mapping that starts at")
    for stem in ("pycriu-xstate", "pycriu-sve"):
        for name, tid in model.numbered(stem):
            if tid not in everybody:
                model.found(name, f"there is no thread {tid}")


def _check_watches(model: Model) -> None:
    """Watches of epoll files."""
    counts = {number: len(what.tfd) for number, _, what in model.files_of(7)}
    for number, entry in enumerate(model.entries("pycriu-epoll.img")):
        for place, slot in enumerate(entry.slot):
            field = f"slot[{place}]"
            if entry.id in counts and slot.index >= counts[entry.id]:
                model.found("pycriu-epoll.img", f"there is no watch {slot.index}", number, f"{field}.index")
            model.refer(slot.target, (), ("pycriu-epoll.img", number, f"{field}.target"))


def check_tracks(model: Model) -> None:
    """What is noted of pages, of processes whose pages are here."""
    for name, pid in model.numbered("pycriu-track"):
        if f"pagemap-{pid}.img" not in model.names:
            model.found(name, f"there are no pages of process {pid}")
        for entry in model.entries(name):
            pages = sum(entry.pages)
            if len(entry.start) != len(entry.pages) or len(entry.entries) != 8 * pages:
                said = (
                    f"{len(entry.start)} runs, {len(entry.pages)} lengths, {len(entry.entries)} bytes for {pages} pages"
                )
                model.found(name, said, 0, "entries")
            for field in ("token", "boot"):
                if len(getattr(entry, field)) != 16:
                    model.found(name, f"{len(getattr(entry, field))} bytes", 0, field)


def _check_packets(model: Model) -> None:
    """Packets of pipes make up what is in them."""
    for own, data in (("pycriu-packets.img", "pipes-data.img"), ("pycriu-fifo-packets.img", "fifo-data.img")):
        if data in model.broken:
            continue
        sizes = {entry.pipe_id: entry.bytes for entry in model.entries(data)}
        _belongs(model, own, "pipe_id", sizes, "pipe with data,")
        for number, entry in enumerate(model.entries(own)):
            if sizes.get(entry.pipe_id, sum(entry.bytes)) != sum(entry.bytes) or 0 in entry.bytes:
                text = f"packets of {sum(entry.bytes)} bytes, the pipe has {sizes[entry.pipe_id]}"
                model.found(own, text, number, "bytes")


def _check_plugins(model: Model) -> None:
    for number, entry in enumerate(model.entries("pycriu-plugins.img")):
        if entry.HasField("file"):
            model.refer(entry.file, (16,), ("pycriu-plugins.img", number, "file"))


def _check_others(model: Model) -> None:
    if model.knows_files:
        _belongs(model, "pycriu-sockets-inet.img", "id", {0} | _inodes(model, 4), "socket with the inode")
        _belongs(model, "pycriu-pidfd.img", "ino", _inodes(model, 20), "pidfd with the inode")
        _check_marks(model)
    _belongs(model, "pycriu-ghosts.img", "id", {n for _, n in model.numbered("ghost-file", 16)}, "deleted file")
    pairs = {entry.pty.index for entry in model.entries("tty-info.img") if entry.HasField("pty")}
    if "tty-info.img" not in model.broken:
        _belongs(model, "pycriu-tty.img", "index", pairs, "pseudo terminal")


def _inodes(model: Model, kind: int) -> set[int]:
    found: list[Any] = [what.ino for _, _, what in model.files_of(kind)]
    return set(found)


def _check_marks(model: Model) -> None:
    groups = numbers_of(model, 12)
    for number, entry in enumerate(model.entries("pycriu-fanotify.img")):
        if entry.id not in groups:
            model.found("pycriu-fanotify.img", f"there is no group {entry.id}", number, "id")
