# SPDX-License-Identifier: GPL-2.0-only
"""The tree of processes: found in /proc, and frozen as a whole.

`scan` only looks; `Freeze` is the scope in which every thread of the tree is stopped. A scan before the freeze is a
snapshot of something that moves: `Freeze` scans again after each round of stops until nothing new appears, because a
stopped thread cannot clone, so once everybody known is stopped and nobody unknown exists, nobody unknown can come.
"""

from __future__ import annotations

import os
import time

from pycriu.arch.description import Arch
from pycriu.errors import KernelError, NoProcess, PycriuError, TraceeGone, Unsupported, UserError
from pycriu.kernel import procfs, ptrace
from pycriu.tracing import interrupted
from pycriu.tracing.tracee import ALL_SIGNALS, SIGKILL, SIGTRAP, Tracee

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pycriu.tracing.limited import Limited

EPERM, ECHILD = 1, 10
# A task that does not stop within this time sits in a call that ptrace cannot interrupt. Most often it is a parent in
# vfork(2), which waits for a child that the freeze has already stopped: let go of all, and try again a little later.
_ROUND = 0.15
_PAUSE_BETWEEN_ROUNDS = 0.005
_LAST_WAIT = 0.5


class Process:
    """One process of the tree as /proc shows it; `threads` are the ids of its threads, the PID first.

    `stop_signal` is the one that had stopped it when it was frozen, 0 if it ran. Where there are several roots, the
    first has the others `beside` it.
    """

    __slots__ = ("beside", "children", "elder", "hooks_at", "parent", "stat", "stop_signal", "threads")

    def __init__(self, stat: procfs.Stat, parent: Process | None) -> None:
        self.stat = stat
        self.parent = parent
        self.children: list[Process] = []
        self.beside: list[Process] = []
        self.elder: Process | None = None  # the root that it is beside
        self.threads: list[int] = []
        self.stop_signal = 0
        self.hooks_at = 0  # where the survey has found it to be a program with hooks, the address of their channel

    @property
    def pid(self) -> int:
        """The process's id, as seen from here."""
        return self.stat.pid

    @property
    def root(self) -> int:
        """The PID of the root of the tree, the first if there are several."""
        above = self.parent or self.elder
        return self.pid if above is None else above.root

    @property
    def zombie(self) -> bool:
        """Whether it has exited and waits for its parent to read its status. One whose first thread alone has ended
        looks the same but for the number of threads."""
        return self.stat.state in "ZX" and self.stat.num_threads <= 1

    def walk(self) -> list[Process]:
        """This process and all below it, parents first; then those beside it."""
        return [self, *(one for other in (*self.children, *self.beside) for one in other.walk())]


def scan(pid: int) -> Process:
    """The tree below and with `pid`; NoProcess when there is no such process."""
    if not procfs.exists(pid):
        raise NoProcess(f"no process has PID {pid}", "look it up with ps")
    if procfs.text(pid, "status").find(f"\nTgid:\t{pid}\n") < 0:
        raise UserError(f"{pid} is a thread, not a process", "give the PID of the process")
    return _scan(pid, None)


def _scan(pid: int, parent: Process | None) -> Process:
    process = Process(procfs.stat(pid), parent)
    if not process.zombie:
        process.threads = procfs.threads(pid)
        for child in procfs.children(pid, process.threads):
            try:
                process.children.append(_scan(child, process))
            except TraceeGone:
                continue  # it ended between two looks, which is its right until the freeze
    return process


def gather(pids: Iterable[int]) -> Process | None:
    """Just these processes, those that are there: each below its parent if that is among them; None for nobody.

    A zombie whose parent is not is left out: its status is for that one.
    """
    found: dict[int, Process] = {}
    for pid in pids:
        try:
            found[pid] = Process(procfs.stat(pid), None)
            if not found[pid].zombie:
                found[pid].threads = procfs.threads(pid)
        except TraceeGone:
            found.pop(pid, None)  # it ended between two looks
    for process in found.values():
        parent = found.get(process.stat.ppid)
        if parent is not None:
            process.parent = parent
            parent.children.append(process)
    roots = [process for process in found.values() if process.parent is None and not process.zombie]
    if not roots:
        return None
    for root in roots[1:]:
        root.elder = roots[0]
        roots[0].beside.append(root)
    return roots[0]


