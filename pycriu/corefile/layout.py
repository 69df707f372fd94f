# SPDX-License-Identifier: GPL-2.0-only
"""Heap, stack, code, arguments and environment of a core: the fields of mm_struct, of which a core has none.

The heap ends where the C library's `__curbrk` says, or it is the first writable memory behind the program. The stack
is around AT_RANDOM; the auxiliary vector lies on it, below it the environment, the arguments and their number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pycriu.corefile import clib, program
from pycriu.images import messages as m

if TYPE_CHECKING:
    from pycriu.corefile.space import Region, Space

AT_BASE, AT_RANDOM, AT_EXECFN = 7, 25, 31
_HEAP_WITHIN = 1 << 30  # by which the kernel moves the heap away from the program, at most
_MAX_WORDS = 1 << 16  # arguments and variables
_MAX_TEXT = 1 << 21
_PAGE = 0xFFF


def stack(space: Space) -> Region | None:
    """The mapping of the first thread's stack, as the kernel made it."""
    return space.at(space.core.auxiliary(AT_RANDOM)) or space.at(space.core.auxiliary(AT_EXECFN))


def fill(mm: Any, space: Space) -> None:
    """All fields but the mappings."""
    code, data, end = _program(space)
    mm.mm_start_code, mm.mm_end_code = code
    mm.mm_start_data, mm.mm_end_data = data
    mm.mm_start_brk, mm.mm_brk = heap(space, end)
    mm.mm_saved_auxv.extend(space.core.auxv)
    top = stack(space)
    words = _words(space, top) if top is not None else None
    fallback = top.start if top is not None else code[0]
    start, arguments, environment = words or (fallback, (fallback, fallback), (fallback, fallback))
    mm.mm_start_stack = start
    mm.mm_arg_start, mm.mm_arg_end = arguments
    mm.mm_env_start, mm.mm_env_end = environment
    if words is None:
        space.lacks.append("where arguments and environment lie: /proc/PID/cmdline and environ are empty")


def _program(space: Space) -> tuple[tuple[int, int], tuple[int, int], int]:
    """Code and data, each from where to where, and the end of the program with its zeros."""
    mapped = [one for one in space.regions if one.path == space.executable] or space.regions
    low, high = mapped[0].start, mapped[-1].end
    found, base = program.opened(space.executable), space.base(space.executable)
    if found is None or base is None:
        return (low, high), (low, high), high
    code = [part for part in found.parts if part.prot & 4] or list(found.parts)
    data = [part for part in found.parts if part.prot & 2] or list(found.parts)
    return (
        (base + code[0].address, base + code[-1].address + code[-1].stored),
        (base + data[0].address, base + data[-1].address + data[-1].stored),
        base + max(part.address + part.size for part in found.parts),
    )


def heap(space: Space, end: int) -> tuple[int, int]:
    """Where brk(2) began, and where it is; `end` is that of the program."""
    first = -(-end // (_PAGE + 1)) * (_PAGE + 1)
    for path in dict.fromkeys(one.path for one in space.regions if one.path):
        now = clib.value(space, path, "__curbrk")
        region = space.at(now - 1) if now else None
        if (
            region is not None
            and now is not None
            and not region.path
            and region.prot & 2
            and region is not stack(space)
        ):
            return max(region.start, end) if region.start < end < now else region.start, now
    for region in space.regions:
        after = first <= region.start <= first + _HEAP_WITHIN
        if after and not region.path and region.prot & 3 == 3 and region is not stack(space):
            return region.start, region.end
        if after and region.path:
            break
    if not space.core.auxiliary(AT_BASE):  # of a static program that can lie anywhere, the kernel puts it below
        low = next((one for one in space.regions if not one.path and one.prot & 3 == 3 and one.end < first), None)
        if low is not None and low is not stack(space):
            return low.start, low.end
    return first, first


def _words(space: Space, top: Region) -> tuple[int, tuple[int, int], tuple[int, int]] | None:
    """The number of arguments' address, the arguments, the environment; None where the stack does not have them."""
    random = space.core.auxiliary(AT_RANDOM) or top.end
    start, end = max(top.start, random - _MAX_TEXT), min(top.end, random + 4 * _MAX_TEXT)  # words below, text above
    content = space.read(start, end - start)
    at = content.rfind(b"".join(word.to_bytes(8, "little") for word in space.core.auxv[:16]))
    if at < 0 or not space.core.auxv:
        return None
    variables, at = _pointers(content, at)
    arguments, at = _pointers(content, at)
    count = int.from_bytes(content[max(at - 8, 0) : at], "little")
    if at < 8 or not arguments or count != len(arguments):
        return None
    return start + at - 8, _span(arguments, content, start), _span(variables or arguments[-1:], content, start)


def _pointers(content: bytes, end: int) -> tuple[list[int], int]:
    """The words before the null at `end`, down to another null or to a number that is no pointer; where they begin."""
    at = end - 8
    found: list[int] = []
    while at >= 8 and len(found) < _MAX_WORDS:
        word = int.from_bytes(content[at - 8 : at], "little")
        if word <= _MAX_WORDS:
            break
        found.append(word)
        at -= 8
    return found[::-1], at


def _span(pointers: list[int], content: bytes, start: int) -> tuple[int, int]:
    """From the first string to the end of the last."""
    own = [one for one in pointers if start <= one < start + len(content)]  # setenv(3) puts others among them
    if not own:
        return start, start
    end = content.find(b"\0", max(own) - start)
    return min(own), start + end + 1 if end >= 0 else max(own)


def entry() -> Any:
    """An mm_entry to be filled."""
    return m.mm_entry()
