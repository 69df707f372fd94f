# SPDX-License-Identifier: GPL-2.0-only
"""Rings of asynchronous I/O (io_setup): their addresses, events that were completed and not read, and their usefulness.

Missing: requests under way (refused where they end during the dump), requests that just wait (IOCB_CMD_POLL).
"""

import ctypes
import os
import struct
from collections.abc import Iterator

import victim

NUMBERS = {"io_setup": (206, 0), "io_destroy": (207, 1), "io_getevents": (208, 4), "io_submit": (209, 2)}
COLUMN = 0 if os.uname().machine == "x86_64" else 1
IOCB, EVENT = struct.Struct("<QIIHhIQQqQII"), struct.Struct("<QQqq")
PREAD = 0
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def scenario() -> Iterator[victim.Damage]:
    with open("data", "wb") as made:
        made.write(bytes(range(256)) * 16)
    fd = os.open("data", os.O_RDONLY)
    ring, small = setup(100), setup(1)
    for number in range(300):  # more than the ring holds: it has begun anew
        submit(ring, fd, [number])
        victim.equal(len(events(ring, 10)), 1, "what is completed at once")
    submit(ring, fd, [1000, 1001, 1002, 1003, 1004])
    taken = events(ring, 3)
    victim.equal([tag for tag, _ in taken], [1000, 1001, 1002], "the first three")
    before = lines()
    yield lambda: events(ring, 1)
    victim.equal(lines(), before, "where the rings are")
    unread = events(ring, 10)
    victim.equal(unread, [(1003, 16), (1004, 16)], "the events that nobody had read")
    victim.equal(events(small, 10), [], "the events of the other ring")
    for round_ in range(40):
        submit(ring, fd, [round_ * 10 + number for number in range(10)])
        submit(small, fd, [round_])
        victim.equal([tag for tag, _ in events(ring, 20)], [round_ * 10 + n for n in range(10)], "ten fresh requests")
        victim.equal([tag for tag, _ in events(small, 20)], [round_], "a fresh request of the other ring")
    victim.equal(bytes(_buffer[:16]), bytes(range(16)), "what was read")
    for one in (ring, small):
        victim.equal(call("io_destroy", one), 0, "io_destroy")
    victim.equal(lines(), [], "the rings when they are gone")


_buffer = (ctypes.c_char * 4096)()


def call(name: str, *args: int) -> int:
    result = int(libc.syscall(NUMBERS[name][COLUMN], *map(ctypes.c_long, args)))
    victim.check(result >= 0, f"{name}: {os.strerror(ctypes.get_errno())}")
    return result


def setup(number: int) -> int:
    context = ctypes.c_ulong(0)
    result = libc.syscall(NUMBERS["io_setup"][COLUMN], ctypes.c_long(number), ctypes.byref(context))
    if result:
        victim.skip(f"no asynchronous I/O here: {os.strerror(ctypes.get_errno())}")
    return context.value


def submit(ring: int, fd: int, tags: list[int]) -> None:
    """One read of sixteen bytes per tag."""
    blocks = [IOCB.pack(tag, 0, 0, PREAD, 0, fd, ctypes.addressof(_buffer), 16, 0, 0, 0, 0) for tag in tags]
    kept = [ctypes.create_string_buffer(block, len(block)) for block in blocks]
    pointers = (ctypes.c_uint64 * len(kept))(*(ctypes.addressof(one) for one in kept))
    victim.equal(call("io_submit", ring, len(tags), ctypes.addressof(pointers)), len(tags), "io_submit")


def events(ring: int, most: int) -> list[tuple[int, int]]:
    """(tag, result) of at most so many completed requests."""
    room = ctypes.create_string_buffer(EVENT.size * most)
    none = struct.pack("<qq", 0, 0)
    timeout = ctypes.create_string_buffer(none, len(none))
    count = call("io_getevents", ring, 0, most, ctypes.addressof(room), ctypes.addressof(timeout))
    found = [EVENT.unpack_from(room, number * EVENT.size) for number in range(count)]
    return [(tag, result) for tag, _, result, _ in found]


def lines() -> list[str]:
    """Span and rights of the rings."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        return [" ".join(line.split()[:3]) for line in maps if "/[aio]" in line]


victim.play(scenario)
