# SPDX-License-Identifier: GPL-2.0-only
"""System calls on ourselves that Python's os module lacks, under their man-page names.

Each raises KernelError with the call's name, the errno and the object; none retries or interprets.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import ctypes
import errno
import os

from pycriu.errors import KernelError, Unsupported
from pycriu.kernel import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

CLONE_PARENT = 0x8000
KCMP_FILE, KCMP_VM, KCMP_FILES, KCMP_FS, KCMP_SIGHAND = range(5)
KCMP_EPOLL_TFD = 7
_FIONREAD = 0x541B
_SIGKILL = 9
_FAULTS = {4, 5, 6, 7, 8, 11, 31}  # SIGILL, TRAP, ABRT, BUS, FPE, SEGV, SYS

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.argtypes = [ctypes.c_long] * 7
_syscall.restype = ctypes.c_long

# os.uname() costs a system call; every architecture but this one uses the generic numbering.
_NUMBERING = "x86_64" if os.uname().machine == "x86_64" else "generic"


def call(name: str, *args: int, what: str = "") -> int:
    """Make the system call `name`; a result in the error range raises KernelError, with `what` naming the object."""
    padded = args + (0,) * (6 - len(args))
    result: int = _syscall(syscalls.number(name, _NUMBERING), *padded)
    if result == -1:
        raise KernelError(name, ctypes.get_errno(), what)
    return result


def kcmp(pid1: int, pid2: int, kind: int, fd1: int = 0, fd2: int = 0) -> int:
    """kcmp(2): 0 equal, 1 less, 2 greater, 3 unordered."""
    return call("kcmp", pid1, pid2, kind, fd1, fd2, what=f"{pid1}, {pid2}")


def kcmp_epoll(pid1: int, fd1: int, pid2: int, epoll: int, watched: int, which: int) -> int:
    """kcmp(2), KCMP_EPOLL_TFD (Linux 4.13): descriptor `fd1` against a file that descriptor `epoll` watches.

    It is the one registered as descriptor `watched`, and among those of the same number the `which`th.
    """
    slot = (ctypes.c_uint32 * 3)(epoll, watched, which)
    what = f"descriptor {watched} of epoll descriptor {epoll} of process {pid2}"
    return call("kcmp", pid1, pid2, KCMP_EPOLL_TFD, fd1, ctypes.addressof(slot), what=what)


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """pidfd_getfd(2): our own duplicate of descriptor `fd` of the task behind `pidfd`."""
    return call("pidfd_getfd", pidfd, fd, 0, what=f"fd {fd}")


def fetch(pid: int, theirs: Iterable[int]) -> tuple[int, ...]:
    """Descriptors of another process as ours (pidfd_getfd(2), Linux 5.6), in their order: the same open files."""
    pidfd = os.pidfd_open(pid)
    try:
        return tuple(pidfd_getfd(pidfd, fd) for fd in theirs)
    finally:
        os.close(pidfd)


def get_robust_list(tid: int) -> tuple[int, int]:
    """get_robust_list(2) of another task: address of the list head (0: none) and its length in bytes."""
    head, length = ctypes.c_uint64(0), ctypes.c_uint64(0)
    call("get_robust_list", tid, ctypes.addressof(head), ctypes.addressof(length), what=f"task {tid}")
    return head.value, length.value


class Iovec(ctypes.Structure):
    """struct iovec: an address and a length in bytes."""

    _fields_ = (("base", ctypes.c_uint64), ("length", ctypes.c_uint64))


def process_vm_readv(pid: int, buffer: int, remote: ctypes.Array[Iovec], count: int, length: int) -> int:
    """process_vm_readv(2): gather `count` remote ranges, `length` bytes in all, to our address `buffer`; bytes read."""
    local = Iovec(buffer, length)
    return call("process_vm_readv", pid, ctypes.addressof(local), 1, ctypes.addressof(remote), count, 0, what=f"{pid}")


class _CloneArgs(ctypes.Structure):
    """struct clone_args, version 1 (set_tid), from linux/sched.h."""

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            "flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls",
            "set_tid", "set_tid_size",
        )
    )  # fmt: skip


def clone_args(*, flags: int, exit_signal: int, set_tid_address: int) -> bytes:
    """struct clone_args as bytes, with one PID to set; `set_tid_address` is where that pid_t lies."""
    return bytes(_CloneArgs(flags=flags, exit_signal=exit_signal, set_tid=set_tid_address, set_tid_size=1))


def clone3_set_tid(pid: int, *, flags: int, exit_signal: int) -> int:
    """clone3(2) without CLONE_VM, asking for `pid` (Linux 5.5): 0 in the child, which is a fork of this interpreter.

    The child may only make system calls and os._exit: no handler of os.register_at_fork need have run in it.
    """
    if len(os.listdir("/proc/self/task")) == 1:
        return _clone3(pid, flags, exit_signal)
    if flags & CLONE_PARENT:
        raise Unsupported(
            "a sibling cannot be made by a program with threads",
            "restore from a process without any, such as the command",
        )
    return _by_a_child(pid, flags)


def fork_deaf() -> int:
    """fork(2) for a child that undoes or finishes something: no signal but SIGKILL and its own faults keeps it from it.

    What comes at that moment to all of a group, such as Ctrl-C, would else run our handlers in the child, which would
    leave by the exception and undo what is ours.
    """
    mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals() - _FAULTS)
    try:
        child = os.fork()
    except BaseException:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
        raise
    if child:
        try:
            _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
        except BaseException:  # what has come meanwhile: the child has begun nothing yet
            os.kill(child, _SIGKILL)
            os.waitpid(child, 0)
            raise
    return child


def _by_a_child(pid: int, flags: int) -> int:
    """In a program with threads: the process is made by a child of ours without any, and is our child all the same.

    A fork that Python does not know of waits for ever where another thread had the interpreter's lock, or wanted it.
    """
    between = os.fork()
    if not between:
        made, failed = -1, errno.EINTR
        try:
            made = _clone3(pid, flags | CLONE_PARENT, exit_signal=0)  # it has the one of its maker: SIGCHLD
            failed = 0
        except KernelError as error:
            failed = error.errno
        finally:
            if made:  # whatever comes up, a signal for one: what the caller would do now is not for two of us to do
                os._exit(failed)
        return 0
    status = os.waitstatus_to_exitcode(os.waitpid(between, 0)[1])
    if status:
        raise KernelError("clone3", status if status > 0 else errno.EINTR, f"PID {pid}")
    return pid


def _clone3(pid: int, flags: int, exit_signal: int) -> int:
    tid = ctypes.c_int(pid)
    args = ctypes.create_string_buffer(
        clone_args(flags=flags, exit_signal=exit_signal, set_tid_address=ctypes.addressof(tid))
    )
    return call("clone3", ctypes.addressof(args), ctypes.sizeof(_CloneArgs), what=f"PID {pid}")


def execveat(fd: int, argv0: bytes) -> None:
    """execveat(2) of the open file `fd` itself, with one argument and an empty environment; returns only by raising."""
    argv = (ctypes.c_char_p * 2)(argv0, None)
    envp = (ctypes.c_char_p * 1)(None)
    empty = ctypes.c_char_p(b"")
    path = ctypes.cast(empty, ctypes.c_void_p).value or 0
    at_empty_path = 0x1000
    call("execveat", fd, path, ctypes.addressof(argv), ctypes.addressof(envp), at_empty_path)


def poll(fd: int, events: int) -> int:
    """poll(2) without waiting: which of `events` there are, and POLLERR, POLLHUP, POLLNVAL, always told."""
    import select

    asked = select.poll()
    asked.register(fd, events)
    return next((found for _, found in asked.poll(0)), 0)


def unread(fd: int) -> int:
    """ioctl(2), FIONREAD: how many bytes wait to be read."""
    size = ctypes.c_int(0)
    call("ioctl", fd, _FIONREAD, ctypes.addressof(size), what="FIONREAD")
    return size.value


def start_writeback(fd: int, start: int, length: int) -> None:
    """sync_file_range(2): let the disk begin with `length` bytes (0: all) at `start`. A hint; fdatasync must follow."""
    begin_write = 2  # SYNC_FILE_RANGE_WRITE
    try:
        call("sync_file_range", fd, start, length, begin_write)
    except KernelError as error:
        if error.errno not in (errno.ESPIPE, errno.ENOSYS):  # not every file system has it, and nothing depends on it
            raise


def personality(persona: int) -> int:
    """personality(2): set it (0xffffffff only asks) and return what it was."""
    return call("personality", persona)
