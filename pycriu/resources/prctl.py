# SPDX-License-Identifier: GPL-2.0-only
"""Settings of prctl(2) that CRIU's image has no fields for, and what mlockall(MCL_FUTURE) left behind.

Per thread: the time stamp counter, what to do about memory errors, speculation, the tagged address ABI, the length of
vectors. Of the address space: what protection may not gain, merging by KSM, locking of what will be mapped.
A setting that a fresh task has as well is not written down. What this kernel does not know is not asked: the same
question is put to ourselves first.

Refused: Syscall User Dispatch. Not kept: PR_SET_PTRACER (Yama), which cannot be read.
"""

from __future__ import annotations

import ctypes
import os

from pycriu.errors import KernelError, Unsupported
from pycriu.images.own import Numbers
from pycriu.kernel import libc, procfs, ptrace
from pycriu.record import record
from pycriu.tracing.tracee import Remote, Row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


@record
class Setting:
    """One setting that has a getter which returns it."""

    name: str
    getter: tuple[int, ...]  # arguments of prctl
    setter: tuple[int, ...]
    after: tuple[int, ...] = ()  # arguments of the setter behind the value
    keep: int = -1  # the bits of the value that the setter takes
    room: bool = False  # the getter writes the value to an address that is its last argument
    process: bool = False  # of the address space, not of the thread


# include/uapi/linux/prctl.h
PR_GET_TSC, PR_SET_TSC = 25, 26
PR_MCE_KILL, PR_MCE_KILL_GET, PR_MCE_KILL_SET, PR_MCE_KILL_DEFAULT = 33, 34, 1, 2
PR_SVE_SET_VL, PR_SVE_GET_VL, PR_SME_SET_VL, PR_SME_GET_VL = 50, 51, 63, 64
PR_GET_SPECULATION_CTRL, PR_SET_SPECULATION_CTRL, PR_SPEC_PRCTL, PR_SPEC_ENABLE, PR_SPEC_DISABLE = 52, 53, 1, 2, 4
PR_SET_TAGGED_ADDR_CTRL, PR_GET_TAGGED_ADDR_CTRL = 55, 56
PR_SET_IO_FLUSHER = 57
PR_SET_MDWE, PR_GET_MDWE = 65, 66
PR_SET_MEMORY_MERGE, PR_GET_MEMORY_MERGE = 67, 68
_VL_AND_INHERIT = 0xFFFF | 1 << 17
_SPECULATION = 0b11110

SETTINGS = (
    Setting("tsc", (PR_GET_TSC,), (PR_SET_TSC,), room=True),
    Setting("mce_kill", (PR_MCE_KILL_GET, 0, 0, 0, 0), (PR_MCE_KILL, PR_MCE_KILL_SET), (0, 0)),
    Setting("store_bypass", (PR_GET_SPECULATION_CTRL, 0), (PR_SET_SPECULATION_CTRL, 0), keep=_SPECULATION),
    Setting("indirect_branch", (PR_GET_SPECULATION_CTRL, 1), (PR_SET_SPECULATION_CTRL, 1), keep=_SPECULATION),
    Setting("l1d_flush", (PR_GET_SPECULATION_CTRL, 2), (PR_SET_SPECULATION_CTRL, 2), keep=_SPECULATION),
    Setting("tagged_addresses", (PR_GET_TAGGED_ADDR_CTRL,), (PR_SET_TAGGED_ADDR_CTRL,)),
    Setting("sve_length", (PR_SVE_GET_VL,), (PR_SVE_SET_VL,), keep=_VL_AND_INHERIT),
    Setting("sme_length", (PR_SME_GET_VL,), (PR_SME_SET_VL,), keep=_VL_AND_INHERIT),
    Setting("no_exec_gain", (PR_GET_MDWE,), (PR_SET_MDWE,), process=True),
    Setting("memory_merge", (PR_GET_MEMORY_MERGE,), (PR_SET_MEMORY_MERGE,), process=True),
)
LOCK_FUTURE, IO_FLUSHER = "lock_future", "io_flusher"

# /proc/PID/stat, flags: PF_MEMALLOC_NOIO and PF_LOCAL_THROTTLE, which PR_SET_IO_FLUSHER sets together. Its getter wants
# CAP_SYS_RESOURCE.
_PF_IO_FLUSHER = 0x0008_0000 | 0x0010_0000
MCL_FUTURE, MCL_ONFAULT = 2, 4


def own(setting: Setting) -> int | None:
    """Our own value; None where this kernel or CPU has no such setting."""
    value = ctypes.c_uint32(0)
    try:
        result = libc.call("prctl", *setting.getter, *([ctypes.addressof(value)] if setting.room else []))
    except KernelError:
        return None
    return value.value if setting.room else result


def fresh(setting: Setting) -> int | None:
    """The value that a task has of which nothing else was asked; None where that depends on the machine."""
    return _FRESH.get(setting.name)


