# SPDX-License-Identifier: GPL-2.0-only
"""The entries of a checkpoint out of what a core says: one process with its threads, mappings, files, credentials.

What a core does not tell is as it is for the one who imports it: directory, limits, umask. Signal actions are the
default ones, timers are off.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NoReturn

from pycriu.arch import elfcore, native
from pycriu.corefile import layout
from pycriu.corefile.space import Region
from pycriu.errors import Unsupported, UserError
from pycriu.fds import regular, validation
from pycriu.fds.openfile import no_owner
from pycriu.images import catalogue
from pycriu.images import messages as m
from pycriu.kernel import procfs
from pycriu.resources import credentials, limits, signals
from pycriu.resources.memory import mappings

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from pycriu.corefile.clib import Registered
    from pycriu.corefile.descriptors import Line
    from pycriu.corefile.reader import Core, Thread
    from pycriu.corefile.space import Space
    from pycriu.images.store import NewCheckpoint

ALIVE, NO_CGROUPS, REG = 1, 1, 1
SI_USER = 0
_SIGINFO_SIZE = 128
_DIRECTORY = os.O_PATH | os.O_DIRECTORY
EXTERNAL = "core[{}]"  # the name of a descriptor that the restore must be given
_MAX_GIVEN = 1 << 16
CUT = "its end: it was cut (ulimit -c), and memory that was there is zero now"
_NAMED = 5  # threads in a message


class Files:
    """files.img in the making."""

    def __init__(self, first: int = 1) -> None:
        self.entries: list[Any] = []
        self._next = first
        self._known: dict[tuple[str, int], int] = {}
        self._notes = validation.Notes()

    def fresh(self) -> int:
        """An id that nothing has."""
        self._next += 1
        return self._next - 1

    def place(self, path: str, flags: int = os.O_RDONLY) -> int:
        """The id of a file that is referred to by path."""
        if (path, flags) not in self._known:
            self._known[path, flags] = self.open(path, flags, 0)
        return self._known[path, flags]

    def open(self, path: str, flags: int, position: int) -> int:
        """The id of an open file."""
        status = os.stat(path)
        number = self.fresh()
        self._notes.add(number, path, status, flags, None)
        self.entries.append(regular.entry(number, path, flags, position, status))
        return number

    def external(self, fd: int, flags: int) -> int:
        """The id of what must be given at the restore."""
        number = self.fresh()
        self.entries.append(external(number, fd, flags))
        return number

    def write_notes(self, new: NewCheckpoint) -> None:
        """What a restore compares."""
        self._notes.write(new, watched=False)


def table(lines: Iterable[Line], files: Files, given: Collection[int]) -> list[Any]:
    """fdinfo entries for descriptors; those `given` are open at the restore."""
    found = []
    for line in lines:
        status = None if line.fd in given else _status(line.path)
        if status is not None and (os.path.isfile(line.path) or os.path.isdir(line.path) or line.path == os.devnull):
            number = files.open(line.path, line.open_flags(), line.offset)
        else:
            number = files.external(line.fd, os.O_RDWR if line.flags is None else line.open_flags())
        found.append(m.fdinfo_entry(id=number, flags=0, type=REG, fd=line.fd))
    return found


def externals(entries: Iterable[Any]) -> tuple[int, ...]:
    """The numbers of descriptors that must be given at the restore."""
    names = {f"/{EXTERNAL.format(fd)}": fd for fd in range(_MAX_GIVEN)}
    return tuple(sorted(names[one.reg.name] for one in entries if one.reg.ext and one.reg.name in names))


def external(number: int, fd: int, flags: int) -> Any:
    """file_entry of such a descriptor."""
    name = f"/{EXTERNAL.format(fd)}"
    reg = m.reg_file_entry(id=number, flags=flags, pos=0, fown=no_owner(), name=name, ext=True, mode=0o100600)
    return m.file_entry(type=REG, id=number, reg=reg)


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def mm(space: Space, files: Files) -> Any:
    """The mm image."""
    entry = layout.entry()
    layout.fill(entry, space)
    entry.exe_file_id = files.place(space.executable)
    entry.dumpable = 1
    top = layout.stack(space)
    entry.vmas.extend(_vma(one, files, grows=one is top, heap=_is_heap(one, entry)) for one in _with_clocks(space))
    return entry


def _is_heap(region: Region, entry: Any) -> bool:
    return not region.path and region.start < entry.mm_brk and entry.mm_start_brk < region.end


def _vma(region: Region, files: Files, *, grows: bool, heap: bool) -> Any:
    number, opened = 0, os.O_RDONLY
    if region.vdso or region.vvar:
        name = "[vdso]" if region.vdso else "[vvar]"
        status, flags = mappings.SPECIAL[name], mappings.MAP_PRIVATE | mappings.MAP_ANONYMOUS
    elif region.path:
        status = catalogue.REGULAR | (catalogue.FILE_SHARED if region.shared else catalogue.FILE_PRIVATE)
        flags = mappings.MAP_SHARED if region.shared else mappings.MAP_PRIVATE
        opened = os.O_RDWR if region.shared and region.prot & mappings.PROT_WRITE else os.O_RDONLY
        number = files.place(region.path, opened)
    else:
        status = catalogue.REGULAR | catalogue.ANON_PRIVATE | (catalogue.HEAP if heap else 0)
        flags = mappings.MAP_PRIVATE | mappings.MAP_ANONYMOUS | (catalogue.MAP_GROWSDOWN if grows else 0)
        flags |= mappings.MAP_NORESERVE if region.size >= _all_memory() else 0  # else it could not have been there
    offset = region.offset if region.path else 0
    return m.vma_entry(
        start=region.start, end=region.end, pgoff=offset, shmid=number, prot=region.prot, flags=flags, status=status,
        fd=-1, fdflags=opened,
    )  # fmt: skip


def _all_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _with_clocks(space: Space) -> list[Region]:
    """The mappings; the pages of the kernel's clocks as one, and where the core has none, where they must have been."""
    found: list[Region] = []
    for one in space.regions:
        if one.vvar and found and found[-1].vvar:
            found[-1].end = one.end
        else:
            found.append(one)
    vdso = next((one for one in found if one.vdso), None)
    if vdso is None or any(one.vvar for one in found):
        return found
    size = sum(line.end - line.start for line in _own_maps() if line.name.startswith("[vvar"))
    free = all(one.end <= vdso.start - size or one.start >= vdso.start for one in found)
    if size and free:
        clocks = Region(vdso.start - size, vdso.start, mappings.PROT_READ, None, known=True)
        clocks.vvar = True
        found.insert(found.index(vdso), clocks)
    return found


