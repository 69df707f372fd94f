# SPDX-License-Identifier: GPL-2.0-only
"""One live process and its threads, as read while they were stopped: raw values, not yet images.

Nothing here is computed that can be computed later; whoever reads this code counts milliseconds of somebody's pause.
"""

from __future__ import annotations

from pycriu import sharing
from pycriu.dumping.survey import refuse, refuse_thread
from pycriu.kernel import procfs, ptrace
from pycriu.resources import (
    attributes,
    clocks,
    credentials,
    files,
    limits,
    memory,
    posix_timers,
    prctl,
    procfiles,
    scheduling,
    seccomp,
    signals,
    stops,
    timers,
)
from pycriu.tracing import home, interrupted, pstree
from pycriu.tracing.home import Home
from pycriu.tracing.tracee import Remote, Tracee

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pycriu.arch.description import Registers
    from pycriu.fds.openfile import Place
    from pycriu.fds.table import Kinds
    from pycriu.kernel.pagemap import Run
    from pycriu.sharing import Shares

SIGCHLD = 17
EXIT_SIGNAL = "exit_signal"  # the fact: what the parent gets when it ends, where that is not SIGCHLD


class Thread:
    """What one thread of a process has itself. `look`, then `ask`."""

    # Each has ask_thread(remote) → the rows for a table, and a function that makes an answer of their results.
    PARTS = (signals, credentials, attributes, prctl, scheduling)

    def __init__(self, task: Tracee) -> None:
        self.task, self.tid = task, task.tid

    def look(self, process: pstree.Process) -> None:
        """Everything that can be seen from outside; Unsupported for what cannot be kept."""
        tid = self.tid
        self.stat = procfs.stat(tid)
        self.status = procfs.parse_status(procfs.text(tid, "status"))
        refuse_thread(process, tid, self.stat, self.status)
        self.seccomp = seccomp.look_thread(tid, self.status)
        self.register_sets = self.task.arch.look(tid)
        self.registered = attributes.look_thread(tid)
        self.signals = signals.look_thread(tid)
        self.facts = scheduling.look_thread(tid) | prctl.look_thread(tid, self.stat.flags)

    def leave_critical_section(self) -> None:
        """See attributes.leave_critical_section."""
        gpr, pc = self.task.registers(), self.task.arch.pc
        there = attributes.leave_critical_section(self.task, self.registered.rseq, gpr[pc])
        if there != gpr[pc]:
            gpr[pc] = there
            self.task.set_registers(gpr)

    def home(
        self,
        gadgets: tuple[int, int] | None,
        mappings: list[procfs.Mapping],
        content: list[Run],
    ) -> Home | None:
        """Its way home; and the registers with which it goes on there, or in another life."""
        task = self.task
        gpr = task.registers()
        goes_on = task.arch.after_interruption(gpr, interrupted.original(task, gpr))
        self.goes_on = interrupted.with_rest(task, gpr, goes_on)
        return home.find(
            task.arch, self.goes_on, self.signals.mask, self.register_sets, self.status, mappings, gadgets,
            content, task.read, seccomp.judge(task, self.seccomp),
        )  # fmt: skip

    def hear(self, answers: list[Any], gpr: Registers) -> None:
        """Keep what it said, and the state of its CPU; `gpr` are its own registers."""
        self.stack, self.securebits, self.attributes, *facts = answers
        for more in facts:
            self.facts |= more
        for note in self.task.arch.calls_destroy:
            if note in self.register_sets:
                ptrace.set_regset(self.tid, note, self.register_sets[note])
        self.interrupted_call = self.task.arch.interrupted_call(gpr)
        interrupted.resume(self.task)


