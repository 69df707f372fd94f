# SPDX-License-Identifier: GPL-2.0-only
"""The small things that a task keeps in the kernel: names, prctl(2) settings, and the addresses that it registered.

A process has settings; each of its threads has settings of its own, and addresses that it registered: where its thread
id is cleared at exit, its robust futex list, its rseq area.
"""

from __future__ import annotations

from pycriu.errors import ImageError, KernelError
from pycriu.images import messages as m
from pycriu.kernel import libc, procfs, ptrace
from pycriu.record import record
from pycriu.tracing.tracee import Remote, Row, Tracee

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

PR_SET_PDEATHSIG, PR_GET_PDEATHSIG, PR_GET_DUMPABLE, PR_SET_DUMPABLE = 1, 2, 3, 4
PR_SET_NAME, PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER = 15, 36, 37
PR_GET_TID_ADDRESS, PR_SET_THP_DISABLE, PR_GET_THP_DISABLE = 40, 41, 42
# include/uapi/linux/membarrier.h
MEMBARRIER_GET_REGISTRATIONS = 1 << 9
MEMBARRIER_REGISTER = 1 << 2 | 1 << 4 | 1 << 6 | 1 << 8  # global, private, and that with core and rseq
EIO = 5
_RSEQ_CS_AT = 8  # struct rseq: cpu_id_start, cpu_id, rseq_cs
_TASK_COMM_LEN = 16


@record
class Attributes:
    """What the process said of itself."""

    child_subreaper: int
    dumpable: int
    thp_disabled: int
    membarrier: int  # what membarrier(2) has been registered for, as a sum of its commands


@record
class Own:
    """What one thread said of itself."""

    tid_address: int
    pdeath_signal: int


@record
class Registered:
    """What of a thread can be asked from outside."""

    robust_list: tuple[int, int]  # address, length in bytes
    rseq: tuple[int, int, int] | None  # address, size in bytes, signature


def personality(pid: int) -> int:
    """personality(2), which the image has once per process."""
    return int(procfs.text(pid, "personality"), 16)


def look_thread(tid: int) -> Registered:
    """Robust list and rseq of a stopped thread."""
    try:
        rseq = ptrace.get_rseq(tid)
    except KernelError as error:
        if error.errno != EIO:
            raise
        rseq = None  # kernels before 5.13, or without CONFIG_RSEQ, where no task can have one
    return Registered(libc.get_robust_list(tid), rseq)


def leave_critical_section(task: Tracee, rseq: tuple[int, int, int] | None, pc: int) -> int:
    """Where a task goes on that was stopped at `pc`: at its abort handler if that is inside an rseq critical section.

    The kernel sends a preempted task there; calls made on its behalf meanwhile would make the kernel forget to.
    """
    if rseq is None:
        return pc
    area = int.from_bytes(task.read(rseq[0] + _RSEQ_CS_AT, 8), "little")
    if not area:
        return pc
    words = task.read(area, 32)  # struct rseq_cs: version, flags, start_ip, post_commit_offset, abort_ip
    start, length, abort = (int.from_bytes(words[i : i + 8], "little") for i in (8, 16, 24))
    return abort if start <= pc < start + length else pc


def ask(remote: Remote) -> tuple[list[Row], Callable[[list[int]], Attributes]]:
    """The prctl(2) getters of what all threads share."""
    room = remote.room(4)
    rows = [
        Row("prctl", PR_GET_CHILD_SUBREAPER, room),
        Row("prctl", PR_GET_DUMPABLE),
        Row("prctl", PR_GET_THP_DISABLE),
    ]
    if _tells_registrations():
        rows.append(Row("membarrier", MEMBARRIER_GET_REGISTRATIONS, 0, 0))

    def answer(results: list[int]) -> Attributes:
        subreaper = int.from_bytes(remote.task.read(room, 4), "little")
        return Attributes(subreaper, results[1], results[2], results[3] if len(results) > 3 else 0)

    return rows, answer


def _tells_registrations() -> bool:
    """Whether this kernel says what membarrier(2) has been registered for (6.3)."""
    try:
        libc.call("membarrier", MEMBARRIER_GET_REGISTRATIONS, 0, 0)
    except KernelError:
        return False
    return True


def ask_thread(remote: Remote) -> tuple[list[Row], Callable[[list[int]], Own]]:
    """The prctl(2) getters of what each thread has of its own."""
    room = remote.room(16)
    what = "PR_GET_TID_ADDRESS; needs CONFIG_CHECKPOINT_RESTORE"
    rows = [Row("prctl", PR_GET_TID_ADDRESS, room, what=what), Row("prctl", PR_GET_PDEATHSIG, room + 8)]

    def answer(_results: list[int]) -> Own:
        raw = remote.task.read(room, 16)
        return Own(int.from_bytes(raw[:8], "little"), int.from_bytes(raw[8:12], "little"))

    return rows, answer


def rseq_entry(rseq: tuple[int, int, int]) -> Any:
    """The image of a registered rseq area."""
    return m.rseq_entry(rseq_abi_pointer=rseq[0], rseq_abi_size=rseq[1], signature=rseq[2])


# ---------------------------------------------------------------------------------------------------------- restore


def rows(core: Any, mm: Any) -> list[Row]:
    """What belongs to the process, but for what `last_rows` sets."""
    out = []
    if core.tc.child_subreaper:
        out.append(Row("prctl", PR_SET_CHILD_SUBREAPER, 1))
    if mm.thp_disabled:
        out.append(Row("prctl", PR_SET_THP_DISABLE, 1))
    mask = core.tc.membarrier_registration_mask
    if mask & ~MEMBARRIER_REGISTER:
        raise ImageError(f"membarrier(2) knows no registrations {mask & ~MEMBARRIER_REGISTER:#x}")
    what = "membarrier; needs CONFIG_MEMBARRIER"
    out += [Row("membarrier", 1 << bit, 0, 0, what=what) for bit in range(9) if mask >> bit & 1]
    return out


def thread_rows(thread: Any, comm: str, persona: int, tid_address: int, remote: Remote) -> list[Row]:
    """What belongs to one thread, but for what `last_thread_rows` sets."""
    name = comm.encode("utf-8", "surrogateescape")[: _TASK_COMM_LEN - 1] + b"\0"
    out = [Row("prctl", PR_SET_NAME, remote.data(name)), Row("personality", persona)]
    if thread.futex_rla_len:
        out.append(Row("set_robust_list", thread.futex_rla, thread.futex_rla_len))
    if tid_address:
        out.append(Row("set_tid_address", tid_address))
    if thread.HasField("rseq_entry"):
        rseq = thread.rseq_entry
        what = "rseq; needs CONFIG_RSEQ"
        out.append(Row("rseq", rseq.rseq_abi_pointer, rseq.rseq_abi_size, 0, rseq.signature, what=what))
    return out


def last_thread_rows(thread: Any) -> list[Row]:
    """What a change of the thread's credentials resets: the signal of the parent's death."""
    return [Row("prctl", PR_SET_PDEATHSIG, thread.pdeath_sig)] if thread.pdeath_sig else []


def last_rows(mm: Any) -> list[Row]:
    """What a change of any thread's credentials resets: dumpable."""
    out = []
    # Values other than 0 and 1 cannot be set; 2 is what the kernel gives by itself after a change of credentials.
    if mm.HasField("dumpable") and mm.dumpable in (0, 1):
        out.append(Row("prctl", PR_SET_DUMPABLE, mm.dumpable))
    return out
