# SPDX-License-Identifier: GPL-2.0-only
"""seccomp(2): the filters of each thread, in order, who shares them, and whether they are logged.

While a task works for us its filters are suspended (PTRACE_O_SUSPEND_SECCOMP, which needs CAP_SYS_ADMIN and that we are
under no filter ourselves). The suspension ends with us: should we be killed, the task runs on under its filters, in the
middle of calls that it makes for us. So every call is held against the filters first. One that they would answer with
an errno does no harm, since a table of calls ends at the first error and the task goes home. A task that they would
kill is refused. Strict mode kills for all but four calls, so it is refused always, but restored from CRIU's images.

At a restore filters are installed, suspended, before the credentials that allow it are dropped. Filters that all
threads of a process have in common become one for all (SECCOMP_FILTER_FLAG_TSYNC), as they were.

Not kept: filters with a listener (SECCOMP_RET_USER_NOTIF), which are refused.
"""

from __future__ import annotations

import struct

from pycriu.errors import ImageError, KernelError, Unsupported, UserError
from pycriu.images import messages as m
from pycriu.kernel import bpf, procfs, ptrace
from pycriu.record import record
from pycriu.tracing.tracee import Remote, Row, Tracee

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

DISABLED, STRICT, FILTER = 0, 1, 2  # /proc/PID/status and seccomp_mode
PR_SET_SECCOMP, SECCOMP_MODE_STRICT = 22, 1
SECCOMP_SET_MODE_FILTER = 1
FLAG_TSYNC, FLAG_LOG, FLAG_SPEC_ALLOW = 1, 2, 4
AUDIT_ARCH_64BIT_LE = 0xC0000000
_FPROG = struct.Struct("<H6xQ")  # struct sock_fprog
_MAX_FILTERS = 1 << 16
_MAX_PATH = 1 << 15  # MAX_INSNS_PER_PATH, kernel/seccomp.c
_HARMLESS = (bpf.RET_ERRNO, bpf.RET_TRACE, bpf.RET_LOG, bpf.RET_ALLOW)  # tracing without a tracer is ENOSYS
_ALLOWED = (bpf.RET_LOG, bpf.RET_ALLOW)

Filter = tuple[bytes, int]  # instructions, flags
Chain = tuple[Filter, ...]
"""The filters of a thread, the oldest first."""


@record
class Seccomp:
    """What a thread has."""

    mode: int
    chain: Chain


def refuse(tid: int, status: dict[str, str]) -> None:
    """What can be refused of a thread that runs: strict mode, and filters where we could not suspend them."""
    mode = int(status.get("Seccomp", "0"))
    if mode == STRICT:
        raise Unsupported(
            f"task {tid} is under strict seccomp, which cannot be saved: it would be killed for the calls that it has "
            "to make for a dump, should pycriu be killed meanwhile",
            "a filter (SECCOMP_SET_MODE_FILTER) that allows the same and answers the rest with an errno can be saved",
        )
    if mode and _own_mode():
        raise Unsupported(
            f"task {tid} has seccomp filters, which cannot be read by a pycriu that is under seccomp itself",
            "run pycriu outside of the container or service that restricts it",
        )


def _own_mode() -> int:
    return int(procfs.parse_status(procfs.text("self", "status")).get("Seccomp", "0"))


def look_thread(tid: int, status: dict[str, str]) -> Seccomp:
    """The filters of a stopped thread, which are suspended from now on until we let go of it."""
    refuse(tid, status)
    mode = int(status.get("Seccomp", "0"))
    if not mode:
        return Seccomp(DISABLED, ())
    try:
        ptrace.set_options(tid, ptrace.O_TRACESYSGOOD | ptrace.O_SUSPEND_SECCOMP)
        chain = ptrace.get_seccomp_filters(tid)
    except KernelError as error:
        error.hint = "reading and suspending filters needs CAP_SYS_ADMIN and CONFIG_CHECKPOINT_RESTORE"
        raise
    if any(bpf.RET_USER_NOTIF in bpf.Program(code).returns() for code, _ in chain):
        raise Unsupported(
            f"task {tid} has a seccomp filter that asks another process about calls (SECCOMP_RET_USER_NOTIF), which "
            "cannot be saved"
        )
    return Seccomp(mode, chain)


class Judge:
    """Holds the calls that a task is to make against its filters."""

    def __init__(self, task: Tracee, chain: Chain) -> None:
        self._task = task
        self._programs = [bpf.Program(code, f"a seccomp filter of task {task.tid}") for code, _ in chain]
        self._known: dict[str, int] = {}

    def __call__(self, name: str, args: tuple[int, ...], address: int) -> None:
        """Unsupported where the call `name`, made at `address`, would be the end of the task."""
        action = self._verdict(name, args, address)
        if action in (_ALLOWED if name == "rt_sigreturn" else _HARMLESS):
            return
        raise Unsupported(
            f"task {self._task.tid} has a seccomp filter that forbids {name}, which it has to call for a dump: should "
            "pycriu be killed meanwhile, the task would be, too",
            f"let the filter allow {name}, or answer it with an errno (SECCOMP_RET_ERRNO)",
        )

    def _verdict(self, name: str, args: tuple[int, ...], address: int) -> int:
        if name in self._known:
            return self._known[name]
        arch = self._task.arch
        words = [word & (1 << 64) - 1 for word in (*args, *(0,) * (6 - len(args)))]
        number, audit = arch.syscall_number(name), AUDIT_ARCH_64BIT_LE | arch.elf_machine
        data = bpf.DATA.pack(number, audit, address, *words)
        actions, same_for_all = [bpf.RET_ALLOW], True
        for program in self._programs:
            action, looked = program.run(data)
            actions.append(action & bpf.ACTION_FULL)
            same_for_all &= not looked
        # The kernel takes the smallest, as a signed number: killing the process before anything else.
        action = min(actions, key=lambda value: value - (1 << 32) if value >> 31 else value)
        if same_for_all:
            self._known[name] = action
        return action


