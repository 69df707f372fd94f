# SPDX-License-Identifier: GPL-2.0-only
"""The family, and what belongs to each task and thread."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pycriu.crit.check.model import ALIVE, DEAD, STATES, STOPPED, ZOMBIE, Model
from pycriu.images import schema

_PID_MAX = 1 << 22
_NSIG = 64
_COMM_MAX = 15
_GROUPS_MAX = 1 << 16
_STOP_SIGNALS = (19, 20, 21, 22)
_POLICIES = (0, 1, 2, 3, 5, 6, 7)
_REAL_TIME = (1, 2)
_CAPABILITIES = ("cap_inh", "cap_prm", "cap_eff", "cap_bnd", "cap_amb")
_SIGINFO = 128
# march → the field with its registers, and how many words its lists have
_REGISTERS: dict[str, tuple[str, tuple[tuple[str, str, tuple[int, ...]], ...]]] = {
    "X86_64": ("thread_info", (("fpregs", "st_space", (32,)), ("fpregs", "xmm_space", (64,)))),
    "ARM": ("ti_arm", ()),
    "AARCH64": ("ti_aarch64", (("gpregs", "regs", (31,)), ("fpsimd", "vregs", (64,)))),
    "PPC64": ("ti_ppc64", ()),
    "S390": ("ti_s390", ()),
    "MIPS": ("ti_mips", ()),
    "LOONGARCH64": ("ti_loongarch64", ()),
    "RISCV64": ("ti_riscv64", ()),
}


def check(model: Model) -> None:
    """All of it."""
    _check_inventory(model)
    model.need("pstree.img", "nothing tells which processes there are")
    if model.has("pstree.img") and "pstree.img" not in model.broken and not model.processes:
        model.found("pstree.img", "has no process")
    _check_tree(model)
    _check_threads(model)
    _check_groups(model)
    for process in model.processes:
        _check_process(model, process)
    _check_orphans(model)
    _check_machine(model)


def _check_inventory(model: Model) -> None:
    entry = model.need("inventory.img", "the dump did not finish")
    if entry is None:
        return
    if entry.img_version not in (1, 2):
        model.found("inventory.img", f"version {entry.img_version} is not known", 0, "img_version")
    if entry.ns_per_id and not entry.HasField("root_ids"):
        model.found("inventory.img", "is missing, although namespaces have ids", 0, "root_ids")


def _check_tree(model: Model) -> None:
    model.once("pstree.img", "pid", "process")
    for number, one in enumerate(model.processes):
        if not 0 < one.pid < _PID_MAX:
            model.found("pstree.img", f"{one.pid} is no PID", number, "pid")
    parents = {one.pid: one.ppid for one in model.processes}
    if model.processes and all(one.ppid for one in model.processes):  # a process group may have several roots
        model.found("pstree.img", "every process has a parent, one has none in a tree", None, "ppid")
    for number, one in enumerate(model.processes):
        if one.ppid and one.ppid not in parents:
            model.found("pstree.img", f"process {one.ppid} is not there", number, "ppid")
        elif one.ppid and _in_circle(one.pid, parents):
            model.found("pstree.img", f"process {one.pid} descends from itself", number, "ppid")


def _check_threads(model: Model) -> None:
    seen: set[int] = set()
    for number, one in enumerate(model.processes):
        if model.state[one.pid] in (DEAD, ZOMBIE):  # whose threads mean nothing
            continue
        if one.pid not in one.threads:
            model.found("pstree.img", f"process {one.pid} is not among its threads", number, "threads")
        for tid in one.threads:
            if not 0 < tid < _PID_MAX:
                model.found("pstree.img", f"{tid} is no id of a thread", number, "threads")
            if tid in seen:
                model.found("pstree.img", f"thread {tid} is there twice", number, "threads")
            seen.add(tid)


def _in_circle(pid: int, parents: dict[int, int]) -> bool:
    at = parents[pid]
    for _ in parents:
        if at == pid:
            return True
        at = parents.get(at, 0)
    return False


def _check_groups(model: Model) -> None:
    """A group lies in one session, and who leads a session leads a group."""
    sessions: dict[int, int] = {}
    for number, one in enumerate(model.processes):
        for field in ("pgid", "sid"):
            if getattr(one, field) >= _PID_MAX:
                model.found("pstree.img", f"{getattr(one, field)} is no PID", number, field)
        if one.sid == one.pid and one.pgid != one.pid:
            model.found("pstree.img", f"process {one.pid} leads a session, but is of group {one.pgid}", number, "pgid")
        if sessions.setdefault(one.pgid, one.sid) != one.sid:
            text = f"group {one.pgid} is of session {sessions[one.pgid]} and of session {one.sid}"
            model.found("pstree.img", text, number, "sid")


def _check_process(model: Model, process: Any) -> None:
    pid = process.pid
    core = model.need(f"core-{pid}.img", f"process {pid} is in pstree.img")
    if core is None:
        return
    name = f"core-{pid}.img"
    if not core.HasField("tc"):
        model.found(name, f"is missing: {pid} is a process", 0, "tc")
        return
    _check_task(model, name, core.tc)
    if core.tc.task_state not in (ALIVE, STOPPED):
        return
    _check_thread(model, name, core)
    for tid in process.threads:
        if tid != pid and (other := model.need(f"core-{tid}.img", f"thread {tid} of process {pid}")) is not None:
            _check_thread(model, f"core-{tid}.img", other)
    _check_images(model, pid, core)


def _check_images(model: Model, pid: int, core: Any) -> None:
    if not core.HasField("ids"):
        model.need(f"ids-{pid}.img", f"process {pid} lives")
    for stem in ("mm", "fs", "pagemap"):
        model.need(f"{stem}-{pid}.img", f"process {pid} lives")
    fs = model.entries(f"fs-{pid}.img")
    if fs and fs[0].umask > 0o777:
        model.found(f"fs-{pid}.img", f"{fs[0].umask:#o} is no umask", 0, "umask")
    if pid in model.ids:
        ids = model.ids[pid]
        for field in ("vm_id", "files_id", "fs_id", "sighand_id"):
            if not getattr(ids, field):
                model.found(f"ids-{pid}.img", "is 0", 0, field)
        model.need(f"fdinfo-{ids.files_id}.img", f"the descriptors of process {pid}")


def _check_orphans(model: Model) -> None:
    """Images of tasks that there are none of."""
    if model.broken & {"pstree.img"} or not model.processes:
        return
    pids = {one.pid for one in model.processes}
    known = pids | {tid for one in model.processes for tid in one.threads}
    for stem, wanted in {"core": known, "ids": pids, "mm": pids, "fs": pids, "pagemap": pids}.items():
        for name, number in model.numbered(stem):
            if number not in wanted:
                model.found(name, f"there is no {'task' if stem == 'core' else 'process'} {number}")
    tables = {ids.files_id for ids in model.ids.values()}
    complete = all(one.pid in model.ids for one in model.living) and not any(n.startswith("core") for n in model.broken)
    for name, number in model.numbered("fdinfo"):
        if complete and number not in tables:
            model.found(name, f"no process has the table {number}")


def _check_machine(model: Model) -> None:
    """All of one architecture, and registers of that."""
    marches = {number: name for name, number in schema.enum("core_entry.march").items()}
    first = None
    for name, _ in model.numbered("core"):
        for core in model.entries(name):
            first = core.mtype if first is None else first
            if core.mtype != first:
                text = f"{marches[core.mtype]}, but another task is of {marches[first]}"
                model.found(name, text, 0, "mtype")
            if marches[core.mtype] not in _REGISTERS:
                model.found(name, "no CPU architecture", 0, "mtype")


# -------------------------------------------------------------------------------------------------------------- values


def _check_task(model: Model, name: str, tc: Any) -> None:
    say = _Say(model, name, "tc")
    say(tc.task_state in STATES, "task_state", f"{tc.task_state} is no state")
    say(len(tc.comm.encode("utf-8", "surrogateescape")) <= _COMM_MAX, "comm", f"{tc.comm!r} is too long")
    if tc.task_state in (DEAD, ZOMBIE):
        say(tc.exit_code < 1 << 16, "exit_code", f"{tc.exit_code:#x} is no status of a process that has ended")
        return
    if tc.HasField("stop_signo"):
        say(tc.stop_signo in _STOP_SIGNALS, "stop_signo", f"no process is stopped by signal {tc.stop_signo}")
    if tc.HasField("oom_score_adj"):
        say(-1000 <= tc.oom_score_adj <= 1000, "oom_score_adj", f"{tc.oom_score_adj} is out of bounds")
    say(len(tc.sigactions) in (0, _NSIG - 2), "sigactions", f"{len(tc.sigactions)} actions, {_NSIG - 2} are usual")
    say(len(tc.rlimits.rlimits) <= 16, "rlimits", f"{len(tc.rlimits.rlimits)} limits; Linux has 16")
    for number, limit in enumerate(tc.rlimits.rlimits):
        say(limit.cur <= limit.max, f"rlimits[{number}]", f"the limit {limit.cur} is beyond its maximum {limit.max}")
    _check_queue(say, "signals_s", tc.signals_s)
    if tc.HasField("timers"):
        _check_timers(model, say, tc.timers)


class _Say:
    """Finds something in a field of the only entry of an image, unless it is right."""

    def __init__(self, model: Model, name: str, prefix: str) -> None:
        self._model, self.name, self._prefix = model, name, prefix

    def __call__(self, right: bool, field: str, text: str) -> None:
        if not right:
            self._model.found(self.name, text, 0, f"{self._prefix}.{field}")


def _check_queue(say: _Say, field: str, queue: Any) -> None:
    for number, one in enumerate(queue.signals):
        where = f"{field}[{number}]"
        say(len(one.siginfo) == _SIGINFO, where, f"{len(one.siginfo)} bytes, a siginfo has {_SIGINFO}")
        number = int.from_bytes(one.siginfo[:4], "little")
        say(1 <= number <= _NSIG, where, f"there is no signal {number}")


def _check_timers(model: Model, say: _Say, timers: Any) -> None:
    for field in ("real", "virt", "prof"):
        one = getattr(timers, field)
        say(max(one.iusec, one.vusec) < 10**6, f"timers.{field}", "more than a second of microseconds")
    seen: set[int] = set()
    for number, one in enumerate(timers.posix):
        where = f"timers.posix[{number}]"
        say(one.it_id not in seen, where, f"the id {one.it_id} is there twice")
        seen.add(one.it_id)
        say(max(one.insec, one.vnsec) < 10**9, where, "more than a second of nanoseconds")
        say(one.si_signo <= _NSIG, where, f"there is no signal {one.si_signo}")
        if one.HasField("notify_thread_id") and one.notify_thread_id:
            known = one.notify_thread_id in model.threads
            say(known, where, f"there is no thread {one.notify_thread_id} to be told")


def _check_thread(model: Model, name: str, core: Any) -> None:
    marches = {number: word for word, number in schema.enum("core_entry.march").items()}
    field, lists = _REGISTERS.get(marches[core.mtype], ("", ()))
    if field and not core.HasField(field):
        model.found(name, "is missing: the registers", 0, field)
    for part, words, counts in lists if field and core.HasField(field) else ():
        count = len(getattr(getattr(getattr(core, field), part), words))
        if count not in counts:
            model.found(name, f"{count} words, not {counts[0]}", 0, f"{field}.{part}.{words}")
    if not core.HasField("thread_core"):
        model.found(name, "is missing", 0, "thread_core")
        return
    one, say = core.thread_core, _Say(model, name, "thread_core")
    say(len(one.comm.encode("utf-8", "surrogateescape")) <= _COMM_MAX, "comm", f"{one.comm!r} is too long")
    say(one.pdeath_sig <= _NSIG, "pdeath_sig", f"there is no signal {one.pdeath_sig}")
    if one.HasField("sched_policy"):
        say(one.sched_policy in _POLICIES, "sched_policy", f"{one.sched_policy} is no policy")
        real_time = one.sched_policy in _REAL_TIME
        say((1 <= one.sched_prio <= 99) if real_time else not one.sched_prio, "sched_prio",
            f"policy {one.sched_policy} has no priority {one.sched_prio}")  # fmt: skip
    say(-20 <= one.sched_nice <= 19, "sched_nice", f"{one.sched_nice} is no nice value")
    _check_queue(say, "signals_p", one.signals_p)
    for field, text in _credentials(one.creds) if one.HasField("creds") else ():
        say(False, f"creds.{field}", text)
    _check_filter(model, say, one)


def _credentials(creds: Any) -> Iterator[tuple[str, str]]:
    for field in _CAPABILITIES:
        words = getattr(creds, field)
        if len(words) not in ((0, 2) if field == "cap_amb" else (2,)):
            yield field, f"{len(words)} words, a set has 2"
    if len(creds.groups) > _GROUPS_MAX:
        yield "groups", f"{len(creds.groups)} groups; {_GROUPS_MAX} are the most"
    if creds.secbits >= 1 << 12:
        yield "secbits", f"{creds.secbits:#x} has bits that mean nothing"


def _check_filter(model: Model, say: _Say, one: Any) -> None:
    if one.seccomp_mode != schema.enum("seccomp_mode")["filter"] or "seccomp.img" in model.broken:
        return
    filters = [one_filter for entry in model.entries("seccomp.img") for one_filter in entry.seccomp_filters]
    say(one.seccomp_filter < len(filters), "seccomp_filter", f"seccomp.img has no filter {one.seccomp_filter}")
