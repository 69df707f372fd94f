# SPDX-License-Identifier: GPL-2.0-only
"""The way home: what a task does that works for us, should we be killed.

A tracer that dies leaves its tracees running from wherever they stand. So a task that makes calls for us always stands
where it finds home by itself: the next thing after every call is rt_sigreturn(2), on a frame that holds its own
registers, FPU state and signal mask. The frame lies below its stack pointer, on the stack that the kernel gave it;
where it runs on a stack of its own making, which may end there, at the far end of the process's stack, where nobody has
been; or in the scratch pages, as for all threads but the first.

To stop the task after a table of calls without a trap, which would kill it if nobody traced it any more, the table ends
with a signal that the task ignores by default and has no handler for: its tracer sees it, and nobody else does.
"""

from __future__ import annotations

from pycriu.arch.description import Arch, Registers
from pycriu.kernel import procfs
from pycriu.kernel.pagemap import PAGE_SIZE
from pycriu.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Judge = Callable[[str, tuple[int, ...], int], None]  # name, arguments, address

SIGCHLD, SIGURG, SIGWINCH = 17, 23, 28
QUIET = (SIGURG, SIGWINCH, SIGCHLD)
_RED_ZONE = 512  # bytes below the stack pointer that may be in use: 128 on x86_64, and some distance
_ALIGN = 64  # XSAVE wants it
MARK = b"a pycriu frame\0\0"  # behind a frame at the far end of a stack


@record
class Home:
    """How one task gets home."""

    gate: int  # address of a system call instruction that is followed by a return
    restorer: int  # address of code that calls rt_sigreturn
    signal: int  # the one that ends a table
    at: int  # where the frame lies on the task's stack; 0: it has no place there
    make_frame: Callable[[int], bytes]  # the frame for rt_sigreturn, made for an address
    judge: Judge | None = None  # raises Unsupported for a call that would be the end of the task if we were killed


def find(
    arch: Arch,
    registers: Registers,
    mask: int,
    sets: dict[int, bytes],
    status: dict[str, str],
    mappings: list[procfs.Mapping],
    gadgets: tuple[int, int] | None,
    content: list[tuple[int, int]],
    read: Callable[[int, int], bytes],
    judge: Judge | None = None,
) -> Home | None:
    """The way home of a stopped thread, or None where it has none; then nothing must happen to us while it works.

    `registers` are those with which it goes on, making the call again that it may have been in; `status` is the
    thread's. Without `mappings` the frame goes into the scratch pages. `gadgets` are the addresses of
    gate and restorer, see `Gadgets`. `content` are the runs of pages that have content, in order: address and number.
    """
    taken = int(status["SigCgt"], 16) | int(status["SigPnd"], 16) | int(status["ShdPnd"], 16)
    quiet = [signal for signal in QUIET if not taken >> (signal - 1) & 1]
    if gadgets is None or not quiet:
        return None
    gate, restorer = gadgets

    def make_frame(at: int) -> bytes:
        return arch.sigframe(registers, mask, sets, restorer, at)

    def make_marked_frame(at: int) -> bytes:
        frame = make_frame(at)
        return frame + bytes(-(len(frame) + len(MARK)) % PAGE_SIZE) + MARK

    at = _place(registers[arch.sp], make_frame, mappings, content, read)
    far = at and not at < registers[arch.sp] < at + (1 << 20)
    return Home(gate, restorer, quiet[0], at, make_marked_frame if far else make_frame, judge)


def _place(
    stack_pointer: int,
    make_frame: Callable[[int], bytes],
    mappings: list[procfs.Mapping],
    content: list[tuple[int, int]],
    read: Callable[[int, int], bytes],
) -> int:
    """Where on the process's stack the frame fits, or 0.

    A thread on another stack, of whose end nobody knows, can have the far end of the process's, if no page of it has
    ever been used.
    """
    stack = next((mapping for mapping in mappings if mapping.name == "[stack]"), None)
    if stack is None:
        return 0
    size = len(make_frame(0))
    if stack.start < stack_pointer <= stack.end:
        at = (stack_pointer - _RED_ZONE - size) // _ALIGN * _ALIGN
        return at if stack.start <= at else 0
    return stack.start if _far_end_is_free(stack, -(-(size + len(MARK)) // PAGE_SIZE), content, read) else 0


def _far_end_is_free(
    stack: procfs.Mapping, pages: int, content: list[tuple[int, int]], read: Callable[[int, int], bytes]
) -> bool:
    """Whether `pages` pages at the low end of the stack, and one more, have never been used, or by nobody but us."""
    used = [
        (max(start, stack.start), start + number * PAGE_SIZE)
        for start, number in content
        if stack.start < start + number * PAGE_SIZE and start < stack.end
    ]
    end = stack.start + pages * PAGE_SIZE
    if end >= stack.end:
        return False
    if used and used[0][1] <= end:  # the frame of an earlier dump: deeper calls would have used the page above it first
        if read(end - len(MARK), len(MARK)) != MARK:
            return False
        del used[0]
    return not used or used[0][0] >= end + PAGE_SIZE


class Gadgets:
    """Where gate and restorer are in each mapped file, remembered: searching takes longer than a task may be stopped.

    Asked once before the freeze, it knows the answer during the freeze.
    """

    def __init__(self, arch: Arch) -> None:
        self._arch = arch
        self._known: dict[tuple[object, ...], tuple[int, int] | None] = {}

    def find(self, mappings: list[procfs.Mapping], read: Callable[[int, int], bytes]) -> tuple[int, int] | None:
        """Addresses of gate and restorer in a task whose memory `read` reads; None where no mapping has both."""
        for mapping in sorted(mappings, key=_unlikely):
            if mapping.perms[0] != "r" or mapping.perms[2] != "x" or mapping.name == "[vsyscall]":
                continue
            size = mapping.end - mapping.start
            key = (mapping.dev, mapping.inode, mapping.offset, size, mapping.name)
            if key not in self._known or (not mapping.inode and mapping.name != "[vdso]"):
                self._known[key] = find_gadgets(self._arch, read(mapping.start, size))
            if (found := self._known[key]) is not None:
                return mapping.start + found[0], mapping.start + found[1]
        return None


def _unlikely(mapping: procfs.Mapping) -> tuple[bool, bool, int]:
    """Sort key: the vDSO has both on some architectures, the dynamic loader on the others; then the smallest."""
    return mapping.name != "[vdso]", "/ld" not in mapping.name, mapping.end - mapping.start


def find_gadgets(arch: Arch, code: bytes) -> tuple[int, int] | None:
    """Offsets of gate and restorer in machine code; None where it lacks one of them."""
    gate = _find(code, arch.call_and_return, arch.syscall_align)
    restorers = [_find(code, pattern, arch.syscall_align) for pattern in arch.restorers]
    restorer = next((offset for offset in restorers if offset >= 0), -1)
    return None if gate < 0 or restorer < 0 else (gate, restorer)


def _find(code: bytes, pattern: bytes, align: int) -> int:
    at = code.find(pattern)
    while at >= 0 and at % align:
        at = code.find(pattern, at + 1)
    return at
