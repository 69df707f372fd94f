# SPDX-License-Identifier: GPL-2.0-only
"""Look before touching: everything about a tree that can be refused without stopping anybody.

The same questions are asked again of the stopped tree, because a running one changes; a refusal there costs it a pause
of milliseconds and nothing else.
"""

from __future__ import annotations

import os

from pycriu.errors import About, Gathering, PycriuError, TraceeGone, Unsupported, UserError
from pycriu.fds.table import Kinds
from pycriu.kernel import procfs
from pycriu.options import DumpOptions
from pycriu.resources import clocks, files, memory, posix_timers, seccomp
from pycriu.restoring import family
from pycriu.sharing import PARTS, Shares, makers, refuse_own_parts, shares
from pycriu.tracing import pstree
from pycriu.tracing.home import Gadgets

_LOOKS, _SURE = 10, 4  # at a process that changes; that find the same obstacle
_HOOKS = "/memfd:pycriu-hooks (deleted)"  # hooks.channel.MARK
NAMESPACES = ("pid", "pid_for_children", "net", "ipc", "uts", "mnt", "user", "cgroup", "time", "time_for_children")
OF_THREADS = ("pid_for_children", "net", "ipc", "uts", "cgroup")  # a thread can enter one of these alone


def survey(options: DumpOptions, gadgets: Gadgets, kinds: Kinds) -> tuple[pstree.Process, int]:
    """The tree as it is now, and how many bytes of pages it has, from above. Refuses what `refuse` refuses.

    `gadgets` learns about the code that is mapped, so that nobody has to wait for that when stopped.
    """
    root = options.find() if options.find else pstree.scan(options.pid)
    refuse_foreign(root, options)
    if root.zombie:
        raise UserError(f"process {options.pid} is a zombie: it has ended", "its parent has not read its status")
    if os.getpid() in [process.pid for process in root.walk()]:
        hint = "run it from outside the tree, e.g. with setsid -f"
        raise UserError(f"pycriu itself is below process {options.pid}", hint)
    check_sessions(root, shell_job=options.shell_job)
    clocks.ours()
    live = [process for process in root.walk() if not process.zombie]
    _survey_relations(live)
    shared = memory.Shared()
    size = sum(_survey_one(process, gadgets, kinds, shared) for process in live)
    shared.refuse_outsiders({process.pid for process in root.walk()})
    return root, size + shared.size


def refuse_foreign(root: pstree.Process, options: DumpOptions) -> None:
    """What whoever asks through a service may not have dumped."""
    if options.may_dump is not None:
        for process in root.walk():
            for tid in process.threads or (process.pid,):
                options.may_dump(tid)


def _survey_relations(live: list[pstree.Process]) -> None:
    try:
        shared = shares([process.pid for process in live])
    except TraceeGone:
        return  # when they are stopped they will be asked again
    # Those that end share nothing with anybody any more, or all with each other: the kernel compares no objects.
    if not any(procfs.is_ending(process.pid) for process in live):
        with About():
            refuse_relations(live, shared)


def _survey_one(process: pstree.Process, gadgets: Gadgets, kinds: Kinds, shared: memory.Shared) -> int:
    """Look at a running process, again if it closes or unmaps what is being looked at; 0 when it ends meanwhile.

    What it renames or closes between two questions looks like something that cannot be kept: so an obstacle counts
    when every one of some looks has found it.
    """
    size, looks, obstacles = 0, 0, Gathering()
    for _ in range(_LOOKS):
        found = Gathering()
        try:
            with found:
                size = _look(process, gadgets, kinds, shared)
        except TraceeGone:
            if not procfs.exists(process.pid):
                return 0  # when it is stopped it will hold still
            continue
        except PycriuError:
            found.pass_on()
            raise
        looks += 1
        obstacles = obstacles.also_in(found) if looks > 1 else found
        if looks == _SURE or not obstacles.found:
            break
    obstacles.pass_on()
    return size


def _look(process: pstree.Process, gadgets: Gadgets, kinds: Kinds, shared: memory.Shared) -> int:
    status, readable = procfs.parse_status(procfs.text(process.pid, "status")), False
    with About(process.pid):
        refuse(process, process.stat)
        readable = True
    for tid in procfs.threads(process.pid):
        try:
            with About(process.pid):
                refuse_thread(process, tid, procfs.stat(tid), procfs.parse_status(procfs.text(tid, "status")))
        except TraceeGone:
            continue  # threads come and go
    if not readable:
        return 0  # and what it has would be refused for what it is
    with About(process.pid):
        posix_timers.look(process.pid)
    descriptors = files.look(process.pid, status, kinds).descriptors
    mappings = memory.look(process.pid, kinds.regular)
    kinds.maps_cuda |= any("/libcuda.so" in mapping.line.name for mapping in mappings)
    shared.add(mappings, [file for file, _ in descriptors])
    process.hooks_at = next((one.line.start for one in mappings if one.line.name == _HOOKS), 0)
    gadgets.find([mapping.line for mapping in mappings], lambda at, size: procfs.memory(process.pid, at, size))
    return sum(int(status.get(key, "0 kB").split()[0]) << 10 for key in ("RssAnon", "VmSwap"))


def refuse(process: pstree.Process, stat: procfs.Stat) -> None:
    """Unsupported for a process that is of a kind that cannot be kept; TraceeGone for one that ends."""
    pid, name = process.pid, f"process {process.pid} ({stat.comm})"
    if stat.state in "ZX":
        raise pstree.leaderless(process) if pstree.has_lost_leader(process) else TraceeGone(f"{name} is ending")
    if _is_of_32_bits(pid):
        raise Unsupported(f"{name} is a program of 32 bits, which cannot be saved")
    _refuse_other_namespaces(name, pid, NAMESPACES, process.root)


