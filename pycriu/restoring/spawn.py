# SPDX-License-Identifier: GPL-2.0-only
"""Empty tasks with the right ids: born under a tracer, in the right session, with nothing in them but a few bytes.

The root is made by us with clone3(2) and becomes, by execveat(2), a static ELF file of less than 200 bytes that holds a
system call and a trap. All others are made by their parents, which we have make them. So the tree, its sessions and its
groups come out as they were. Every task is traced with PTRACE_O_EXITKILL until `release`: if we die, they die.
"""

from __future__ import annotations

import ctypes
import os
import struct

from pycriu.arch.description import Arch, elf
from pycriu.errors import About, ImageError, KernelError, PycriuError, TraceeGone
from pycriu.kernel import libc, procfs, ptrace
from pycriu.restoring import family
from pycriu.sharing import apart, clone_flags, makers
from pycriu.tracing.allornone import AllOrNone
from pycriu.tracing.tracee import ALL_SIGNALS, SIGKILL, Remote, Row, Tracee, check

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from pycriu.sharing import Shares

SIGCHLD, SIGTRAP, EEXIST = 17, 5, 17
PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER = 4, 36, 37
# include/uapi/asm-generic/ioctls.h. kernel.terminal has them, too, and takes 2 ms to import.
TIOCSCTTY, TIOCSPGRP = 0x540E, 0x5410
ADDR_NO_RANDOMIZE = 0x0040000
_OPTIONS = ptrace.O_EXITKILL | ptrace.O_TRACEFORK | ptrace.O_TRACECLONE | ptrace.O_TRACEEXEC

# include/uapi/linux/sched.h
CLONE_VM, CLONE_FS, CLONE_FILES, CLONE_SIGHAND, CLONE_PARENT, CLONE_THREAD, CLONE_SYSVSEM = (
    0x100, 0x200, 0x400, 0x800, 0x8000, 0x10000, 0x40000,
)  # fmt: skip
_OF_THREADS = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM
_DEAD, _THREADS_AT_ONCE = 2, 256


class Member:
    """One process to be: its pstree_entry, whether it is a zombie, its parent and children."""

    __slots__ = (
        "beside", "children", "clone_flags", "entry", "exit_signal", "exit_status", "maker", "other_threads", "parent",
    )  # fmt: skip

    def __init__(self, entry: Any, exit_status: int | None) -> None:
        self.entry = entry
        self.exit_status = exit_status  # a wait status for a zombie, None for a live one
        self.parent: Member | None = None
        self.children: list[Member] = []
        self.beside: list[Member] = []  # of the first root: the others, where there are several
        self.maker: Member | None = None  # who makes it: its parent, or an elder sibling
        self.clone_flags, self.exit_signal = 0, SIGCHLD
        threads = entry.threads if exit_status is None else ()
        self.other_threads: list[int] = [tid for tid in threads if tid != entry.pid]

    @property
    def pid(self) -> int:
        """Its PID."""
        return int(self.entry.pid)

    def walk(self) -> list[Member]:
        """This process and all below it, parents first; then those beside it."""
        return [self, *(one for other in (*self.children, *self.beside) for one in other.walk())]


def tree(entries: list[Any], cores: dict[int, Any]) -> Member:
    """The root of the tree that a pstree image describes, the first if it has several; ImageError where it is none."""
    members: dict[int, Member] = {}
    _check_ids(entries, cores)
    root = None
    for entry in entries:
        core = cores[entry.pid]
        member = Member(entry, core.tc.exit_code if core.tc.task_state == _DEAD else None)
        members[entry.pid] = member
        if root is None:
            root = member
            continue
        if not entry.ppid:
            if member.exit_status is not None:
                raise ImageError(f"pstree.img: process {entry.pid} has ended, and is a root")
            root.beside.append(member)
            continue
        # An entry comes after its parent's, so there can be no loop.
        if entry.ppid not in members or entry.ppid == entry.pid:
            raise ImageError(f"pstree.img: the parent {entry.ppid} of {entry.pid} is not above it")
        member.parent = members[entry.ppid]
        member.parent.children.append(member)
    if root is None:
        raise ImageError("pstree.img has no processes")
    return root