def _own_maps() -> list[procfs.Mapping]:
    return procfs.parse_smaps(procfs.text("self", "maps"))


def creds(core: Core) -> Any:
    """Ours, if the process was of our user; else its user and group with nothing more."""
    mine = credentials.own()
    if core.process is None or (core.process.uid, core.process.gid) == (mine.uid, mine.gid):
        return mine
    uid, gid = core.process.uid, core.process.gid
    return m.creds_entry(
        uid=uid, euid=uid, suid=uid, fsuid=uid, gid=gid, egid=gid, sgid=gid, fsgid=gid, secbits=0, groups=[gid],
        cap_inh=[0, 0], cap_prm=[0, 0] if uid else mine.cap_prm, cap_eff=[0, 0] if uid else mine.cap_eff,
        cap_bnd=mine.cap_bnd, cap_amb=[0, 0], no_new_privs=0,
    )  # fmt: skip


def core_entry(core: Core, thread: Thread, info: Any, registered: Registered, *, first: bool) -> Any:
    """The core image of a thread."""
    name = core.process.name if core.process is not None else "core"
    of_thread = m.thread_core_entry(
        futex_rla=registered.robust_list, futex_rla_len=registered.robust_size,
        sched_nice=core.process.nice if core.process is not None else 0, sched_policy=0, sched_prio=0,
        blk_sigset=thread.held, pdeath_sig=0, signals_p=_pending(thread.pending), creds=creds(core), comm=name,
        cg_set=NO_CGROUPS,
    )  # fmt: skip
    of_thread.sas.CopyFrom(signals.stack_entry((0, 0, signals.SS_DISABLE)))
    if registered.rseq is not None:
        address, size, signature = registered.rseq
        of_thread.rseq_entry.CopyFrom(m.rseq_entry(rseq_abi_pointer=address, rseq_abi_size=size, signature=signature))
    entry = m.core_entry(mtype=core.arch.mtype, thread_core=of_thread)
    info.clear_tid_addr = registered.tid_address
    getattr(entry, core.arch.thread_info).CopyFrom(info)
    if first:
        entry.tc.CopyFrom(_task(thread, name))
    return entry


