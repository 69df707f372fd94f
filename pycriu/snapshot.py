# SPDX-License-Identifier: GPL-2.0-only
"""One live process, as read while it was stopped: raw values, not yet images.

Nothing here is computed that can be computed later; whoever reads this code counts milliseconds of somebody's pause.
"""

from __future__ import annotations

from pycriu import home, pstree
from pycriu.home import Home
from pycriu.kernel import pagemap, procfs, ptrace
from pycriu.resources import (
    attributes,
    credentials,
    files,
    limits,
    memory,
    posix_timers,
    prctl,
    procfiles,
    scheduling,
    signals,
    timers,
)
from pycriu.survey import refuse
from pycriu.tracee import Remote, Tracee

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pycriu.fds.openfile import Place
    from pycriu.fds.table import Kinds


class Snapshot:
    """What a process has. `look` first, for all processes of the tree; then `ask`, which makes them work for us."""

    def __init__(self, process: pstree.Process, task: Tracee, gadgets: home.Gadgets, kinds: Kinds) -> None:
        self.process, self.task, self._gadgets = process, task, gadgets
        self._kinds = kinds
        self.pid = process.pid

    def look(self) -> None:
        """Everything that can be seen from outside; Unsupported for what cannot be kept."""
        pid, task = self.pid, self.task
        self.stat = procfs.stat(pid)
        self.status = procfs.parse_status(procfs.text(pid, "status"))
        refuse(self.process, self.stat, self.status)
        self.register_sets = task.arch.look(task.tid)
        self.auxv = procfs.parse_auxv(procfs.read(pid, "auxv"))
        self.registered = attributes.look(task)
        self.signals = signals.look(task, ptrace.get_sigmask(task.tid))
        self.limits = limits.look(pid)
        self.oom_score_adj = limits.oom_score_adj(pid)
        self.login_uid = procfiles.login_uid(pid)
        self.posix_timers = posix_timers.look(pid)
        self.facts = {pid: procfiles.look(pid) | scheduling.look_thread(pid) | prctl.look_thread(pid, self.stat.flags)}
        self.files = files.look(pid, self.status, self._kinds)
        self.mappings = memory.look(pid)
        runs = pagemap.private_pages(pid, memory.spans(self.mappings))
        self.runs = sorted(runs + memory.vdso_run(self.mappings))

    def ask(self) -> None:
        """Everything that only the process itself can say, and the state of its CPU."""
        self._leave_critical_section()
        with Remote(self.task, home=self._home()) as remote:
            self.gpr = remote.gpr
            asked: list[Any] = [part.ask(remote) for part in (signals, timers, credentials, attributes, memory, prctl)]
            asked += [part.ask_thread(remote) for part in (prctl, scheduling)]
            results = remote.calls([row for rows, _ in asked for row in rows])
            answers: list[Any] = []
            for rows, answer in asked:
                answers.append(answer(results[: len(rows)]))
                results = results[len(rows) :]
            self.facts[self.pid] |= prctl.locks_future(remote, self.status["VmLck"])
            self.timers_left = posix_timers.read(remote, self.posix_timers)
        for note in self.task.arch.calls_destroy:
            if note in self.register_sets:
                ptrace.set_regset(self.task.tid, note, self.register_sets[note])
        self.handlers, self.itimers, self.securebits, self.attributes, self.brk, *facts = answers
        for more in facts:
            self.facts[self.pid] |= more
        cpu = self.task.arch
        self.interrupted_call = cpu.interrupted_call(self.gpr)
        self.gpr = cpu.after_interruption(self.gpr)
        self.thread_info, self.extras = cpu.save(self.gpr, self.register_sets, self.attributes.tid_address)

    def places(self) -> list[tuple[Place, int]]:
        """The files that it refers to by other things than descriptors, with the flags to open them."""
        return files.places(self.files) + memory.places(self.mappings)

    def _home(self) -> Home | None:
        lines = [mapping.line for mapping in self.mappings]
        gpr, mask = self.task.registers(), self.signals.mask
        gadgets = self._gadgets.find(lines, self.task.read)
        return home.find(self.task.arch, gpr, mask, self.register_sets, self.status, lines, gadgets)

    def _leave_critical_section(self) -> None:
        gpr, pc = self.task.registers(), self.task.arch.pc
        there = attributes.leave_critical_section(self.task, self.registered.rseq, gpr[pc])
        if there != gpr[pc]:
            gpr[pc] = there
            self.task.set_registers(gpr)