def choose_makers(root: Member, shares: dict[int, Shares]) -> None:
    """Set who makes whom, with which flags; ImageError where processes share what they cannot."""
    members = {member.pid: member for member in root.walk()}
    none: Shares = (0, 0, 0, 0)
    family = [
        (pid, member.parent.pid if member.parent is not None else None, shares.get(pid, none))
        for pid, member in members.items()
    ]
    for member in members.values():
        if member.children and member.pid not in shares:
            raise ImageError(f"pstree.img: process {member.pid} has ended, and has children")
    made_by = makers(living := [one for one in family if one[0] in shares])
    if not apart(living):
        raise ImageError("pstree.img: processes share something, and none of them is the root of all")
    for pid, parent, mine in family:
        if parent is None:
            continue
        maker = made_by.get(pid, parent)
        if maker is None:
            raise ImageError(f"ids-{pid}.img: it shares something with neither its parent nor a sibling")
        child = members[pid]
        child.maker = members[maker]
        if pid in shares:
            child.clone_flags = clone_flags(shares[maker], mine)
        if child.clone_flags & CLONE_SIGHAND and not child.clone_flags & CLONE_VM:
            raise ImageError(f"ids-{pid}.img: signal handlers are shared where memory is not")
        if maker != parent:
            _check_sibling(child, child.maker)
            child.clone_flags |= CLONE_PARENT


def _check_sibling(child: Member, maker: Member) -> None:
    """It is born into the session of the one that makes it, and its end is told as the end of that one."""
    if child.entry.sid not in (child.pid, maker.entry.sid) or child.exit_signal != maker.exit_signal:
        raise ImageError(f"pstree.img: process {child.pid} cannot be a sibling that {maker.pid} has made")


def _check_ids(entries: list[Any], cores: dict[int, Any]) -> None:
    seen: set[int] = set()
    for entry in entries:
        dead = cores[entry.pid].tc.task_state == _DEAD  # CRIU leaves a zombie's list as it happens to be
        if entry.threads and entry.pid not in entry.threads and not dead:
            raise ImageError(f"pstree.img: process {entry.pid} has no thread of that id")
        for tid in [entry.pid] if dead else entry.threads or [entry.pid]:
            if tid in seen or not 0 < tid < 1 << 22:
                raise ImageError(f"pstree.img: PID {tid} is out of bounds or there twice")
            seen.add(tid)


def join_our_group(root: Member) -> None:
    """Let a job of a session outside be one of our shell: who was in the root's group is to be in ours.

    So the keys that interrupt or stop a job act on it, and the shell, which knows only us, sees it stop and go on.
    """
    members, group = root.walk(), root.entry.pgid
    if root.entry.sid in [member.pid for member in members]:
        return
    for member in members:
        if member.entry.pgid == group:
            member.entry.pgid = os.getpgrp()


def plan(root: Member, *, shell_job: bool, outer_group: int | None = None) -> family.Plan:
    """How the tree is made. Under `shell_job` a root whose session leader is not in the tree stays in our session.

    So it does without, where a session of that number is about: it was started from there, or cannot have it. Then who
    is in the root's group, or that of `outer_group`, is in ours if nobody leads it.
    """
    members = root.walk()
    kin = [
        family.Kin(
            one.pid,
            0 if one.parent is None else one.parent.pid,
            one.entry.pgid,
            one.entry.sid,
            0 if one.maker in (None, one.parent) else one.maker.pid,
        )
        for one in members
    ]
    inside = root.entry.sid in [one.pid for one in members]
    sid = root.entry.sid
    ours = not inside and (shell_job or _is_session(sid))
    made = family.Plan(kin, sid if ours else 0, outer_group)
    for pid in made.helpers:
        if not 0 < pid < 1 << 22:
            raise ImageError(f"pstree.img: the session or group {pid} is out of bounds")
        if procfs.exists(pid):
            from pycriu.restoring import holders

            raise holders.of_leader(pid)
    return made


def _is_session(number: int) -> bool:
    try:
        return procfs.stat(number).session == number
    except TraceeGone:
        return False


def refuse_taken(pids: list[int]) -> None:
    """PidTaken for the first PID that somebody else has, with who that is and what to do."""
    for pid in pids:
        with About():
            if procfs.exists(pid):
                raise taken(pid)


