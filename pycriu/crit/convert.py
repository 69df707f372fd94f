# SPDX-License-Identifier: GPL-2.0-only
"""`crit convert`: a checkpoint as another version of CRIU has it.

    1.0  CRIU 1.0 to 1.5: files without the common magic, each kind of open file and the signal actions in files apart
    1.1  CRIU 1.6 to 2.x: the same with the common magic
    3    CRIU 3.0 to 4.1: all open files in files.img, 32 bits for a number of pages, and no field that came after 3.17
    4    CRIU 4.2, and pycriu

From any to any. What the other version cannot hold is refused, all of it at once; with --lossy it is told and left out.
"""

from __future__ import annotations

import os
from io import FileIO
from typing import TYPE_CHECKING, Any, TextIO

from pycriu.crit import layouts
from pycriu.crit.content import PIECE, data_ranges
from pycriu.crit.losses import VITAL, losses
from pycriu.crit.source import open_source
from pycriu.errors import ImageError, UserError
from pycriu.images import catalogue, commit, framing, store
from pycriu.images.catalogue import PUNCHED

if TYPE_CHECKING:
    import argparse

    from pycriu.crit.layouts import Images

VERSIONS = ("1.0", "1.1", "3", "4")
_SHOWN = 20  # losses that are named one by one


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `crit convert`."""
    parser.add_argument("images", metavar="DIR", help="a directory of images, or an archive of them")
    parser.add_argument(
        "-o", "--out-dir", metavar="DIR", required=True, help="where the other one goes: no images there"
    )
    parser.add_argument(
        "-t", "--to", choices=VERSIONS, default=VERSIONS[-1],
        help="1.0: CRIU to 1.5; 1.1: to 2.x; 3: to 4.1; 4: 4.2 and pycriu (default)",
    )  # fmt: skip
    parser.add_argument("--lossy", action="store_true", help="leave out what the other version cannot hold")


def run(args: argparse.Namespace, out: TextIO) -> int:
    """Convert."""
    with open_source(args.images) as source:
        images, inventory = read(source)
        modernise(images, inventory)
        lost = age(images, inventory, args.to)
        vital = [one for one in lost if one[1] in VITAL]
        if vital or (lost and not args.lossy):
            raise UserError(
                f"version {args.to} cannot hold all of this checkpoint: " + "; ".join(_named(vital or lost)),
                "the task could not go on without; convert to version 4" if vital else "--lossy leaves that out",
            )
        write(source, images, inventory, args.out_dir, framing_of(args.to))
        for one in _named(lost):
            out.write(f"left out: {one}\n")
        out.write(f"{args.out_dir}: {len(images) + 1} images of version {args.to}\n")
        if source.parent() is not None:
            out.write("the checkpoint builds upon another one: convert that, too\n")
    return 0


def _named(lost: list[tuple[str, str]]) -> list[str]:
    kinds: dict[str, list[str]] = {}
    for where, what in lost:
        kinds.setdefault(what, []).append(where)
    shown = [
        f"{what} ({places[0]}{f' and {len(places) - 1} more' if places[1:] else ''})" for what, places in kinds.items()
    ]
    return shown[:_SHOWN] + ([f"{len(shown) - _SHOWN} more kinds"] if shown[_SHOWN:] else [])


def framing_of(version: str) -> int:
    """inventory_entry.img_version."""
    return 1 if version == "1.0" else 2


def read(source: Any) -> tuple[Images, Any]:
    """Every image of messages, and the inventory. What holds bytes only is the same in all versions."""
    inventory = source.inventory()
    images: Images = {}
    for name in source.names():
        kind = store.kind_of(name)
        if kind.framing == catalogue.COMMON and not _is_streamed(name):
            images[name] = source.read_with_payloads(name)
    if "pstree.img" not in images:
        raise ImageError(f"{source.path}: pstree.img is missing", "the checkpoint is not complete")
    for process, _ in images["pstree.img"]:
        if f"pages-{process.pid}.img" in source.names() and f"pagemap-{process.pid}.img" not in images:
            raise ImageError(
                f"pages-{process.pid}.img is from before there were pagemaps, with an address before every page",
                "restore it with the CRIU that made it (before 0.4), and dump again",
            )
    return images, inventory


def _is_streamed(name: str) -> bool:
    """Deleted files are large and the same in all versions, but for their first words."""
    return name.startswith("ghost-file-")


def modernise(images: Images, inventory: Any) -> None:
    """Anything as today's. Nothing is lost on the way."""
    processes = [message for message, _ in images["pstree.img"]]
    layouts.gather_files(images)
    layouts.gather_tasks(images, processes)
    layouts.tables_by_id(images, inventory, processes)
    for name in _pagemaps(images):
        images[name] = layouts.pagemap(images[name], name, narrow=False, flags=True)
    inventory.img_version = 2


def age(images: Images, inventory: Any, version: str) -> list[tuple[str, str]]:
    """Today's as an earlier version; what is lost by that."""
    if version == "4":
        return []
    processes = [message for message, _ in images["pstree.img"]]
    layouts.cgroups_of_processes(images, processes)
    lost = []
    for name, entries in images.items():
        if store.kind_of(name).own:
            continue  # pycriu's own images: CRIU has never read them
        for number, (message, _) in enumerate(entries):
            lost += list(losses(message, f"{name}[{number}]"))
    inventory.ClearField("allow_uprobes")
    old = version in ("1.0", "1.1")
    for name in _pagemaps(images):
        images[name] = layouts.pagemap(images[name], name, narrow=True, flags=not old)
    if old:
        layouts.scatter_files(images)
        layouts.scatter_tasks(images, processes)
    inventory.img_version = framing_of(version)
    return lost


def _pagemaps(images: Images) -> list[str]:
    return [name for name in images if name.startswith("pagemap-")]


def write(source: Any, images: Images, inventory: Any, path: str, version: int) -> None:
    """The new checkpoint, whole or not at all."""
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", "-o names a directory") from None
    if any(commit.is_image(name) for name in os.listdir(path)):
        raise UserError(f"{path}: there are images already", "-o names a directory without")
    with store.NewCheckpoint(path) as new:
        new.version = version
        for name, entries in images.items():
            new.write(name, entries)
        for name in source.names():
            kind = store.kind_of(name)
            if kind.framing == catalogue.RAW or _is_streamed(name):
                _copy(source, name, new)
        new.write(commit.INVENTORY, [inventory])
        new.commit()


def _copy(source: Any, name: str, new: store.NewCheckpoint) -> None:
    """An image that is too large for memory: its content as it is, behind the words that the version begins with."""
    with source.raw(name) as file:
        if _is_streamed(name):
            (message, at) = framing.head(store.kind_of(name), file.read(framing.HEAD_ROOM), name)
            out = new.stream(name, message)
            file.seek(at)
        else:
            out = new.create_raw(name)
            if not isinstance(file, FileIO) and PUNCHED in source.names():
                raise UserError(f"{source.path}: the holes of {name} are lost in an archive", "unpack it (tar -xS)")
            if isinstance(file, FileIO):  # a hole may mean something, and costs nothing
                size = os.fstat(file.fileno()).st_size
                for start, end in data_ranges(file.fileno(), 0, size):
                    file.seek(start)
                    out.seek(start)
                    for at in range(start, end, PIECE):
                        _write_all(out, file.read(min(PIECE, end - at)), name)
                out.truncate(size)
                return
        while piece := file.read(PIECE):
            _write_all(out, piece, name)


def _write_all(out: Any, data: bytes, name: str) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[out.write(view) :]
        except OSError as error:
            raise store.refusal(error, name) from None
