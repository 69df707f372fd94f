# SPDX-License-Identifier: GPL-2.0-only
"""Processes that share by clone(2): descriptor table, directory and umask, signal handlers, memory; with parent or
sibling; and the signal that a process sends at its end.

Missing: sharing with others than parent, child and sibling
"""

import ctypes
import os
import signal
import time
from collections.abc import Iterator

import victim
from victim_code import Cloned

CLONE_VM, CLONE_FS, CLONE_FILES, CLONE_SIGHAND, CLONE_PARENT = 0x100, 0x200, 0x400, 0x800, 0x8000
WALL, WCLONE = 0x40000000, -0x80000000  # __WALL, __WCLONE
SIGCHLD = int(signal.SIGCHLD)
KCMP = 312 if os.uname().machine == "x86_64" else 272
PARTS = {"memory": 1, "descriptors": 2, "directory": 3, "handlers": 4}  # enum kcmp_type
ALL = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND
libc = ctypes.CDLL(None, use_errno=True)


def scenario() -> Iterator[victim.Damage]:
    os.mkdir("elsewhere")
    go, told = [os.pipe() for _ in range(8)], ctypes.create_string_buffer(16)
    pid = os.getpid()

    def wait_for(number: int, *rows: tuple[object, ...]) -> list[tuple[object, ...]]:
        """Wait for a byte, act, and end with `number` as exit status."""
        return [("read", go[number][0], told, 1), *rows, ("exit_group", number, 0)]

    spare = os.dup(0)
    handler = (ctypes.c_uint64 * 4)(1, 0, 0, 0)  # SIG_IGN
    shared = {
        "files": Cloned(CLONE_FILES | SIGCHLD, wait_for(1, ("close", spare))),
        "fs": Cloned(
            CLONE_FS | SIGCHLD, wait_for(2, ("chdir", ctypes.create_string_buffer(b"elsewhere")), ("umask", 0o31))
        ),
        "handlers": Cloned(
            CLONE_VM | CLONE_SIGHAND | SIGCHLD, wait_for(3, ("rt_sigaction", signal.SIGUSR2, handler, 0, 8))
        ),
        "memory": Cloned(CLONE_VM | SIGCHLD, wait_for(4, ("getppid",), ("setsid",), ("dup", 0))),
        "all": Cloned(ALL, wait_for(5, ("dup", 0))),  # ends without a signal
        "nothing": Cloned(signal.SIGUSR1, wait_for(6)),
    }
    heard: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, _: heard.append(number))
    family = siblings()
    before = relations([pid, *(one.pid for one in shared.values()), *family])
    for one in shared.values():
        victim.wait_until(lambda one=one: victim.sleeping(one.pid), f"{one.pid} in its call")  # type: ignore[misc]
    yield lambda: none(libc.unshare(CLONE_FS))
    victim.equal(relations([pid, *(one.pid for one in shared.values()), *family]), before, "who shares what")
    for number, one in enumerate(shared.values(), 1):
        os.write(go[number][1], b"x" * number)
        ended, status = os.waitpid(one.pid, 0 if number < 5 else WCLONE)
        victim.equal((ended, os.waitstatus_to_exitcode(status)), (one.pid, number), "how a child ended")
    victim.equal(os.path.basename(os.getcwd()), "elsewhere", "the directory that a child has chosen")
    victim.equal(os.umask(0), 0o31, "the umask that a child has set")
    victim.equal(actions(signal.SIGUSR2), 1, "the action that a child has set")
    victim.equal(shared["memory"].result(1), pid, "what a child said its parent was")
    victim.equal(shared["memory"].result(2), shared["memory"].pid, "what a child's setsid returned")
    fresh = shared["all"].result(1)
    victim.equal(fresh, spare, "the descriptor that one child has made, where another had closed one")
    victim.check(os.path.sameopenfile(fresh, 0), "a descriptor that a child has made")
    victim.equal(heard, [signal.SIGUSR1], "signals of ended children")


def cleanly() -> Iterator[victim.Damage]:
    """The scenario, after which no child is left, whatever has come of it."""
    try:
        yield from scenario()
    finally:
        with open(f"/proc/self/task/{os.getpid()}/children") as children:
            left = [int(pid) for pid in children.read().split()]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, WALL)


def none(_: object) -> None:
    """Forget a result."""


def actions(number: int) -> int:
    """The handler of a signal, as the kernel has it."""
    lines = victim.status_lines("SigIgn")
    return int(lines[0].split()[1], 16) >> (number - 1) & 1


def siblings() -> list[int]:
    """Two that share descriptors and directory with each other, not with us: one has made the other, with our name."""
    said, say = os.pipe()

    def elder() -> None:
        rows: list[tuple[object, ...]] = [("read", said, ctypes.create_string_buffer(8), 1), ("exit_group", 0)]
        younger = Cloned(CLONE_FILES | CLONE_FS | CLONE_PARENT, rows)
        os.write(say, b"%8d" % younger.pid)
        signal.pause()

    first = victim.child(elder)
    second = int(os.read(said, 8))
    victim.forget(first)
    time.sleep(0.05)
    return [first, second]


def relations(pids: list[int]) -> list[tuple[int, int, str]]:
    """Every pair that shares something, by kcmp(2)."""
    return [
        (one, other, name)
        for at, one in enumerate(pids)
        for other in pids[at + 1 :]
        for name, kind in PARTS.items()
        if libc.syscall(KCMP, one, other, kind, 0, 0) == 0
    ]


victim.play(cleanly)
