# SPDX-License-Identifier: GPL-2.0-only
"""Where the versions of the format keep what: entries in one place of today's images, and in files of their own before.

Every version of CRIU reads the places of its predecessors, so that what is moved out to the oldest place can be read by
all; what is moved in is where pycriu looks. A checkpoint is worked on as a dictionary: image → entries with payloads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pycriu.crit.check.model import DEAD, ZOMBIE
from pycriu.crit.content import in_parent, page_count, present
from pycriu.errors import ImageError
from pycriu.images import messages as m
from pycriu.images import schema
from pycriu.images.catalogue import LAZY, PARENT, PRESENT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Entries = list[tuple[Any, bytes]]
Images = dict[str, Entries]

# Old image of files of one kind → the type of the file, and the field of file_entry.
FILES = {
    "reg-files.img": ("REG", "reg"), "ext-files.img": ("EXT", "ext"), "ns-files.img": ("NS", "nsf"),
    "eventfd.img": ("EVENTFD", "efd"), "eventpoll.img": ("EVENTPOLL", "epfd"), "signalfd.img": ("SIGNALFD", "sgfd"),
    "timerfd.img": ("TIMERFD", "tfd"), "inotify.img": ("INOTIFY", "ify"), "fanotify.img": ("FANOTIFY", "ffy"),
    "pipes.img": ("PIPE", "pipe"), "fifo.img": ("FIFO", "fifo"), "unixsk.img": ("UNIXSK", "usk"),
    "inetsk.img": ("INETSK", "isk"), "packetsk.img": ("PACKETSK", "psk"), "netlinksk.img": ("NETLINKSK", "nlsk"),
    "tty.img": ("TTY", "tty"), "tunfile.img": ("TUNF", "tunf"), "bpfmap-file.img": ("BPFMAP", "bpf"),
    "pidfd.img": ("PIDFD", "pidfd"),
}  # fmt: skip

# Old image of what belongs to files → the image of these files, and the field that has it now.
PARTS = {
    "eventpoll-tfd.img": ("eventpoll.img", "tfd"),
    "inotify-wd.img": ("inotify.img", "wd"),
    "fanotify-mark.img": ("fanotify.img", "mark"),
}

FILES_IMAGE = "files.img"
_NARROW = (1 << 32) - 1


def _plain(messages: Iterable[Any]) -> Entries:
    return [(one, b"") for one in messages]


def gather_files(images: Images) -> None:
    """Files of all kinds into files.img, with what belongs to them."""
    old = [name for name in FILES if name in images]
    loose = [name for name in PARTS if name in images]
    if not old and not loose:
        return
    found = list(images.get(FILES_IMAGE, []))
    by_kind: dict[str, dict[int, Any]] = {}
    for name in old:
        kind, field = FILES[name]
        for message, _ in images.pop(name):
            entry = m.file_entry(type=schema.enum("fd_types")[kind], id=message.id)
            getattr(entry, field).CopyFrom(message)
            by_kind.setdefault(name, {})[message.id] = getattr(entry, field)
            found.append((entry, b""))
    for name in loose:
        owner, field = PARTS[name]
        for message, _ in images.pop(name):
            if message.id not in by_kind.get(owner, {}):
                raise ImageError(f"{name}: an entry of file {message.id}, which {owner} does not have")
            getattr(by_kind[owner][message.id], field).append(message)
    numbers = [entry.id for entry, _ in found]
    if len(set(numbers)) != len(numbers):
        raise ImageError("two files of the old images have the same id, which cannot be told apart in files.img")
    images[FILES_IMAGE] = sorted(found, key=lambda pair: int(pair[0].id))


def scatter_files(images: Images) -> None:
    """The other way. ImageError for a kind that never had an image of its own."""
    kinds = {kind: (name, field) for name, (kind, field) in FILES.items()}
    names = {number: name for name, number in schema.enum("fd_types").items()}
    for entry, _ in images.pop(FILES_IMAGE, []):
        kind = names.get(entry.type, str(entry.type))
        if kind not in kinds or not entry.HasField(kinds[kind][1]):
            raise ImageError(
                f"file {entry.id} is a {kind}, which images before CRIU 3.0 have no place for",
                "convert to version 3 or later",
            )
        name, field = kinds[kind]
        message = type(getattr(entry, field))()
        message.CopyFrom(getattr(entry, field))
        for part, (owner, inner) in PARTS.items():
            if owner == name:
                loose = _copies(getattr(message, inner))
                for one in loose:
                    one.id = message.id  # by which it finds its file; inside of it, CRIU leaves zero
                images.setdefault(part, []).extend(_plain(loose))
                message.ClearField(inner)
        images.setdefault(name, []).append((message, b""))
    for name in PARTS:
        if name in images and not images[name]:
            del images[name]


def _copies(messages: Iterable[Any]) -> list[Any]:
    found = []
    for one in messages:
        copy = type(one)()
        copy.CopyFrom(one)
        found.append(copy)
    return found


def gather_tasks(images: Images, processes: Iterable[Any]) -> None:
    """What belongs to a process into its core and mm images. `processes` are the entries of pstree.img."""
    for process in processes:
        pid = process.pid
        cores = _cores(images, process)
        for stem, move in _CORE_PARTS.items():
            if (old := images.pop(f"{stem}-{pid}.img", None)) is not None:
                move(cores[pid], [message for message, _ in old])
        _gather_threads(images, pid, cores)
        if (old := images.pop(f"vmas-{pid}.img", None)) is not None:
            _only(images, f"mm-{pid}.img").vmas.extend(message for message, _ in old)


def _cores(images: Images, process: Any) -> dict[int, Any]:
    """The cores of a process, that of its first thread first. What CRIU says of threads of who has ended is random."""
    first = _only(images, f"core-{process.pid}.img")
    others = [] if first.tc.task_state in (DEAD, ZOMBIE) else [tid for tid in process.threads if tid != process.pid]
    return {process.pid: first, **{tid: _only(images, f"core-{tid}.img") for tid in others}}


def _gather_threads(images: Images, pid: int, cores: dict[int, Any]) -> None:
    """What is of a thread; credentials were the same for all threads of a process."""
    creds = images.pop(f"creds-{pid}.img", None)
    for tid, core in cores.items():
        if creds is not None and core.HasField("thread_core") and not core.thread_core.HasField("creds"):
            core.thread_core.creds.CopyFrom(creds[0][0])
        if (old := images.pop(f"signal-p-{tid}.img", None)) is not None:
            core.thread_core.signals_p.signals.extend(message for message, _ in old)
    task = cores[pid].tc
    if task.HasField("old_seccomp_mode"):
        _move_seccomp(cores[pid])
    for core in cores.values():
        if task.HasField("cg_set") and core.HasField("thread_core") and not core.thread_core.HasField("cg_set"):
            core.thread_core.cg_set = task.cg_set


def _only(images: Images, name: str) -> Any:
    if name not in images:
        raise ImageError(f"{name} is missing", "the checkpoint is not complete")
    return images[name][0][0]


def _move_seccomp(core: Any) -> None:
    """It is of a thread, and was of the process."""
    if not core.thread_core.HasField("seccomp_mode"):
        core.thread_core.seccomp_mode = core.tc.old_seccomp_mode
        if core.tc.HasField("old_seccomp_filter"):
            core.thread_core.seccomp_filter = core.tc.old_seccomp_filter
    core.tc.ClearField("old_seccomp_mode")
    core.tc.ClearField("old_seccomp_filter")


def _sigacts(core: Any, old: list[Any]) -> None:
    core.tc.sigactions.extend(old)


def _itimers(core: Any, old: list[Any]) -> None:
    if len(old) != 3:
        raise ImageError(f"itimers: {len(old)} entries; there are three kinds of interval timers")
    for name, timer in zip(("real", "virt", "prof"), old, strict=True):
        getattr(core.tc.timers, name).CopyFrom(timer)


def _posix_timers(core: Any, old: list[Any]) -> None:
    core.tc.timers.posix.extend(old)


def _rlimits(core: Any, old: list[Any]) -> None:
    core.tc.rlimits.rlimits.extend(old)


def _shared_signals(core: Any, old: list[Any]) -> None:
    core.tc.signals_s.signals.extend(old)


_CORE_PARTS: dict[str, Callable[[Any, list[Any]], None]] = {
    "sigacts": _sigacts,
    "itimers": _itimers,
    "posix-timers": _posix_timers,
    "rlimit": _rlimits,
    "signal-s": _shared_signals,
}


def scatter_tasks(images: Images, processes: Iterable[Any]) -> None:
    """Signal actions of each process into a file of their own, where CRIU had them before 3.0."""
    for process in processes:
        tc = _only(images, f"core-{process.pid}.img").tc
        if tc.sigactions:
            images[f"sigacts-{process.pid}.img"] = _plain(_copies(tc.sigactions))
            tc.ClearField("sigactions")


def cgroups_of_processes(images: Images, processes: Iterable[Any]) -> None:
    """Where a process is among the cgroups was said of it, not of its threads. A thread elsewhere still says so."""
    for process in processes:
        first, *others = _cores(images, process).values()
        if not first.thread_core.HasField("cg_set"):
            continue
        first.tc.cg_set = first.thread_core.cg_set
        for core in (first, *others):
            if core.thread_core.cg_set == first.tc.cg_set:
                core.thread_core.ClearField("cg_set")


def tables_by_id(images: Images, inventory: Any, processes: Iterable[Any]) -> None:
    """Descriptor tables by the number of the table, not of the process; processes that share one have the same."""
    if inventory.fdinfo_per_id:
        return
    inventory.fdinfo_per_id = True
    old = {process.pid: images.pop(f"fdinfo-{process.pid}.img", None) for process in processes}
    for pid, table in old.items():
        if table is None:
            continue
        core = _only(images, f"core-{pid}.img")
        if not core.HasField("ids") and f"ids-{pid}.img" not in images:
            raise ImageError(
                f"nothing says which processes share the descriptors of {pid}: ids-{pid}.img is missing",
                "take a new dump: the image is of a CRIU from before 1.0",
            )
        ids = core.ids if core.HasField("ids") else images[f"ids-{pid}.img"][0][0]
        images[f"fdinfo-{ids.files_id}.img"] = table


def pagemap(entries: Entries, name: str, *, narrow: bool, flags: bool) -> Entries:
    """A pagemap image as today's, or with counts of 32 bits (before CRIU 4.2), or without flags (before 3.0)."""
    head, *runs = entries
    found: Entries = [head]
    for entry, _ in runs:
        count = page_count(entry)
        if narrow and count > _NARROW:
            raise ImageError(f"{name}: a run of {count} pages at {entry.vaddr:#x}; before CRIU 4.2 a run has 32 bits")
        one = m.pagemap_entry(vaddr=entry.vaddr, compat_nr_pages=count & _NARROW)
        if not narrow:
            one.nr_pages = count
        if flags:
            one.flags = _flags(entry)
        elif in_parent(entry):
            one.in_parent = True
        elif not present(entry):
            raise ImageError(
                f"{name}: the pages at {entry.vaddr:#x} are still where the task was (lazy), "
                "which images before CRIU 3.0 cannot say"
            )
        found.append((one, b""))
    return found


def _flags(entry: Any) -> int:
    if entry.HasField("flags"):
        return int(entry.flags) & (PRESENT | LAZY | PARENT)
    return PARENT if entry.in_parent else PRESENT