def _task(thread: Thread, name: str) -> Any:
    return m.task_core_entry(
        task_state=ALIVE, exit_code=0, personality=0, flags=0, blk_sigset=thread.held, comm=name, cg_set=NO_CGROUPS,
        rlimits=limits.limit_entries(limits.look(os.getpid())), signals_s=signals.queue_entry(()),
        sigactions=signals.action_entries(((0, 0, 0, 0),) * len(signals.SIGNALS)),
    )  # fmt: skip


def _pending(bits: int) -> Any:
    """Signals that wait, of which only the numbers are known, as if somebody had sent them."""
    infos = [
        number.to_bytes(4, "little") + bytes(4) + SI_USER.to_bytes(4, "little") + bytes(_SIGINFO_SIZE - 12)
        for number in range(1, 65)
        if bits >> number - 1 & 1
    ]
    return signals.queue_entry(tuple(infos))


def infos(core: Core) -> list[tuple[Thread, Any, dict[str, bytes]]]:
    """Every thread with the message of its registers and raw sets, the one whose id is the PID first."""
    leader = next((one for one in core.threads if one.tid == core.pid), None)
    if leader is None:
        raise Unsupported(
            f"{core.path}: process {core.pid} had lost its first thread", "such a process cannot be restored"
        )
    threads = [leader, *sorted((one for one in core.threads if one is not leader), key=lambda one: one.tid)]
    return [(one, *elfcore.thread_info(core.arch, one.general, one.sets, 0)) for one in threads]


def pstree(pid: int, pgid: int, sid: int, tids: Sequence[int]) -> Any:
    """The tree, of one process."""
    return m.pstree_entry(pid=pid, ppid=0, pgid=pgid, sid=sid, threads=tids)


def fs(files: Files, directory: str) -> Any:
    """Working directory, root and umask."""
    umask = int(procfs.parse_status(procfs.text("self", "status"))["Umask"], 8)
    return m.fs_entry(cwd_id=files.place(directory, _DIRECTORY), root_id=files.place("/", _DIRECTORY), umask=umask)


def refuse_without_stack(core: Core, space: Space) -> None:
    """UserError where the memory that a thread stands on was not written: it could but crash."""
    for thread in core.threads:
        pointer = core.arch.gpr.unpack(thread.general)[core.arch.sp]
        region = space.at(pointer)
        if region is None or region.path or region.shared or not region.prot & mappings.PROT_WRITE:
            continue  # a stack that has overflowed points to what was never there
        if not core.read(pointer, 1) and not core.read(pointer - 1, 1):
            raise UserError(
                f"{core.path} does not hold the stack of thread {thread.tid}",
                "it was cut (ulimit -c), or its memory was left out (coredump_filter): a debugger shows what there is",
            )


def untold(core: Core, with_keys: Collection[int] = ()) -> list[str]:
    """What the notes do not tell of threads, in words; of those `with_keys` the keys are known otherwise."""
    found: dict[str, list[int]] = {}
    for thread in core.threads:
        words = elfcore.lacking(core.arch, thread.sets, here=core.arch is native())
        if elfcore.signs_addresses(core.arch, thread.sets) and thread.tid not in with_keys:
            words.append("keys by which return addresses are signed (code that does fails)")
        for one in words:
            found.setdefault(one, []).append(thread.tid)
    return [f"{one} of {named(tids)}" for one, tids in found.items()]


def refuse(core: Core, lacks: list[str]) -> NoReturn:
    """What --strict says."""
    raise UserError(f"--strict: {core.path} lacks {lacks[0]}", "; ".join(lacks[1:]) or None)


def named(tids: list[int]) -> str:
    """Threads, for a message."""
    more = f" and {len(tids) - _NAMED} more" if len(tids) > _NAMED else ""
    return f"thread{'s' * (len(tids) > 1)} {', '.join(map(str, tids[:_NAMED]))}{more}"
