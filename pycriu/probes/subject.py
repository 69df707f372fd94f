# SPDX-License-Identifier: GPL-2.0-only
"""What probes work on: a child that waits, traced and stopped; and calls that only a child may make."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Self

from pycriu.errors import KernelError
from pycriu.kernel import libc, ptrace

PR_SET_PDEATHSIG = 1
CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWNET = (
    0x20000, 0x2000000, 0x8000000, 0x10000000, 0x40000000,
)  # fmt: skip
_ABSENT = 254  # exit status of a child that has said why
_UNFORESEEN = 255


class Absent(Exception):
    """The kernel answered, but not as one that has the feature."""


class Subject:
    """A forked child in ptrace-stop, made on first use. A context manager: the child is gone when it ends."""

    def __init__(self) -> None:
        self._pid = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pid:
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, ptrace.WALL)

    @property
    def pid(self) -> int:
        """The child, seized and stopped; raises what ptrace said where that cannot be."""
        if not self._pid:
            self._pid = start(_wait_for_the_end)
            ptrace.seize(self._pid)
            ptrace.interrupt(self._pid)
            ptrace.wait(self._pid)
        return self._pid


def start(work: Callable[[], None], tell: int = -1) -> int:
    """Fork; the child does `work`, ends with the errno of what it raised or 0, and never outlives us.

    `tell` is a pipe for the words of `Absent`.
    """
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = 0
    try:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:  # else it has ended already
            work()
    except (OSError, KernelError) as error:
        code = error.errno or _UNFORESEEN
    except Absent as error:
        code = _ABSENT if tell >= 0 and os.write(tell, str(error).encode()) else _UNFORESEEN
    except BaseException as error:  # whatever it was must not run on in the child
        code = _UNFORESEEN
        if tell >= 0:
            os.write(tell, f"{type(error).__name__}: {error}".encode())
    os._exit(code)


def in_child(work: Callable[[], None], what: str) -> None:
    """Do `work` in a child; raises here what it raised there."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        _, status = os.waitpid(start(work, writer), 0)
        code = os.waitstatus_to_exitcode(status)
    finally:
        os.close(writer)
        said = os.read(reader, 4096).decode()
        os.close(reader)
    if code == _ABSENT:
        raise Absent(said)
    if code:
        why = f"{what}: the child ended with {code}{f' ({said})' if said else ''}"
        raise KernelError(what, code) if 0 < code < _ABSENT else Absent(why)


def apart(flags: int, work: Callable[[], None], what: str) -> None:
    """Do `work` in a child that has namespaces of its own, with which all that it makes goes; raises as `in_child`."""

    def separate() -> None:
        try:
            called("unshare", flags)
        except KernelError as error:
            raise Absent(str(error)) from None
        work()

    in_child(separate, what)


def prctl(option: int, *arguments: int) -> int:
    """prctl(2) on ourselves."""
    return libc.call("prctl", option, *arguments, what=str(option))


def called(name: str, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | ctypes.c_size_t | None) -> int:
    """A function of the C library that returns -1 and sets errno when it fails."""
    function = getattr(_library, name, None)
    if function is None:
        raise Absent(f"the C library has no {name}")
    result: int = function(*arguments)
    if result == -1:
        raise KernelError(name, ctypes.get_errno())
    return result


_library = ctypes.CDLL(None, use_errno=True)


def _wait_for_the_end() -> None:
    while True:
        signal.pause()