class Snapshot:
    """What a process has. `look` first, for all processes of the tree; then `ask`, which makes them work for us.

    `threads` begins with the one whose id is the PID.
    """

    PARTS = (signals, timers, attributes, memory, prctl)

    def __init__(
        self, process: pstree.Process, tasks: list[Tracee], gadgets: home.Gadgets, kinds: Kinds, shares: Shares
    ) -> None:
        self.process, self.task, self._gadgets = process, tasks[0], gadgets
        self._kinds = kinds
        self.pid, self.shares = process.pid, shares
        self.threads = [Thread(task) for task in tasks]
        self.pages_id = 0
        self.files: files.Files
        self.mappings: list[memory.Mapping]
        self.runs: list[Run]  # of pages that go into the images
        self.inherited: list[Run] = []  # of pages that an earlier dump has
        self.guards: list[Run]
        self.rings: list[memory.Ring]

    def has_own(self, part: int) -> bool:
        """Whether it is the first to have this part (sharing.PARTS), in whose name the part is saved."""
        return self.shares[part] == self.pid

    def look(self, others: dict[int, Snapshot]) -> None:
        """Everything that can be seen from outside; Unsupported for what cannot be kept.

        `others` have looked already: what is shared with one of them is looked at once.
        """
        pid = self.pid
        for thread in self.threads:
            thread.look(self.process)
        self.stat, self.status = self.threads[0].stat, self.threads[0].status
        refuse(self.process, self.stat)
        self.auxv = procfs.parse_auxv(procfs.read(pid, "auxv"))
        self.personality = attributes.personality(pid)
        self.queue = signals.look(pid)
        self.limits = limits.look(pid)
        self.oom_score_adj = limits.oom_score_adj(pid)
        self.login_uid = procfiles.login_uid(pid)
        self.posix_timers = posix_timers.look(pid)
        self.facts = {thread.tid: thread.facts for thread in self.threads}
        self.facts[pid] |= procfiles.look(pid)
        if self.process.parent is None:
            self.facts[pid] |= clocks.look(pid)
        if self.stat.exit_signal != SIGCHLD:
            self.facts[pid][EXIT_SIGNAL] = (self.stat.exit_signal,)
        table = None if self.has_own(sharing.FILES) else others[self.shares[sharing.FILES]].files
        self.files = files.look(pid, self.status, self._kinds, table)
        self._look_at_memory(others)

    def _look_at_memory(self, others: dict[int, Snapshot]) -> None:
        if not self.has_own(sharing.VM):
            first = others[self.shares[sharing.VM]]
            self.mappings, self.runs, self.guards = first.mappings, first.runs, first.guards
            self.rings = first.rings
            return
        self.mappings = memory.look(self.pid, self._kinds.regular)
        if wanted := self._kinds.regular.options.embed:
            self._embed(wanted)
        else:
            self.runs, self.guards = memory.content(self.pid, self.mappings)
        self.rings = memory.look_at_rings(self.task, self.mappings)

    def _embed(self, wanted: frozenset[str]) -> None:
        """Files that are mapped become anonymous memory."""
        from pycriu.pages.comparing import union
        from pycriu.resources.memory import embedding

        self.mappings, more = embedding.embed(self.pid, self.mappings, wanted, self.files.exe)
        runs, self.guards = memory.content(self.pid, self.mappings)
        self.runs = union(runs + more)

    def take_pages(self, other: Snapshot) -> None:
        """Its pages are those of another process, with which it shares them."""
        self.pages_id, self.runs, self.inherited = other.pages_id, other.runs, other.inherited

    def ask(self) -> None:
        """Everything that only the process and its threads themselves can say, and the state of their CPUs."""
        for thread in self.threads:
            thread.leave_critical_section()
        first, *others = self.threads
        homes = self._homes()
        with Remote(self.task, home=homes[0]) as remote:
            asked = [part.ask(remote) for part in self.PARTS]
            stopped = [child.pid for child in self.process.children if child.stop_signal]
            asked.append(stops.ask(remote, stopped))
            own = [part.ask_thread(remote) for part in first.PARTS]
            answers = _answers(remote, asked + own)
            self.facts[self.pid] |= prctl.locks_future(remote, self.status["VmLck"])
            self.timers_left = posix_timers.read(remote, self.posix_timers)
            self.keys = memory.allocated_keys(remote, self.mappings, [thread.register_sets for thread in self.threads])
            for thread, way in zip(others, homes[1:], strict=True):
                with Remote(thread.task, home=way, inside=remote) as guest:
                    said = _answers(guest, [part.ask_thread(guest) for part in thread.PARTS])
                thread.hear(said, guest.gpr)
        self.actions, self.itimers, self.attributes, self.brk, *facts = answers[: len(asked)]
        for more in facts:
            self.facts[self.pid] |= more
        first.hear(answers[len(asked) :], remote.gpr)

    def places(self) -> list[tuple[Place, int]]:
        """The files that it refers to by other things than descriptors, with the flags to open them."""
        return files.places(self.files) + memory.places(self.mappings)

    def _homes(self) -> list[Home | None]:
        """The way home of every thread; if one has none, none has: they work in the same pages."""
        lines = [mapping.line for mapping in self.mappings]
        gadgets = self._gadgets.find(lines, self.task.read)
        first, *others = self.threads
        homes = [first.home(gadgets, lines, self.runs), *(thread.home(gadgets, [], []) for thread in others)]
        return homes if None not in homes else [None] * len(homes)


def _answers(remote: Remote, asked: list[Any]) -> list[Any]:
    """Run the rows of several parts in one table; what each part makes of the results."""
    results = remote.calls([row for rows, _ in asked for row in rows])
    answers = []
    for rows, answer in asked:
        answers.append(answer(results[: len(rows)]))
        results = results[len(rows) :]
    return answers
