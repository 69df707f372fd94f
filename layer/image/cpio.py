# SPDX-License-Identifier: GPL-2.0-only
"""A writer of cpio archives as the kernel reads them ("newc"). Same nodes in, same bytes out: no clock, no inodes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from typing import BinaryIO

from layer.errors import BuildError
from layer.image.tree import Node

LARGEST = 0xFFFFFFFF  # a size has eight hexadecimal digits


def write(nodes: Iterable[Node], file: BinaryIO) -> None:
    """Write an archive of `nodes`; parents must come before what lies in them."""
    for inode, node in enumerate(nodes, start=1):
        _write_header(file, node, inode)
        if node.content is not None:
            with node.content.open("rb") as content:
                shutil.copyfileobj(content, file)
        else:
            file.write(os.fsencode(node.target))
        _pad(file)
    _write_header(file, Node("TRAILER!!!", 0), 0)


def _write_header(file: BinaryIO, node: Node, inode: int) -> None:
    name = os.fsencode(node.path) + b"\0"
    if node.size > LARGEST:
        raise BuildError(f"/{node.path} is too large for an initramfs ({node.size} bytes)")
    fields = (
        inode,
        node.mode,
        node.uid,
        node.gid,
        2 if node.is_dir else 1,  # links
        0,  # mtime: the archive's bytes must not depend on when it was made
        node.size,
        0,  # the device the file lay on
        0,
        *node.device,
        len(name),
        0,  # checksum, of another format
    )
    file.write(b"070701" + b"".join(b"%08X" % field for field in fields) + name)
    _pad(file)


def _pad(file: BinaryIO) -> None:
    file.write(bytes(-file.tell() % 4))
