# SPDX-License-Identifier: GPL-2.0-only
"""Rings of asynchronous I/O (io_setup(2)): where they lie, what has been completed and not yet been read.

A ring is the kernel's own, mapped into the task; its address is the context's id. It is made again, advanced by as many
reads of /dev/null as had been completed, and moved to where it was. Refused: a ring on which something was completed
while the task stood still. Not kept, because nothing shows it: requests that just wait (IOCB_CMD_POLL).
"""

from __future__ import annotations

import os
import struct

from pycriu.errors import ImageError, Unsupported, UserError
from pycriu.images import messages as m
from pycriu.images.catalogue import AIORING
from pycriu.kernel.pagemap import PAGE_SIZE
from pycriu.record import record
from pycriu.resources.memory.mappings import Mapping
from pycriu.tracing.tracee import Remote, Tracee

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pycriu.resources.memory.plan import Plan

_HEAD = struct.Struct("<8I")  # struct aio_ring, fs/aio.c: id, nr, head, tail, magic, and what never changes
_MAGIC = 0xA10A10A1
_HEAD_AT, _EVENTS_AT, _EVENT = 8, 32, 32  # bytes
# struct iocb, include/uapi/linux/aio_abi.h: data, key, rw_flags, opcode, priority, descriptor, buffer, bytes, offset, …
_IOCB = struct.Struct("<QIIHhIQQqQII")
_AT_ONCE = 512  # requests
_EXTRA = 2  # the kernel doubles what is asked for and adds as many, ioctx_alloc() and aio_setup_ring()
MREMAP_MAYMOVE_FIXED = 3


@record
class Ring:
    """One ring of a stopped task; `size` in bytes, the rest in events."""

    start: int
    size: int
    nr: int
    head: int
    tail: int


def look(task: Tracee, mappings: list[Mapping]) -> list[Ring]:
    """The rings of a stopped task."""
    return [_read(task, one.line.start, one.line.end) for one in mappings if one.status & AIORING]


def _read(task: Tracee, start: int, end: int) -> Ring:
    _, nr, head, tail, magic, *_ = _HEAD.unpack(task.read(start, _HEAD.size))
    if magic != _MAGIC or nr * _EVENT + _EVENTS_AT > end - start or head >= nr or tail >= nr:
        raise Unsupported(f"process {task.tid}: the ring of asynchronous I/O at {start:x} is not as the kernel made it")
    return Ring(start, end - start, nr, head, tail)


def check_idle(task: Tracee, rings: list[Ring]) -> None:
    """Unsupported where something has been completed since `look`."""
    for ring in rings:
        now = _read(task, ring.start, ring.start + ring.size)
        if now.tail != ring.tail:
            raise Unsupported(
                f"process {task.tid}: asynchronous I/O is under way on the ring at {ring.start:x}",
                "try again when it is done",
            )


def entries(rings: list[Ring]) -> list[Any]:
    """mm_entry.aios; nr_req is the largest number that gives a ring of that size, as CRIU has it."""
    return [m.aio_ring_entry(id=ring.start, nr_req=(ring.nr - _EXTRA) // 2, ring_len=ring.size) for ring in rings]


# ---------------------------------------------------------------------------------------------------------- restore


def restore(remote: Remote, plan: Plan, pages: int, null: int) -> None:
    """Make the rings of a task, when everything else is mapped.

    `pages` is our descriptor of the pages image, `null` one of the task for /dev/null.
    """
    for entry in plan.mm.aios:
        old = _image_of(plan, entry, pages)
        _, nr, head, tail, magic, *_ = _HEAD.unpack_from(old)
        if magic != _MAGIC or nr * _EVENT + _EVENTS_AT > len(old) or head >= nr or tail >= nr:
            raise ImageError(f"the ring of asynchronous I/O at {entry.id:#x} is not as a kernel made it")
        new = _setup(remote, entry, nr)
        _advance(remote, new, tail, null)
        remote.task.write(new + _EVENTS_AT, old[_EVENTS_AT : _EVENTS_AT + nr * _EVENT])
        remote.task.write(new + _HEAD_AT, struct.pack("<I", head))
        what = f"the ring of asynchronous I/O at {entry.id:x}"
        remote.call("mremap", new, len(old), len(old), MREMAP_MAYMOVE_FIXED, entry.id, what=what)


def _image_of(plan: Plan, entry: Any, pages: int) -> bytes:
    ring = next((vma for vma in plan.vmas if vma.status & AIORING and vma.start == entry.id), None)
    fd, offset, there = plan.find(entry.id, pages)
    if ring is None or entry.ring_len != ring.end - ring.start or there * PAGE_SIZE < entry.ring_len:
        raise ImageError(f"the ring of asynchronous I/O at {entry.id:#x} has no mapping or no content")
    return os.pread(fd, entry.ring_len, offset)


def _setup(remote: Remote, entry: Any, nr: int) -> int:
    room = remote.room(8)
    remote.call("io_setup", entry.nr_req, room, what=f"a ring of asynchronous I/O with {entry.nr_req} requests")
    new = int.from_bytes(remote.task.read(room, 8), "little")
    remote.reset()
    _, there, *_ = _HEAD.unpack(remote.task.read(new, _HEAD.size))
    if there != nr:
        raise UserError(
            f"a ring of asynchronous I/O has {there} events here, {nr} at the dump",
            "its size follows the number of CPUs: restore on a machine with as many",
        )
    return new


def _advance(remote: Remote, ring: int, tail: int, null: int) -> None:
    """Complete as many requests as the ring has seen since it last began anew."""
    left = tail
    while left:
        count = min(left, _AT_ONCE)
        request = remote.data(_IOCB.pack(0, 0, 0, 0, 0, null, 0, 0, 0, 0, 0, 0))
        requests = remote.data(struct.pack("<Q", request) * count)
        left -= remote.call("io_submit", ring, count, requests, what="advancing a ring of asynchronous I/O")
        remote.reset()
        remote.task.write(ring + _HEAD_AT, struct.pack("<I", tail - left))  # those have been read