class Freeze:
    """The scope in which a tree is stopped.

    `root` is the tree, `tasks` the threads of its live members, by tid. On leaving, whoever is still held is let go,
    unless `kill` has been called. `find` looks for the tree, by default for `pid` and all below it.
    """

    def __init__(self, pid: int, arch: Arch, timeout: float, find: Callable[[], Process] | None = None) -> None:
        self.pid = pid
        self._find = find or (lambda: scan(pid))
        self.arch = arch
        self.timeout = timeout
        self.root: Process
        self.tasks: dict[int, Tracee] = {}
        self._stop_signals: dict[int, int] = {}  # that had stopped it before we did
        self._stopped: set[int] = set()
        self._called: dict[int, list[int]] = {}  # what a thread waited for when it was asked to stop
        self._unlimited = interrupted.Unlimited(arch)
        self._limited: Limited | None = None  # where there are any

    def __enter__(self) -> Freeze:
        deadline = time.monotonic() + self.timeout
        while True:
            try:
                if self._round(min(deadline, time.monotonic() + _ROUND)):
                    return self
            except BaseException:
                self._give_up()
                raise
            self.thaw()
            if time.monotonic() >= deadline:
                error = self._timed_out(list(self.tasks))
                self._give_up()
                raise error
            time.sleep(_PAUSE_BETWEEN_ROUNDS)

    def __exit__(self, *_: object) -> None:
        self.thaw()

    def _timed_out(self, stuck: list[int]) -> PycriuError:
        names = ", ".join(f"{tid} ({_wchan(tid)})" for tid in stuck)
        return PycriuError(
            f"the tree of {self.pid} could not be stopped within {self.timeout:g} s: {names or 'it grows too fast'}",
            "it is in a call that cannot be interrupted, or forks without end; give more time with --timeout",
        )

    def _round(self, deadline: float) -> bool:
        while True:
            self.root = self._find()
            live = [process for process in self.root.walk() if not process.zombie]
            if not live or live[0] is not self.root:
                raise UserError(f"process {self.pid} is a zombie: it has ended", "its parent has not read its status")
            new = [(tid, process) for process in live for tid in process.threads if tid not in self._stopped]
            if not new:
                for process in live:
                    process.stop_signal = self._stop_signals.get(process.pid, 0)
                return True
            # One that is traced already did not stop in the round before.
            asked = self._ask(new)
            stand = self._await(asked, deadline)
            self._make_again(asked)
            if not stand or time.monotonic() > deadline:
                return False

    def _ask(self, new: list[tuple[int, Process]]) -> list[int]:
        """Ask the threads to stop; those that have not ended since they were seen."""
        seized: list[int] = []
        try:
            asked = [tid for tid, process in new if tid in self.tasks or self._seize(tid, process, seized)]
            if self._limited is not None:
                self._limited.look()
        finally:
            for tid in seized:
                try:
                    ptrace.interrupt(tid)
                except TraceeGone:
                    continue  # the wait for its stop will tell
        return asked

    def _make_again(self, tids: list[int]) -> None:
        """See limited."""
        if self._limited is not None:
            self._limited.again([self.tasks[tid] for tid in tids if tid in self._stopped])

    def _seize(self, tid: int, process: Process, seized: list[int]) -> bool:
        """Take hold of one thread, which joins `seized`; False when it has ended since it was seen."""
        try:
            ptrace.seize(tid, ptrace.O_TRACESYSGOOD)  # see tracee.Remote
        except TraceeGone:
            return False
        except KernelError as error:
            if error.errno != EPERM:
                raise
            if _has_ended(tid):
                if tid == process.pid and has_lost_leader(process):
                    raise leaderless(process) from None
                return False
            raise _not_traceable(tid) from None
        self.tasks[tid] = Tracee(tid, self.arch, self.tasks.get(process.pid))
        seized.append(tid)
        self._called[tid] = called = interrupted.called(tid)
        if called and self._unlimited.may_be_limited(called[0]):
            self._note(tid, called)
        return True

    def _note(self, tid: int, called: list[int]) -> None:
        from pycriu.tracing.limited import Limited

        if self._limited is None:
            self._limited = Limited(self.arch)
        self._limited.note(tid, called)

    def _await(self, tids: list[int], deadline: float) -> bool:
        """Wait for the stop of each; False when the deadline passes first."""
        for tid in tids:
            try:
                status = self._stop_of(tid, deadline)
                if status is not None and os.WIFSTOPPED(status):
                    self._stands(tid)
                    continue
            except TraceeGone:  # killed by somebody else meanwhile
                self._stopped.discard(tid)
                status = _report(tid, deadline)
            if status is None or os.WIFSTOPPED(status):
                return False
            # It ended before it could be stopped; the next scan shows a zombie or nobody.
            self.tasks.pop(tid).close()
            if tid == self.pid:
                gone = TraceeGone(f"process {tid} ended before it could be stopped")
                gone.wait_status = status
                raise gone
        return True

    def _stop_of(self, tid: int, deadline: float) -> int | None:
        """The wait status of one that has been asked to stop: of that stop, or of its end; None when there is none yet.

        Who is killed on the way there may wait for us: the first thread of a process does not end before the status of
        all others has been read.
        """
        status = _report(tid, deadline)
        while status is not None and os.WIFSTOPPED(status) and status >> 16 != ptrace.EVENT_STOP:
            # A signal came in before our interrupt, and was to be delivered: it is, and then the task stops.
            ptrace.interrupt(tid)
            ptrace.cont(tid, os.WSTOPSIG(status))
            status = _report(tid, deadline)
        if status is not None and os.WIFSTOPPED(status) and os.WSTOPSIG(status) != SIGTRAP:
            # A process that was stopped by a signal shows that signal, and stops at once: not for our interrupt,
            # which is yet to be seen.
            self._stop_signals[tid] = os.WSTOPSIG(status)
            ptrace.interrupt(tid)
            ptrace.cont(tid)
            status = _report(tid, deadline)
        return status

    def _stands(self, tid: int) -> None:
        """A thread has stopped for us; the call that this has ended is to go on."""
        self._stopped.add(tid)
        called = self._called.pop(tid, [])
        interrupted.make_again(self.tasks[tid], self._unlimited, called)
        self.tasks[tid].resumes = interrupted.resumes(self.tasks[tid], called)

    def threads(self, process: Process) -> list[Tracee]:
        """The stopped threads of a process, the first one first."""
        return [self.tasks[tid] for tid in process.threads]

    def let_run(self, tid: int) -> None:
        """Let one of the threads go on while all others stand; `stop_again` ends that."""
        if self._limited is not None:
            self._limited.go_on(self.tasks[tid])
        self.tasks[tid].rest = None
        ptrace.cont(tid)
        self._stopped.discard(tid)

    def stop_again(self, tid: int, patience: float) -> None:
        """Stop it again, within so many seconds; and whoever has come into being meanwhile."""
        end = time.monotonic() + patience
        self._called[tid] = called = interrupted.called(tid)
        if called and self._unlimited.may_be_limited(called[0]):
            self._note(tid, called)
        if self._limited is not None:
            self._limited.look()
        ptrace.interrupt(tid)
        if not self._await([tid], end):
            raise self._timed_out([tid])
        self._make_again([tid])
        if not self._round(end):
            raise self._timed_out([one for one in self.tasks if one not in self._stopped])

    def thaw(self) -> None:
        """Let every task go on as if nothing had happened. Safe to call twice.

        Who has not stopped yet cannot be let go and stays in `tasks`: it may wait for one that stands still until now.
        The kernel lets go of it when we end.
        """
        signals = dict.fromkeys(self._stopped, 0)
        for tid in self.tasks.keys() - self._stopped:
            status = _poll(tid)
            if status is None:
                continue
            signals[tid] = os.WSTOPSIG(status) if os.WIFSTOPPED(status) and not status >> 16 else 0
            if os.WIFSTOPPED(status) and status >> 16 == ptrace.EVENT_STOP:
                self._stands_late(tid)
        self._make_again(list(self.tasks))
        gone = [tid for tid in list(self.tasks) if tid in signals and not self._let_go(self.tasks[tid], signals[tid])]
        _bury([self.tasks[tid] for tid in gone])
        for tid in signals.keys() & self.tasks.keys():
            del self.tasks[tid]
        self._stopped, self._stop_signals = set(), {}

    def _give_up(self) -> None:
        """Let all go, and wait a moment for those that are yet to stop: they would stand for as long as we live."""
        end = time.monotonic() + _LAST_WAIT
        self.thaw()
        while self.tasks and time.monotonic() < end:
            time.sleep(_PAUSE_BETWEEN_ROUNDS)
            self.thaw()

    def _stands_late(self, tid: int) -> None:
        """The same for one that the round did not wait for any more."""
        try:
            self._stands(tid)
        except TraceeGone:
            return  # it was killed by somebody else meanwhile

    def _let_go(self, task: Tracee, signal: int) -> bool:
        """Detach from one, which gets the signal that was about to be delivered; False where it has ended."""
        try:
            if self._limited is not None:
                self._limited.go_on(task)
            ptrace.detach(task.tid, signal)
        except TraceeGone:
            return False  # or it was killed by somebody else meanwhile
        finally:
            task.close()
        return True

    def kill(self) -> None:
        """End every task of the tree, children before parents.

        Each parent is made to read how its child ended before it is ended itself: a zombie that outlives its parent
        keeps its PID until PID 1 reads it, and in many containers PID 1 never does. The root is left to its own parent.
        """
        for process in reversed(self.root.walk()):
            tasks = [self.tasks.pop(tid) for tid in process.threads if tid in self.tasks]
            if tasks:
                os.kill(process.pid, SIGKILL)
            for task in reversed(tasks):  # the first thread has ended only when all others have been waited for
                self._reap(task.tid)
                task.close()
            if process.parent is not None and process.parent.pid in self.tasks:
                read_status(self.tasks[process.parent.pid], process.pid)

    @staticmethod
    def _reap(pid: int) -> None:
        while True:
            try:
                _, status = os.waitpid(pid, ptrace.WALL)
            except ChildProcessError:
                return
            if not os.WIFSTOPPED(status):
                return


