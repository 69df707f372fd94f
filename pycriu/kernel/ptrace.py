# SPDX-License-Identifier: GPL-2.0-only
"""ptrace(2): one small function per request, with the requests since PTRACE_SEIZE that python-ptrace does not carry.

Constants are from include/uapi/linux/ptrace.h and elf.h. Every function takes the tracee's tid first and raises
TraceeGone when there is no such tracee (ESRCH), KernelError otherwise.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import time
from _thread import _local

from pycriu.errors import KernelError, TraceeGone
from pycriu.kernel import names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

CONT, SINGLESTEP, DETACH, SYSCALL = 7, 9, 17, 24
SETOPTIONS, GETSIGINFO, GETREGSET, SETREGSET = 0x4200, 0x4202, 0x4204, 0x4205
SEIZE, INTERRUPT, LISTEN, PEEKSIGINFO, GETSIGMASK, SETSIGMASK = 0x4206, 0x4207, 0x4208, 0x4209, 0x420A, 0x420B
SECCOMP_GET_FILTER, SECCOMP_GET_METADATA = 0x420C, 0x420D
GET_RSEQ_CONFIGURATION, GET_SYSCALL_USER_DISPATCH_CONFIG = 0x420F, 0x4211

O_TRACESYSGOOD = 1
O_TRACEFORK, O_TRACECLONE, O_TRACEEXEC, O_EXITKILL = 1 << 1, 1 << 3, 1 << 4, 1 << 20
O_SUSPEND_SECCOMP = 1 << 21
EVENT_FORK, EVENT_CLONE, EVENT_EXEC, EVENT_STOP = 1, 3, 4, 128
PEEKSIGINFO_SHARED = 1
WALL = 0x40000000  # __WALL: wait for clone children too
WNOTHREAD = 0x20000000  # __WNOTHREAD: not for those of other threads of ours
_BETWEEN_LOOKS = 0.0002  # seconds

NT_PRSTATUS, NT_PRFPREG = 1, 2

_libc = ctypes.CDLL(None, use_errno=True)
_ptrace = _libc.ptrace
_ptrace.argtypes = [ctypes.c_long] * 4
_ptrace.restype = ctypes.c_long

_IOVEC = struct.Struct("QQ")
_REGSET_MAX = 32768  # the largest known regset: SME's ZA is 64 KiB + header, which nothing here asks for


class _Room(_local):
    """Tasks have several sets each, and stand still while these are read: the room for them is made once.

    In each thread of ours that traces: what one reads must not come to lie where another reads its own.
    """

    def __init__(self) -> None:
        self.regset, self.iov = ctypes.create_string_buffer(_REGSET_MAX), ctypes.create_string_buffer(_IOVEC.size)
        self.regset_at, self.iov_at = ctypes.addressof(self.regset), ctypes.addressof(self.iov)


_room = _Room()


def _request(name: str, request: int, tid: int, address: int = 0, data: int = 0) -> int:
    result: int = _ptrace(request, tid, address, data)
    if result == -1:
        error = ctypes.get_errno()
        if error == errno.ESRCH:
            raise TraceeGone(f"task {tid} is gone or no longer stopped ({name})")
        raise KernelError(f"ptrace {name}", error, f"task {tid}")
    return result


def seize(tid: int, options: int = 0) -> None:
    """PTRACE_SEIZE: attach without stopping."""
    _request("PTRACE_SEIZE", SEIZE, tid, 0, options)


def interrupt(tid: int) -> None:
    """PTRACE_INTERRUPT: ask for a stop, reported as EVENT_STOP."""
    _request("PTRACE_INTERRUPT", INTERRUPT, tid)


def set_options(tid: int, options: int) -> None:
    """PTRACE_SETOPTIONS."""
    _request("PTRACE_SETOPTIONS", SETOPTIONS, tid, 0, options)


def cont(tid: int, signal: int = 0) -> None:
    """PTRACE_CONT, delivering `signal`."""
    _request("PTRACE_CONT", CONT, tid, 0, signal)


def step(tid: int, signal: int = 0) -> None:
    """PTRACE_SINGLESTEP: one instruction, after delivering `signal`."""
    _request("PTRACE_SINGLESTEP", SINGLESTEP, tid, 0, signal)


SYSCALL_STOP = 5 | 0x80  # the signal that a stop at a system call shows under PTRACE_O_TRACESYSGOOD


def to_syscall(tid: int, signal: int = 0) -> None:
    """PTRACE_SYSCALL: up to the beginning or the end of the next system call, whichever comes first."""
    _request("PTRACE_SYSCALL", SYSCALL, tid, 0, signal)


def detach(tid: int, signal: int = 0) -> None:
    """PTRACE_DETACH, delivering `signal`."""
    _request("PTRACE_DETACH", DETACH, tid, 0, signal)


def get_regset(tid: int, note: int, size: int = _REGSET_MAX) -> bytes:
    """PTRACE_GETREGSET: the register set `note` (NT_*), as long as the kernel makes it, at most `size` bytes."""
    room = _room
    at, iov = room.regset_at, room.iov
    _IOVEC.pack_into(iov, 0, at, min(size, _REGSET_MAX))
    _request("PTRACE_GETREGSET", GETREGSET, tid, note, room.iov_at)
    return ctypes.string_at(at, _IOVEC.unpack_from(iov)[1])


def set_regset(tid: int, note: int, data: bytes) -> None:
    """PTRACE_SETREGSET: `data` into the register set `note`."""
    buffer = ctypes.create_string_buffer(data, len(data))
    iov = ctypes.create_string_buffer(_IOVEC.pack(ctypes.addressof(buffer), len(data)), _IOVEC.size)
    _request(f"PTRACE_SETREGSET {note:#x}", SETREGSET, tid, note, ctypes.addressof(iov))


def get_sigmask(tid: int) -> int:
    """PTRACE_GETSIGMASK (3.11): the mask the task will have in user mode; bit N-1 is signal N."""
    mask = ctypes.c_uint64(0)
    _request("PTRACE_GETSIGMASK", GETSIGMASK, tid, 8, ctypes.addressof(mask))
    return mask.value


def set_sigmask(tid: int, mask: int) -> None:
    """PTRACE_SETSIGMASK (3.11)."""
    value = ctypes.c_uint64(mask)
    _request("PTRACE_SETSIGMASK", SETSIGMASK, tid, 8, ctypes.addressof(value))


_PEEK_AT_ONCE = 32
_SIGINFO_SIZE = 128


def peek_siginfo(tid: int, *, shared: bool) -> tuple[bytes, ...]:
    """PTRACE_PEEKSIGINFO (3.10): every pending siginfo_t (128 bytes each) of the private or shared queue."""
    found: list[bytes] = []
    buffer = ctypes.create_string_buffer(_SIGINFO_SIZE * _PEEK_AT_ONCE)
    while True:
        ask = struct.pack("QIi", len(found), PEEKSIGINFO_SHARED if shared else 0, _PEEK_AT_ONCE)
        args = ctypes.create_string_buffer(ask, len(ask))
        got = _request("PTRACE_PEEKSIGINFO", PEEKSIGINFO, tid, ctypes.addressof(args), ctypes.addressof(buffer))
        raw = buffer.raw
        found += [raw[i * _SIGINFO_SIZE : (i + 1) * _SIGINFO_SIZE] for i in range(got)]
        if got < _PEEK_AT_ONCE:
            return tuple(found)


def get_rseq(tid: int) -> tuple[int, int, int] | None:
    """PTRACE_GET_RSEQ_CONFIGURATION (5.13): (address, size in bytes, signature), or None where none is registered.

    KernelError(EIO) on kernels that lack the request or were built without CONFIG_RSEQ.
    """
    buffer = ctypes.create_string_buffer(24)
    _request("PTRACE_GET_RSEQ_CONFIGURATION", GET_RSEQ_CONFIGURATION, tid, 24, ctypes.addressof(buffer))
    address, size, signature = struct.unpack("QII", buffer.raw[:16])
    return (address, size, signature) if address else None


def get_seccomp_filters(tid: int) -> tuple[tuple[bytes, int], ...]:
    """PTRACE_SECCOMP_GET_FILTER (4.4) and _METADATA (4.16): instructions and flags of every filter, the oldest first.

    KernelError(EACCES) without CAP_SYS_ADMIN or where we are under seccomp ourselves; EIO without
    CONFIG_CHECKPOINT_RESTORE.
    """
    found: list[tuple[bytes, int]] = []
    while True:
        index = len(found)
        try:
            count = _request("PTRACE_SECCOMP_GET_FILTER", SECCOMP_GET_FILTER, tid, index, 0)
        except KernelError as error:
            if error.errno == errno.ENOENT:
                return tuple(found)
            raise
        code = ctypes.create_string_buffer(8 * count)
        _request("PTRACE_SECCOMP_GET_FILTER", SECCOMP_GET_FILTER, tid, index, ctypes.addressof(code))
        ask = struct.pack("QQ", index, 0)
        metadata = ctypes.create_string_buffer(ask, len(ask))
        _request("PTRACE_SECCOMP_GET_METADATA", SECCOMP_GET_METADATA, tid, len(ask), ctypes.addressof(metadata))
        found.append((code.raw, struct.unpack("QQ", metadata.raw)[1]))


def get_user_dispatch(tid: int) -> bool:
    """PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG (6.4): whether it is on; False where the kernel cannot say."""
    buffer = ctypes.create_string_buffer(32)
    try:
        _request(
            "PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG", GET_SYSCALL_USER_DISPATCH_CONFIG, tid, 32,
            ctypes.addressof(buffer),
        )  # fmt: skip
    except KernelError as error:
        if error.errno not in (errno.EIO, errno.EINVAL):
            raise
        return False
    return buffer.raw[0] != 0


def wait(tid: int, others: Collection[int] = ()) -> int:
    """Wait for the next report of one tracee and return the raw wait status; TraceeGone when it ended instead.

    Where `tid` is the first thread of a process, `others` are those of that process that we trace, and that stand.
    """
    try:
        if others:
            _until_told(tid, others)
        _, status = os.waitpid(tid, WALL)
    except ChildProcessError:
        raise TraceeGone(f"task {tid} is gone") from None
    if not os.WIFSTOPPED(status):
        gone = TraceeGone(f"task {tid} ended while it was being worked on ({describe_exit(status)})")
        gone.wait_status = status
        raise gone
    return status


def _until_told(tid: int, others: Collection[int]) -> None:
    """Wait until a first thread has something to report.

    If its process is killed it has nothing as long as nobody has read how the others have ended, and that is for us.
    """
    peek = os.WEXITED | os.WSTOPPED | os.WNOWAIT | WALL
    while (found := os.waitid(os.P_ALL, 0, peek | WNOTHREAD)) is not None and found.si_pid != tid:
        if found.si_pid in others and _has_ended(found.si_pid):
            continue
        # A child of ours that has nothing to do with it, and that somebody else is to wait for.
        if os.waitid(os.P_PID, tid, peek | os.WNOHANG) is not None:
            return
        for one in others:
            _has_ended(one)
        time.sleep(_BETWEEN_LOOKS)


def _has_ended(tid: int) -> bool:
    """Whether a tracee has ended; how is read then."""
    try:
        return os.waitid(os.P_PID, tid, os.WEXITED | os.WNOHANG | WALL) is not None
    except ChildProcessError:
        return True  # it has been read already


def describe_exit(status: int) -> str:
    """A wait status in words."""
    if os.WIFSIGNALED(status):
        return f"killed by {names.signal(os.WTERMSIG(status))}"
    return f"exit status {os.WEXITSTATUS(status)}"
