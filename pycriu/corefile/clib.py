# SPDX-License-Identifier: GPL-2.0-only
"""What the C library has registered with the kernel for each thread, found in the memory of a core.

A core does not tell where a thread's id is cleared at its end (set_tid_address(2); pthread_join waits there), its
robust list, or its rseq area. glibc has all three in the thread's descriptor near the thread pointer: the id, sixteen
bytes behind it the head of the robust list, recognised by its link and by the distance to a lock's word in it; and
`__rseq_offset` tells of the third. Of other C libraries nothing is found.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pycriu.arch import elfcore
from pycriu.corefile import program
from pycriu.record import record

if TYPE_CHECKING:
    from typing import Any

    from pycriu.corefile.reader import Thread
    from pycriu.corefile.space import Space

_HEAD_AT = 16  # from the id to struct robust_list_head
_HEAD_SIZE = 24
_TO_LOCK = (-32 & (1 << 64) - 1).to_bytes(8, "little")  # futex_offset: from the link in a mutex to its word
_RSEQ_UNIT = 32
_CPU_AT = 4  # struct rseq: cpu_id_start, cpu_id


@record
class Registered:
    """Addresses; 0: not found."""

    tid_address: int = 0
    robust_list: int = 0
    robust_size: int = 0
    rseq: tuple[int, int, int] | None = None  # address, size in bytes, signature


class Finder:
    """Of all threads of a core."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._rseq = self._find_rseq()

    def of(self, thread: Thread, info: Any) -> Registered:
        """What is found for a thread; `info` is the message with its registers."""
        pointer = elfcore.thread_pointer(self._space.core.arch, info)
        if not pointer:
            return Registered()
        low, high = elfcore.facts(self._space.core.arch).window
        window = self._window(pointer + low, high - low)
        at = self._descriptor(window, pointer + low, thread.tid)
        if not at:
            return Registered()
        rseq = None
        if self._rseq is not None and not (begins(self._space, thread) or self._unregistered(pointer + self._rseq[0])):
            offset, size = self._rseq
            rseq = (pointer + offset, size, elfcore.facts(self._space.core.arch).rseq_signature)
        return Registered(at, at + _HEAD_AT, _HEAD_SIZE, rseq)

    def _unregistered(self, area: int) -> bool:
        """Whether glibc or the kernel has noted that there is no rseq: else there is a CPU."""
        cpu = self._space.read(area + _CPU_AT, 4)
        return len(cpu) == 4 and int.from_bytes(cpu, "little", signed=True) < 0

    def _window(self, start: int, size: int) -> bytes:
        """The descriptor may lie near the end or the beginning of a mapping."""
        region = self._space.at(start)
        if region is None:  # the lowest descriptor of all begins above
            nearest = next((one for one in self._space.regions if start < one.start < start + size), None)
            if nearest is None:
                return b""
            return bytes(nearest.start - start) + self._space.read(nearest.start, start + size - nearest.start)
        return self._space.read(start, size)

    @staticmethod
    def _descriptor(window: bytes, start: int, tid: int) -> int:
        """The address of the id in a descriptor; 0: there is none."""
        wanted = tid.to_bytes(4, "little")
        at = window.find(_TO_LOCK)
        while at >= 0:
            place = at - 8 - _HEAD_AT  # the link is before the distance
            link = int.from_bytes(window[at - 8 : at], "little") if at >= 8 else 0
            if place >= 0 and link and (start + place) % 8 == 0 and window[place : place + 4] == wanted:
                return start + place
            at = window.find(_TO_LOCK, at + 1)
        return 0

    def _find_rseq(self) -> tuple[int, int] | None:
        """How far from the thread pointer the rseq area is, and its size; None where the C library has none."""
        for path in dict.fromkeys(one.path for one in self._space.regions if one.path):
            if not os.path.basename(path).startswith(("ld-linux", "ld.so", "ld-", "ld64")):
                continue
            offset, size = (
                self._value(path, name, width) for name, width in (("__rseq_offset", 8), ("__rseq_size", 4))
            )
            if offset is not None and size:
                signed = offset - (offset >> 63 << 64)
                return signed, -(-size // _RSEQ_UNIT) * _RSEQ_UNIT
        return None

    def _value(self, path: str, name: str, width: int) -> int | None:
        return value(self._space, path, name, width)


def begins(space: Space, thread: Thread) -> bool:
    """Whether a thread comes out of clone3(2) and has done nothing yet: what each registers for itself, it has not."""
    arch = space.core.arch
    gpr = list(arch.gpr.unpack(thread.general))
    number = arch.interrupted_call(gpr)
    if number < 0 and arch.nr != arch.result:  # the kernel keeps the number where the task had it
        number = gpr[arch.nr]
    size = len(arch.syscall_insn)
    there = number == arch.syscall_number("clone3") and not gpr[arch.result]
    return there and space.read(gpr[arch.pc] - size, size) == arch.syscall_insn


def value(space: Space, path: str, name: str, width: int = 8) -> int | None:
    """The number that an exported variable of a mapped library has; None where it cannot be found."""
    found, base = program.opened(path), space.base(path)
    at = found.symbol(name) if found is not None else None
    if at is None or base is None:
        return None
    data = space.read(base + at, width)
    return int.from_bytes(data, "little") if len(data) == width else None