def taken(pid: int) -> PycriuError:
    """Who holds a PID that is needed."""
    from pycriu.restoring import holders

    return holders.taken(pid)


class Nursery:
    """The scope in which new tasks live. Those not released by its end are killed and reaped.

    Meanwhile orphans come to us: in many containers PID 1 would never reap them, and their PIDs would stay taken.
    `terminals` has, by session, the inherited descriptor of its controlling terminal and the foreground group.
    """

    def __init__(self, arch: Arch, terminals: dict[int, tuple[int, int]] | None = None) -> None:
        self.arch = arch
        self._terminals = terminals or {}
        self.enter: Callable[[], None] = lambda: None  # what a root does first: it enters a namespace
        self.sibling = False  # whether the root is to be a child of our parent
        self.tasks: dict[int, Tracee] = {}
        self._threads: dict[int, list[int]] = {}  # PID → ids of its threads but the first
        self._members: dict[int, Member] = {}
        self._zombies: list[int] = []
        self._was_subreaper = _is_subreaper()

    def __enter__(self) -> Nursery:
        libc.call("prctl", PR_SET_CHILD_SUBREAPER, 1)
        return self

    def __exit__(self, *_: object) -> None:
        for pid, task in self.tasks.items():
            task.close()
            try:
                os.kill(pid, SIGKILL)
            except ProcessLookupError:
                continue  # it was killed by somebody else
        for pid in (*self.tasks, *self._zombies):
            for tid in self._threads.get(pid, []):
                _reap(tid)  # before the first thread, which ends when all others have been waited for
            _reap(pid)  # parents first: their end makes us the parent of the others
        self.tasks, self._zombies = {}, []
        libc.call("prctl", PR_SET_CHILD_SUBREAPER, self._was_subreaper)

    def release(self, signal: int, concerned: Sequence[Any] = ()) -> None:
        """Let all tasks go, with `signal` if not 0: from here on they live without us.

        Tasks can only be let go one after the other; `AllOrNone` sees to it that no part of a tree is left of that.
        A single process needs no guard: as long as one of its threads has PTRACE_O_EXITKILL, all end with us.
        """
        with AllOrNone(list(self.tasks), concerned):
            for one in concerned:
                one.let_go()
            tids = [tid for pid in self.tasks for tid in (pid, *self._threads.get(pid, []))]
            for task in self.tasks.values():
                task.close()
            for tid in tids:
                ptrace.set_options(tid, 0)
            for tid in tids:
                ptrace.detach(tid, signal)
            self.tasks, self._zombies = {}, []

    def make(self, root: Member, plan: family.Plan) -> None:
        """The whole tree, every task stopped, each in its session and group; zombies are zombies."""
        members = root.walk()
        self._members = {member.pid: member for member in members}
        for step in plan.steps:
            self._carry_out(step)
        groups = {member.entry.pgid for member in members}
        for session, (descriptor, group) in self._terminals.items():
            if session in self.tasks and group in groups:
                self._bring_to_foreground(session, descriptor, group)
        for member in members:
            if member.exit_status is not None:
                self._end(member.pid, member.exit_status)

    def _make_root(self, pid: int) -> None:
        image = os.memfd_create("pycriu", os.MFD_CLOEXEC)
        ready, go = os.pipe2(os.O_CLOEXEC)
        try:
            os.write(image, elf(self.arch))
            child = self._clone(pid, ready, go, image)
            self.tasks[child] = Tracee(child, self.arch)
            ptrace.seize(child, _OPTIONS)
            os.write(go, b"x")
            self._await(child, ptrace.EVENT_EXEC)
            # The stop is inside execveat(2), whose return value the kernel has yet to write over a register.
            ptrace.interrupt(child)
            ptrace.cont(child)
            self._await(child, ptrace.EVENT_STOP)
            # A traced task stops even for signals that it ignores, such as a child's end. All others inherit this.
            ptrace.set_sigmask(child, ALL_SIGNALS)
        finally:
            for fd in (image, ready, go):
                os.close(fd)
        self.tasks[pid].gate = self.tasks[pid].registers()[self.arch.pc]

    def _clone(self, pid: int, ready: int, go: int, image: int) -> int:
        try:
            flags, signal = (CLONE_PARENT, 0) if self.sibling else (0, SIGCHLD)
            child = libc.clone3_set_tid(pid, flags=flags, exit_signal=signal)
        except KernelError as error:
            raise _explain(error, pid) from None
        if child:
            return child
        # A fork of this interpreter that must do nothing but become the small file.
        try:
            os.close(go)
            if os.read(ready, 1):  # nothing: we have ended before we could trace it
                self.enter()
                libc.personality(ADDR_NO_RANDOMIZE)
                libc.execveat(image, b"pycriu")
        finally:
            os._exit(127)

    def _await(self, pid: int, event: int) -> None:
        """Wait for a ptrace event. A thread of a stopped process stops with the signal by which that was stopped."""
        status = ptrace.wait(pid)
        if status >> 16 != event or (event != ptrace.EVENT_STOP and os.WSTOPSIG(status) != SIGTRAP):
            raise PycriuError(f"task {pid} stopped with {status:#x} where ptrace event {event} was due")

    def _take_terminal(self, leader: int) -> None:
        try:
            self._call(leader, "ioctl", self._terminals[leader][0], TIOCSCTTY, 0)
        except KernelError as error:
            error.hint = f"the controlling terminal of session {leader} must not be that of another session"
            raise

    def _bring_to_foreground(self, leader: int, descriptor: int, group: int) -> None:
        task = self.tasks[leader]
        at = (task.registers()[self.arch.sp] & ~0xFFF) - 256
        task.write(at, struct.pack("<i", group))
        self._call(leader, "ioctl", descriptor, TIOCSPGRP, at)

    def _carry_out(self, step: family.Step) -> None:
        who, child = step.who, self._members.get(step.whom)
        if step.what == family.ROOT:
            self._make_root(step.whom)
        elif step.what == family.THROUGH:
            self._bear_through(who, step.whom, step.value)
        elif step.what in (family.CHILD, family.SIBLING):
            flags, signal = (0, SIGCHLD) if child is None else (child.clone_flags, child.exit_signal)
            planned = child is not None and child.maker is not None and child.maker.pid == who
            self._bear(who, step.whom, flags if planned else _alone(flags, step.whom), step.what, signal)
        elif step.what == family.SETSID:
            self._call(who, "setsid")
            if who in self._terminals:  # whoever is born from here on inherits it
                self._take_terminal(who)
        elif step.what == family.SETPGID:
            self._call(who, "setpgid", 0, step.value)
        else:
            self._end_helper(who, step.value)

    def _bear(self, maker: int, pid: int, flags: int, what: str, exit_signal: int) -> None:
        """Let a task make another. A sibling's end is told as the end of the one that makes it."""
        task = self.tasks[maker]
        gpr = task.registers()
        stack = gpr[self.arch.sp] & ~0xFFF
        sibling = what == family.SIBLING
        args = libc.clone_args(
            flags=flags | CLONE_PARENT if sibling else flags,
            exit_signal=0 if sibling else exit_signal,
            set_tid_address=stack - 256,
        )
        task.write(stack - 256, struct.pack("<i", pid))
        task.write(stack - 512, args)
        wanted = task.call_registers(gpr, task.gate, "clone3", (stack - 512, len(args)))
        task.set_registers(wanted)
        ptrace.cont(task.tid)
        status = ptrace.wait(task.tid)
        if status >> 16 in (ptrace.EVENT_FORK, ptrace.EVENT_CLONE):
            self.tasks[pid] = Tracee(pid, self.arch)
            self.tasks[pid].gate = task.gate
            self._await(pid, ptrace.EVENT_STOP)
            ptrace.cont(task.tid)
            ptrace.wait(task.tid)
        try:
            check(task.result(), "clone3", f"PID {pid}")
        except KernelError as error:
            raise _explain(error, pid) from None
        task.set_registers(gpr)

    def _bear_through(self, maker: int, pid: int, reaper: int) -> None:
        """Let a task make a child of `reaper`, which is further above: by way of one that ends."""
        between = _free_pid(set(self._members) | set(self.tasks))
        if reaper:  # else it is us, who are one
            self._call(reaper, "prctl", PR_SET_CHILD_SUBREAPER, 1)
        self._bear(maker, between, 0, family.CHILD, SIGCHLD)
        self._bear(between, pid, _alone(self._members[pid].clone_flags, pid), family.CHILD, SIGCHLD)
        self._end_helper(between, maker)
        if reaper:
            self._call(reaper, "prctl", PR_SET_CHILD_SUBREAPER, 0)

    def _end_helper(self, pid: int, parent: int) -> None:
        """End a task that is not of the tree; its parent (0: we) forgets it."""
        self._end(pid, 0)
        self._zombies.remove(pid)
        if parent:
            self._call(parent, "wait4", pid, 0, os.WNOHANG | ptrace.WALL, 0)

    def make_threads(self, remote: Remote, tids: list[int]) -> list[Tracee]:
        """The threads of a process but the first, which makes them: stopped, all signals blocked, without a stack."""
        task, pid = remote.task, remote.task.tid
        self._threads[pid] = tids
        for start in range(0, len(tids), _THREADS_AT_ONCE):
            remote.reset()
            rows = []
            for tid in tids[start : start + _THREADS_AT_ONCE]:
                wanted = remote.data(struct.pack("<i", tid))
                args = libc.clone_args(flags=_OF_THREADS, exit_signal=0, set_tid_address=wanted)
                rows.append(Row("clone3", remote.data(args), len(args), what=f"thread {tid}"))
            try:
                remote.calls(rows)
            except KernelError as error:
                ours = procfs.threads(pid)
                raise _explain(error, next(tid for tid in tids if tid not in ours)) from None
        threads = [Tracee(tid, self.arch, task) for tid in tids]
        for tid in tids:
            self._await(tid, ptrace.EVENT_STOP)
        remote.reset()
        return threads

    def _end(self, pid: int, status: int) -> None:
        """Make a zombie that ended as `status` says. Its parent may read that; we take note as its tracer."""
        task, signal = self.tasks[pid], status & 0x7F
        if signal:
            self._call(pid, "prctl", PR_SET_DUMPABLE, 0)  # it must not leave a core file
            # A signal can be injected only where one was about to be delivered: at the trap of a stepped call.
            ptrace.set_sigmask(pid, 0)
            ptrace.cont(pid, signal)
        else:
            task.set_registers(task.call_registers(task.registers(), task.gate, "exit_group", (status >> 8 & 0xFF,)))
            ptrace.cont(pid)
        if os.WIFSTOPPED(os.waitpid(pid, ptrace.WALL)[1]):
            raise ImageError(f"core-{pid}.img: no process ends with the status {status:#x}")
        self.tasks.pop(pid).close()
        self._zombies.append(pid)

    def _call(self, pid: int, name: str, *args: int) -> int:
        task = self.tasks[pid]
        gpr = task.registers()
        result = task.step_call(gpr, name, *args, what=f"task {pid}")
        task.set_registers(gpr)
        return result


