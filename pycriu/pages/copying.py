# SPDX-License-Identifier: GPL-2.0-only
"""Pages of a stopped task or of shared memory into a file, as fast as the machine copies: most of a large task's pause.

Pieces go through a buffer that fits the CPU's cache, so that reading and writing cost one trip to memory each. Large
tasks are copied by two threads, half each: both process_vm_readv(2) and pwrite(2) let go of the interpreter's lock.
"""

from __future__ import annotations

import _thread
import ctypes
import mmap
import os

from pycriu.errors import KernelError, Unsupported
from pycriu.kernel import libc
from pycriu.kernel.pagemap import PAGE_SIZE, Run
from pycriu.record import record
from pycriu.tracing.tracee import Tracee

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    Read = Callable[
        [memoryview, int, "Batch"], bool
    ]  # a buffer, its address, what to read into it; whether that worked

# The page cache takes aligned 256 KiB writes several times faster than 1 MiB ones: larger ones become larger folios,
# whose copy leaves the CPU's caches (seen on ext4, Linux 6.18, AMD: 512 MiB in 0.09 s against 1.2 s).
AT_ONCE = 1 << 18
_WRITE_BACK_AT_ONCE = 1 << 24
_IOV_MAX = 1024
_WORTH_A_THREAD = 1 << 25  # bytes; starting one takes as long as copying some 100 KiB


@record
class Batch:
    """What one system call reads: (address, length in bytes) of each piece, their sum, and its place in the file."""

    pieces: tuple[tuple[int, int], ...]
    size: int
    offset: int


class Buffer:
    """Room for one batch: a view of it, and its address."""

    def __init__(self) -> None:
        self._area = mmap.mmap(-1, AT_ONCE)
        self.view = memoryview(self._area)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._area))


def copy(task: Tracee, runs: list[Run], out: int, *, write_back: bool) -> None:
    """Write the content of `runs` to the file `out`, in order, from its beginning. The task must be stopped.

    `write_back` lets the disk begin with what is there while the rest is copied, which costs the task a longer stop.
    Unsupported where pages cannot be read; OSError where the file cannot be written.
    """

    def read(_buffer: memoryview, address: int, batch: Batch) -> bool:
        return gather(task.tid, address, batch)

    for batch in _copy(read, runs, out, write_back=write_back):
        write_all(out, memoryview(as_debugger(task, batch)), batch.offset)


def copy_file(fd: int, runs: list[Run], out: int, *, write_back: bool = False) -> None:
    """The same for `runs` of pages of an open file; what lies behind its end, in its last page, is zero."""

    def read(buffer: memoryview, _address: int, batch: Batch) -> bool:
        read_file(fd, buffer, batch)
        return True

    _copy(read, runs, out, write_back=write_back)


def _copy(read: Read, runs: list[Run], out: int, *, write_back: bool) -> list[Batch]:
    """Copy what `read` can read; what it cannot is returned."""

    def work(some: list[Batch], given_up: Sequence[bool]) -> list[Batch]:
        return _copy_batches(read, some, out, write_back=write_back, given_up=given_up)

    return in_halves(work, batches(runs))


def in_halves(work: Callable[[list[Batch], Sequence[bool]], list[Any]], all_batches: list[Batch]) -> list[Any]:
    """What `work` makes of the first half and, in another thread, of the second; of all at once where that is little.

    It is given a list beside its batches: once something is in it, the other half has failed, and nobody need go on.
    """
    total = all_batches[-1].offset + all_batches[-1].size if all_batches else 0
    if total < _WORTH_A_THREAD or (os.cpu_count() or 1) < 2:
        return work(all_batches, ())
    middle = len(all_batches) // 2
    left: list[Any] = []
    failed: list[BaseException] = []
    given_up: list[bool] = []
    done = _thread.allocate_lock()

    def second_half() -> None:
        try:
            left.extend(work(all_batches[middle:], given_up))
        except BaseException as error:
            failed.append(error)  # raised again below, by the thread that can
        finally:
            done.release()

    done.acquire()
    try:
        _thread.start_new_thread(second_half, ())
    except RuntimeError:  # no more threads for this user, or in this control group
        return work(all_batches, ())
    try:
        first = work(all_batches[:middle], ())
    except BaseException:
        given_up.append(True)
        raise
    finally:
        done.acquire()  # nobody may go on before both are done with the file and the task
    if failed:
        raise failed[0]
    return first + left


def _copy_batches(
    read: Read, some: list[Batch], out: int, *, write_back: bool, given_up: Sequence[bool]
) -> list[Batch]:
    buffer = Buffer()
    left: list[Batch] = []
    written = some[0].offset if some else 0
    for batch in some:
        if given_up:  # by the other thread: the tasks wait
            break
        if not read(buffer.view[: batch.size], buffer.address, batch):
            left.append(batch)
            continue
        write_all(out, buffer.view[: batch.size], batch.offset)
        if write_back and batch.offset + batch.size - written >= _WRITE_BACK_AT_ONCE:
            libc.start_writeback(out, written, batch.offset + batch.size - written)
            written = batch.offset + batch.size
    return left


def gather(pid: int, address: int, batch: Batch) -> bool:
    """Read a batch of a task's memory to `address`; False where not all of it can be read so."""
    iov = (libc.Iovec * len(batch.pieces))(*(libc.Iovec(*piece) for piece in batch.pieces))
    try:
        return libc.process_vm_readv(pid, address, iov, len(batch.pieces), batch.size) == batch.size
    except KernelError:
        return False


def as_debugger(task: Tracee, batch: Batch) -> bytearray:
    """A batch of which some can only be read the debugger's way, through /proc/PID/mem: PROT_NONE, write-only pages."""
    data = bytearray()
    for address, size in batch.pieces:
        try:
            data += task.read(address, size)
        except OSError as error:
            raise Unsupported(
                f"process {task.tid}: pages at {address:x}-{address + size:x} cannot be read: {error.strerror}",
                "they are guard pages (MADV_GUARD_INSTALL), which cannot be saved, or on broken hardware",
            ) from None
    return data


def read_file(fd: int, view: memoryview, batch: Batch) -> None:
    """A batch of an open file; what lies behind its end, in its last page, is zero."""
    for offset, size in batch.pieces:
        piece, view = view[:size], view[size:]
        got = os.preadv(fd, [piece], offset)
        if got < size:
            piece[got:] = bytes(size - got)


def batches(runs: list[Run]) -> list[Batch]:
    """`runs` in batches that fit the buffer and one iovec array."""
    found: list[Batch] = []
    pieces: list[tuple[int, int]] = []
    size = offset = 0
    for start, pages in runs:
        left = pages * PAGE_SIZE
        while left:
            take = min(left, AT_ONCE - size)
            pieces.append((start, take))
            start, left, size = start + take, left - take, size + take
            if size == AT_ONCE or len(pieces) == _IOV_MAX:
                found.append(Batch(tuple(pieces), size, offset))
                offset, pieces, size = offset + size, [], 0
    if pieces:
        found.append(Batch(tuple(pieces), size, offset))
    return found


def write_all(out: int, view: memoryview, offset: int) -> int:
    """All of `view` at `offset` of a file; the offset behind it."""
    while view:
        count = os.pwrite(out, view, offset)
        view, offset = view[count:], offset + count
    return offset