def refuse_relations(live: list[pstree.Process], shared: dict[int, Shares]) -> None:
    """Unsupported for a process that shares something with others than its parent and its siblings."""
    stats = {process.pid: process.stat for process in live}
    family = [
        (process.pid, process.parent.pid if process.parent is not None else None, shared[process.pid])
        for process in live
    ]
    made_by = makers(family)
    for pid, parent, mine in family:
        maker = made_by[pid]
        above = shared[parent] if parent is not None else (pid,) * len(mine)
        strange = [number for number, first in enumerate(mine) if first not in (pid, above[number])]
        if not strange or (parent is not None and maker == parent):
            continue
        session = stats[pid].session
        if maker is not None and session in (pid, stats[maker].session):
            continue
        part = strange[0]
        raise Unsupported(
            f"process {pid} ({stats[pid].comm}) shares its {PARTS[part][1]} ({PARTS[part][2]}) with process "
            f"{mine[part]}, which is neither its parent nor its sibling in one session; this cannot be saved"
        )


def _is_of_32_bits(pid: int) -> bool:
    """EI_CLASS of its program's ELF header."""
    try:
        with open(f"/proc/{pid}/exe", "rb", buffering=0) as program:
            return program.read(5) == b"\x7fELF\x01"
    except OSError:
        return False  # whatever it is that has no program has ended, or is refused for that


def refuse_thread(process: pstree.Process, tid: int, stat: procfs.Stat, status: dict[str, str]) -> None:
    """Unsupported for a thread that is of a kind that cannot be kept."""
    pid = process.pid
    what = f"thread {tid} of process {pid}" if tid != pid else f"process {pid}"
    if not procfs.is_utf8(stat.comm):
        raise Unsupported(f"{what} has a name that is not UTF-8 ({stat.comm!r}), which no image can hold")
    seccomp.refuse(tid, status)
    if tid == pid:
        return
    refuse_own_parts(pid, tid)
    _refuse_other_namespaces(f"{what} ({stat.comm})", tid, OF_THREADS, process.root)


def _refuse_other_namespaces(name: str, pid: int, spaces: tuple[str, ...], root: int) -> None:
    others = [space for space in spaces if _is_other_namespace(pid, space, root)]
    if others:
        kind, _, children = others[0].partition("_")
        whose = "has its next children" if children else "is"
        more = f" (and: {', '.join(others[1:])})" if others[1:] else ""
        raise Unsupported(f"{name}: it {whose} in a {kind} namespace of its own{more}, which cannot be saved")


_ours: dict[str, str | None] = {}  # which namespaces we are in, asked once: each thread of a tree is held against them


def _is_other_namespace(pid: int, space: str, root: int) -> bool:
    """Whether a process or thread is in another one than we are; for clocks, than the root of its tree."""
    if space not in _ours:
        link = f"/proc/self/ns/{space}"
        _ours[space] = os.readlink(link) if os.path.lexists(link) else None
    if _ours[space] is None or (mine := procfs.link(pid, f"ns/{space}")) == _ours[space]:
        return False
    return not space.startswith("time") or mine != procfs.link(root, "ns/time")


def check_sessions(root: pstree.Process, *, shell_job: bool) -> None:
    """UserError or Unsupported where a session or process group cannot be made again."""
    processes = root.walk()
    members = {process.pid for process in processes}
    job = shell_job and root.stat.session not in members
    for process in processes:
        stat = process.stat
        name = f"process {process.pid} ({stat.comm})"
        with About(process.pid):
            # Nobody gets the PID of a leader that has ended as long as its session or group has members.
            # The number 0 is that of one in a PID namespace outside of ours.
            of_job = job and stat.session == root.stat.session
            led = not stat.session or procfs.exists(stat.session)
            if stat.session not in members and not of_job and led:
                _refuse_outer_session(name, stat, shell_job=shell_job)
            if stat.session == process.pid and stat.tty_nr and not _is_open(stat.tty_nr, members):
                raise Unsupported(
                    f"{name} leads a session whose controlling terminal nobody in the tree has open, which cannot be "
                    "saved"
                )
            roots = of_job and stat.pgrp == root.stat.pgrp
            if stat.pgrp not in members and not roots and procfs.exists(stat.pgrp):
                raise Unsupported(f"the leader of the process group {stat.pgrp} of {name} is outside the tree")
    with About():
        family.Plan(
            (
                family.Kin(one.pid, 0 if one.parent is None else one.parent.pid, one.stat.pgrp, one.stat.session)
                for one in processes
            ),
            root.stat.session if job else 0,
        )


def _refuse_outer_session(name: str, stat: procfs.Stat, *, shell_job: bool) -> None:
    if not shell_job:
        hint = "it was started from a shell: add --shell-job"
        who = f"session leader {stat.session}" if stat.session else "session leader"
        raise UserError(f"the {who} of {name} is outside the tree", hint)
    raise Unsupported(f"{name} belongs to session {stat.session}, of which the root of the tree is not")


def _is_open(device: int, pids: set[int]) -> bool:
    """Whether a process has this terminal open: by its device, or as /dev/tty or /dev/console."""
    aliases = (device, os.makedev(5, 0), os.makedev(5, 1))
    for pid in pids:
        try:
            for fd in procfs.descriptors(pid):
                if procfs.target(pid, f"fd/{fd}").st_rdev in aliases:
                    return True
        except TraceeGone:
            continue
    return False