def _alone(flags: int, pid: int) -> int:
    """The flags of a task that is not made by whom it shares something with: none."""
    if flags & ~CLONE_PARENT:
        raise ImageError(f"process {pid} shares something with its parent, and is in another session")
    return 0


def _free_pid(taken_by_us: set[int]) -> int:
    """A PID that nobody has, from above: those from below are given to others next."""
    with open("/proc/sys/kernel/pid_max") as file:
        pid = min(int(file.read()), 1 << 22) - 1
    while pid in taken_by_us or procfs.exists(pid):
        pid -= 1
    return pid


def _is_subreaper() -> int:
    flag = ctypes.c_int(0)
    libc.call("prctl", PR_GET_CHILD_SUBREAPER, ctypes.addressof(flag))
    return flag.value


def _reap(pid: int) -> None:
    """Read the status of a task that we trace and of which we are, or are about to be, the parent."""
    while True:
        try:
            os.waitpid(pid, ptrace.WALL)
        except ChildProcessError:
            return


def _explain(error: KernelError, pid: int) -> PycriuError:
    if error.errno == EEXIST:
        return taken(pid)
    if error.errno == 1:
        error.hint = "choosing a PID needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN"
    if error.errno in (22, 38):
        error.hint = "clone3 with set_tid needs Linux 5.5; the PID must be below kernel.pid_max"
    return error