_FRESH = {
    "tsc": 1,
    "mce_kill": PR_MCE_KILL_DEFAULT,
    "store_bypass": PR_SPEC_ENABLE,
    "indirect_branch": PR_SPEC_ENABLE,
    "l1d_flush": PR_SPEC_DISABLE,
    "tagged_addresses": 0,
    "no_exec_gain": 0,
    "memory_merge": 0,
}


def _is_set(setting: Setting, value: int, mine: int) -> bool:
    """Whether a value, as the getter gave it, says more than that the task is like any other."""
    usual = fresh(setting)
    if usual is None:
        return value != mine
    if setting.keep == _SPECULATION and not value & PR_SPEC_PRCTL:
        return False  # it is not for the task to choose
    return value & setting.keep != usual


def ask_thread(remote: Remote) -> tuple[list[Row], Callable[[list[int]], dict[str, Numbers]]]:
    """The getters of what a thread has."""
    return _ask(remote, [setting for setting in SETTINGS if not setting.process])


def ask(remote: Remote) -> tuple[list[Row], Callable[[list[int]], dict[str, Numbers]]]:
    """The getters of what an address space has."""
    return _ask(remote, [setting for setting in SETTINGS if setting.process])


_OWN: dict[str, int | None] = {}


def _ask(remote: Remote, settings: list[Setting]) -> tuple[list[Row], Callable[[list[int]], dict[str, Numbers]]]:
    mine = []
    for setting in settings:
        if setting.name not in _OWN:  # the first time, before anybody is stopped if possible: it does not change
            _OWN[setting.name] = own(setting)
        if (value := _OWN[setting.name]) is not None:
            mine.append((setting, value))
    room = remote.room(8)
    rows = [Row("prctl", *setting.getter, *([room] if setting.room else [])) for setting, _ in mine]

    def answer(results: list[int]) -> dict[str, Numbers]:
        written = int.from_bytes(remote.task.read(room, 4), "little")
        facts: dict[str, Numbers] = {}
        for (setting, ours), result in zip(mine, results, strict=True):
            value = written if setting.room else result
            if _is_set(setting, value, ours):
                facts[setting.name] = (value & setting.keep,)
        return facts

    return rows, answer


def look_thread(tid: int, flags: int) -> dict[str, Numbers]:
    """What is seen from outside; `flags` are those of /proc/PID/stat. Unsupported under Syscall User Dispatch."""
    if ptrace.get_user_dispatch(tid):
        raise Unsupported(
            f"task {tid} has its system calls dispatched to a handler of its own, which cannot be saved",
            "prctl(PR_SET_SYSCALL_USER_DISPATCH) made it so, as Wine does",
        )
    return {IO_FLUSHER: (1,)} if flags & _PF_IO_FLUSHER == _PF_IO_FLUSHER else {}


def locks_future(remote: Remote, locked_before: str) -> dict[str, Numbers]:
    """Whether what the process maps is locked at once (mlockall(2)): its scratch pages tell.

    `locked_before` is the VmLck of /proc/PID/status from before they were mapped.
    """
    tid = remote.task.tid
    if procfs.parse_status(procfs.text(tid, "status"))["VmLck"] == locked_before:
        return {}
    untouched = remote.unused_page()
    with open(f"/proc/{tid}/pagemap", "rb", buffering=0) as pagemap:
        entry = os.pread(pagemap.fileno(), 8, untouched // os.sysconf("SC_PAGE_SIZE") * 8)
    present = entry[7] >> 7
    return {LOCK_FUTURE: (MCL_FUTURE if present else MCL_FUTURE | MCL_ONFAULT,)}


# ---------------------------------------------------------------------------------------------------------- restore


def thread_rows(facts: dict[str, Numbers]) -> list[Row]:
    """What a thread had, before its credentials are dropped and its registers set."""
    rows = _rows(facts, [setting for setting in SETTINGS if not setting.process])
    if IO_FLUSHER in facts:
        rows.append(Row("prctl", PR_SET_IO_FLUSHER, 1, what="PR_SET_IO_FLUSHER; needs CAP_SYS_RESOURCE"))
    return rows


def rows(facts: dict[str, Numbers]) -> list[Row]:
    """What an address space had, when all is mapped and protected as it will be."""
    out = _rows(facts, [setting for setting in SETTINGS if setting.process])
    if LOCK_FUTURE in facts:
        out.append(Row("mlockall", facts[LOCK_FUTURE][0], what="mlockall; needs CAP_IPC_LOCK"))
    return out


def _rows(facts: dict[str, Numbers], settings: list[Setting]) -> list[Row]:
    out = []
    for setting in settings:
        mine, wanted = own(setting), fresh(setting)
        if setting.name in facts:
            (wanted,) = facts[setting.name]
        if wanted is None or (setting.name not in facts and (mine is None or not _is_set(setting, mine, mine))):
            continue
        if mine is None or mine & setting.keep != wanted:
            out.append(Row("prctl", *setting.setter, wanted, *setting.after, what=f"the setting {setting.name}"))
    return out