def read_status(parent: Tracee, child: int) -> None:
    """Make `parent`, which is about to be killed, read the exit status of its zombie `child`."""
    ptrace.set_sigmask(parent.tid, ALL_SIGNALS)
    try:
        parent.step_call(parent.registers(), "wait4", child, 0, os.WNOHANG | ptrace.WALL, 0)
    except KernelError as error:
        if error.errno != ECHILD:  # the parent does not want to know (SIG_IGN), so there is no zombie
            raise


def _poll(pid: int) -> int | None:
    """The wait status that a task has to report, None if none; one that is gone has ended."""
    try:
        found, status = os.waitpid(pid, ptrace.WALL | os.WNOHANG)
    except ChildProcessError:
        return 0
    return status if found else None


def _report(pid: int, deadline: float) -> int | None:
    """The same, waited for until the deadline."""
    while (status := _poll(pid)) is None and time.monotonic() <= deadline:
        time.sleep(0.00005)
    return status


def _bury(tasks: list[Tracee]) -> None:
    """Read how tasks that we trace have ended: their parents are not told before that, for as long as we live.

    The first thread of a process comes last. Where we are its parent ourselves, its status is not for us to read here.
    """
    left = [task for task in reversed(tasks) if task.leader is not None or not _is_our_child(task.tid)]
    end = time.monotonic() + _LAST_WAIT
    while left and time.monotonic() < end:
        left = [task for task in left if _poll(task.tid) is None]
        if left:
            time.sleep(_PAUSE_BETWEEN_ROUNDS)