def judge(task: Tracee, seccomp: Seccomp) -> Callable[[str, tuple[int, ...], int], None] | None:
    """Who holds the calls of a task against its filters; None where it has none."""
    return Judge(task, seccomp.chain) if seccomp.chain else None


class Filters:
    """The seccomp image in the making: every filter once for each chain of filters that it begins.

    CRIU installs filters in the order of the image: the one that a task names, then its `prev`, and so on. So a task
    names its oldest, and `prev` leads to the next younger one.
    """

    def __init__(self) -> None:
        self.entries: list[Any] = []
        self._known: dict[Chain, int] = {}

    def put(self, thread: Any, seccomp: Seccomp) -> None:
        """Into the thread_core_entry `thread` what `seccomp` says."""
        if not seccomp.mode:
            return
        thread.seccomp_mode = seccomp.mode
        if seccomp.chain:
            thread.seccomp_filter = self._of(seccomp.chain)

    def _of(self, chain: Chain) -> int:
        for start in range(len(chain) - 1, -1, -1):
            part = chain[start:]
            if part in self._known:
                continue
            code, flags = part[0]
            entry = m.seccomp_filter(filter=code, flags=flags)
            if len(part) > 1:
                entry.prev = self._known[part[1:]]
            self._known[part] = len(self.entries)
            self.entries.append(entry)
        return self._known[chain]

    def image(self) -> Any:
        """seccomp_entry."""
        return m.seccomp_entry(seccomp_filters=self.entries)


# ---------------------------------------------------------------------------------------------------------- restore


def read(thread: Any, entries: Any, label: str) -> Seccomp:
    """What a thread_core_entry says, with the filters of the seccomp image; ImageError for what no task can have."""
    mode = int(thread.seccomp_mode) if thread.HasField("seccomp_mode") else DISABLED
    if mode not in (DISABLED, STRICT, FILTER) or len(entries) > _MAX_FILTERS:
        raise ImageError(f"{label}: seccomp mode {mode} with {len(entries)} filters")
    if mode != FILTER:
        return Seccomp(mode, ())
    chain: list[Filter] = []
    index, before, size = thread.seccomp_filter, len(entries), 0
    while True:
        if index >= before:  # a filter comes after the one that it follows, so there can be no loop
            raise ImageError(f"{label}: seccomp filter {index} is out of bounds or out of order")
        entry = entries[index]
        bpf.Program(entry.filter, f"{label}: seccomp filter {index}")
        size += len(entry.filter) // bpf.INSTRUCTION.size + 4
        if size > _MAX_PATH:
            raise ImageError(f"{label}: its seccomp filters have more instructions than a task may have")
        chain.append((bytes(entry.filter), entry.flags & FLAG_LOG))
        if not entry.HasField("prev"):
            return Seccomp(FILTER, tuple(chain))
        index, before = entry.prev, index


def check(all_of_them: list[Seccomp]) -> None:
    """UserError where filters would have to be suspended by us, who may not."""
    if any(one.mode for one in all_of_them) and _own_mode():
        raise UserError(
            "the tasks have seccomp filters, which a pycriu that is under seccomp itself cannot restore",
            "run pycriu outside of the container or service that restricts it",
        )


def common(chains: list[Chain]) -> Chain:
    """What the chains of all threads of a process begin with."""
    shared: list[Filter] = []
    for filters in zip(*chains, strict=False):
        if any(one != filters[0] for one in filters):
            break
        shared.append(filters[0])
    return tuple(shared)


def install(remote: Remote, chain: Chain, *, for_all: bool = False) -> None:
    """Let a task install filters, of its own or for all threads of its process. The data of `remote` is forgotten."""
    for code, flags in chain:
        remote.reset()
        program = remote.data(_FPROG.pack(len(code) // bpf.INSTRUCTION.size, remote.data(code)))
        # What the filter did to speculation is kept by itself, see prctl.
        flags |= FLAG_SPEC_ALLOW | (FLAG_TSYNC if for_all else 0)
        result = remote.call("seccomp", SECCOMP_SET_MODE_FILTER, flags, program, what="a seccomp filter")
        if result:
            raise ImageError(f"thread {result} has other seccomp filters than its process")
    remote.reset()


def install_shared(remote: Remote, tasks: list[Tracee], threads: list[Seccomp]) -> int:
    """Let the first of `tasks`, the threads of a process, install what all have in common; the number of filters.

    From here on filters are suspended until release.
    """
    if any(one.mode for one in threads):
        for task in tasks:
            ptrace.set_options(task.tid, ptrace.O_EXITKILL | ptrace.O_SUSPEND_SECCOMP)
    shared = common([one.chain for one in threads])
    install(remote, shared, for_all=len(tasks) > 1)
    return len(shared)


def strict_rows(seccomp: Seccomp) -> list[Row]:
    """Strict mode, last of all calls."""
    return [Row("prctl", PR_SET_SECCOMP, SECCOMP_MODE_STRICT)] if seccomp.mode == STRICT else []
