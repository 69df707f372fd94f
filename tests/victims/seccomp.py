# SPDX-License-Identifier: GPL-2.0-only
"""seccomp filters: chains in their order, the log flag, who inherits what, threads that share them (TSYNC).

Missing: strict mode, filters with a listener, filters that kill a task for what a dump has it call (all refused).
"""

import ctypes
import errno
import os
import platform
import struct
import threading
from collections.abc import Iterator

import victim

X86 = platform.machine() == "x86_64"
SECCOMP, GETPPID, GETPGID, GETSID, GETTID = (317, 110, 121, 124, 186) if X86 else (277, 173, 155, 156, 178)
TSYNC, LOG = 1, 2
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
libc = ctypes.CDLL(None, use_errno=True)


def install(number: int, error: int, flags: int = 0) -> int:
    """A filter that answers one system call with an errno."""
    code = b"".join(
        struct.pack("<HBBI", *one)
        for one in ((0x20, 0, 0, 0), (0x15, 0, 1, number), (6, 0, 0, ERRNO | error), (6, 0, 0, ALLOW))
    )
    buffer = ctypes.create_string_buffer(code, len(code))
    program = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", 4, ctypes.addressof(buffer)), 16)
    result: int = libc.syscall(SECCOMP, 1, flags, program)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"seccomp: {os.strerror(ctypes.get_errno())}")
    return result


def answer(number: int) -> int:
    """The errno with which a call is answered, 0 if none."""
    ctypes.set_errno(0)
    return ctypes.get_errno() if libc.syscall(number, 0) < 0 else 0


def seen() -> tuple[object, ...]:
    tid = libc.syscall(GETTID)
    lines = victim.status_lines("Seccomp", "Seccomp_filters", "NoNewPrivs", pid=f"self/task/{tid}")
    return lines, [answer(number) for number in (GETPPID, GETPGID, GETSID)]


def scenario() -> Iterator[victim.Damage]:
    hold, release = os.pipe()
    ready, tell = os.pipe()
    libc.prctl(38, 1, 0, 0, 0)
    # Of several filters that answer with an errno the newest counts.
    install(GETPPID, errno.EDOM)
    install(GETPPID, errno.EXDEV, LOG)

    def live() -> None:
        os.close(release)
        install(GETPGID, errno.EMLINK)
        before = seen()
        victim.equal(before[1], [errno.EXDEV, errno.EMLINK, 0], "what the child's filters answer")
        os.write(tell, b"x")
        os.read(hold, 1)
        victim.equal(seen(), before, "the child's filters")

    child = victim.child(live)
    found: list[tuple[object, ...]] = []

    def run() -> None:
        install(GETSID, errno.ENOTTY)
        found.append(seen())
        os.write(tell, b"x")
        go.wait()
        found.append(seen())

    go = threading.Event()
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    os.close(hold)
    for _ in range(2):
        os.read(ready, 1)
    before = seen()
    yield lambda: install(GETPGID, errno.ENOSPC)
    victim.equal(seen(), before, "the filters of the first thread")
    go.set()
    thread.join(20)
    # Its filters count until the kernel has seen the end of it, too.
    victim.wait_until(lambda: len(os.listdir("/proc/self/task")) == 1, "the end of the second thread")
    victim.equal(found[1:], found[:1], "the filters of the second thread")
    # Only if the threads have the same filters, not just equal ones, can one of them give another to all.
    other = threading.Event()
    third = threading.Thread(target=other.wait, daemon=True)
    third.start()
    victim.equal(install(GETSID, errno.ECHILD, TSYNC), 0, "a filter for all threads: the thread that cannot have it")
    other.set()
    os.close(release)
    victim.join(child, "the child")


victim.play(scenario)