def _is_our_child(pid: int) -> bool:
    try:
        return procfs.stat(pid).ppid == os.getpid()
    except TraceeGone:
        return False


def has_lost_leader(process: Process) -> bool:
    """Whether others live on, of a process whose first thread has ended; when all of it ends they may for a moment."""
    return any(not procfs.is_ending(tid) for tid in process.threads if tid != process.pid)


def leaderless(process: Process) -> Unsupported:
    """A process whose first thread has ended, alone."""
    return Unsupported(
        f"process {process.pid} ({process.stat.comm}) has lost its first thread ({len(process.threads) - 1} live on), "
        "which cannot be saved"
    )


def _has_ended(pid: int) -> bool:
    try:
        return procfs.stat(pid).state in "ZX"
    except TraceeGone:
        return True


def _wchan(pid: int) -> str:
    try:
        return procfs.text(pid, "wchan").strip("0\n") or "running"
    except TraceeGone:
        return "gone"


def _not_traceable(pid: int) -> PycriuError:
    tracer = procfs.parse_status(procfs.text(pid, "status")).get("TracerPid", "0")
    if tracer != "0":
        return Unsupported(
            f"process {pid} is being traced by {tracer} ({procfs.stat(int(tracer)).comm})", "detach that debugger first"
        )
    return PycriuError(
        f"process {pid} may not be traced", "run as root or with CAP_SYS_PTRACE; init and kernel threads cannot be"
    )
