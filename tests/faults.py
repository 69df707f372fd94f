# SPDX-License-Identifier: GPL-2.0-only
"""Faults for images, planted one at a time into a good checkpoint: in files, in references, in values, in pages."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pycriu.crit import check
from pycriu.crit.source import open_source
from pycriu.images import catalogue, decoded, store

NOBODY = 0x7ABCDE1  # an id that nothing has
PAGE = 4096

# Images whose absence nothing else shows: they tell of what may well not be.
UNSEEN_WHEN_MISSING = (
    "seccomp", "timens", "cgroup", "filelocks", "sk-queues", "pipes-data", "fifo-data", "remap-fpath", "tty-data",
    "stats-dump", "cpuinfo", "apparmor", "pycriu-",
)  # fmt: skip

# stem → fields that must lead somewhere; [] goes through a list.
REFERENCES = {
    "pstree": ["ppid"],
    "fdinfo": ["id"],
    "fs": ["cwd_id", "root_id"],
    "mm": ["exe_file_id"],
    "pagemap": ["pages_id"],
    "pagemap-shmem": ["pages_id"],
    "ids": ["files_id"],
    "files": ["tty.tty_info_id", "tty.regf_id", "fifo.regf_id", "memfd.inode_id", "usk.peer", "pidfd.nspid",
              "epfd.tfd[].id", "ify.wd[].id", "ffy.mark[].id"],
    "remap-fpath": ["orig_id", "remap_id"],
    "filelocks": ["pid", "fd"],
    "sk-queues": ["id_for"],
    "pipes-data": ["pipe_id"],
    "fifo-data": ["pipe_id"],
    "tty-data": ["tty_id"],
    "memfd": ["shmid"],
    "core": ["tc.timers.posix[].notify_thread_id"],
    "pycriu-files": ["id"], "pycriu-kmsg": ["id"], "pycriu-eventfd": ["id"], "pycriu-timerfd": ["id"],
    "pycriu-epoll": ["id", "slot[].index", "slot[].target"], "pycriu-tun": ["id"], "pycriu-sockets": ["id"],
    "pycriu-pidfd": ["ino"], "pycriu-task": ["tid"], "pycriu-memory": ["start"], "pycriu-packets": ["pipe_id"],
    "pycriu-fifo-packets": ["pipe_id"], "pycriu-ghosts": ["id"], "pycriu-tty": ["index"], "pycriu-fanotify": ["id"],
}  # fmt: skip

# stem → field and a value that it cannot have. A function makes it of the one that is there, and what it is in.
VALUES: dict[str, list[tuple[str, Any]]] = {
    "inventory": [("img_version", 7), ("root_ids", None)],
    "pstree": [("pid", 0), ("pid", 1 << 23), ("threads", []), ("threads", [0]), ("sid", 1 << 23)],
    "core": [
        ("mtype", "S390"), ("tc.task_state", 9), ("tc.comm", "x" * 16), ("tc.oom_score_adj", 1001),
        ("tc.rlimits.rlimits[].max", lambda most, limit: 0 if limit["cur"] else most),
        ("tc.timers.real.vusec", 10**6), ("tc.timers.posix[].vnsec", 10**9), ("tc.timers.posix[].si_signo", 65),
        ("tc.sigactions", lambda actions, _: actions[:-1]), ("tc.signals_s.signals[].siginfo", "AAAA\n"),
        ("thread_info", None), ("thread_info.fpregs.xmm_space", [0]), ("thread_info.fpregs.st_space", []),
        ("thread_core", None), ("thread_core.sched_policy", 9), ("thread_core.sched_nice", 20),
        ("thread_core.sched_prio", 100), ("thread_core.pdeath_sig", 65), ("thread_core.comm", "x" * 16),
        ("thread_core.creds.cap_eff", [1]), ("thread_core.creds.cap_bnd", [1, 2, 3]),
        ("thread_core.creds.secbits", 1 << 31), ("thread_core.signals_p.signals[].siginfo", "AAAA\n"),
        ("thread_core.seccomp_filter", 4000),
    ],
    "ids": [("vm_id", 0), ("files_id", 0), ("fs_id", 0), ("sighand_id", 0), ("net_ns_id", 0), ("pid_ns_id", None)],
    "fs": [("umask", 0o10000)],
    "mm": [
        ("mm_start_brk", 1 << 56), ("mm_arg_start", 1 << 56), ("mm_start_code", 1 << 56), ("mm_env_start", 1 << 56),
        ("mm_saved_auxv", lambda words, _: words[:-1]), ("vmas[].start", lambda at, _: at + 1), ("vmas[].end", 0),
        ("vmas[].end", lambda at, _: at + 7), ("vmas[].status", 1 << 31), ("vmas[].status", 1 << 22),
        ("vmas[].prot", 1 << 20), ("vmas[].flags", 0), ("vmas[].pgoff", 5), ("vmas", []), ("aios[].id", 4096),
    ],
    "pagemap": [
        ("vaddr", lambda at, _: at + 1), ("vaddr", 1 << 40), ("nr_pages", 0), ("compat_nr_pages", 0),
        ("nr_pages", lambda pages, _: pages + 1), ("flags", 0x40), ("flags", "PE_PARENT | PE_PRESENT"),
    ],
    "pagemap-shmem": [("vaddr", lambda at, _: at + 1), ("nr_pages", lambda pages, _: pages + 1), ("flags", 0x40)],
    "fdinfo": [("fd", 1 << 31), ("flags", 0x8000), ("type", "BPFMAP")],
    "files": [
        ("type", "BPFMAP"), ("id", 0x7ABCDE2), ("reg.name", ""), ("reg.mode", 0o3644), ("reg.id", NOBODY),
        ("reg.fown.signum", 65), ("pipe.id", NOBODY), ("pipe.pipe_id", 0), ("fifo.id", NOBODY), ("isk.family", 3),
        ("isk.src_port", 1 << 16), ("isk.dst_port", 70000), ("isk.src_addr", [1, 2]), ("isk.state", 77),
        ("isk.state", 3), ("isk.type", 9), ("isk.id", NOBODY), ("isk.opts.so_snd_tmo_usec", 10**6),
        ("isk.opts.so_sndbuf", 1 << 31), ("usk.type", 9), ("usk.state", 9), ("usk.id", NOBODY),
        ("usk.opts.so_rcv_tmo_usec", 10**6), ("usk.name", "x" * 120), ("efd.counter", (1 << 64) - 1),
        ("efd.id", NOBODY),
        ("epfd.tfd[].tfd", 1 << 30), ("epfd.id", NOBODY), ("tfd.clockid", 5), ("tfd.vnsec", 10**9),
        ("tfd.insec", 10**9), ("tfd.id", NOBODY), ("sgfd.id", NOBODY), ("ify.id", NOBODY),
        ("ify.wd[].f_handle.bytes", 200), ("ffy.id", NOBODY), ("tty.id", NOBODY), ("memfd.id", NOBODY),
        ("nlsk.protocol", 40), ("nlsk.id", NOBODY), ("psk.type", 1), ("psk.version", 3), ("psk.id", NOBODY),
        ("nsf.ns_cflag", 0), ("nsf.id", NOBODY), ("pidfd.id", NOBODY), ("tunf.id", NOBODY),
    ],
    "tcp-stream": [("unsq_len", 1 << 30), ("snd_wscale", 15)],
    "filelocks": [("flag", 3), ("type", 9), ("len", -1)],
    "tty-info": [("termios.c_cc", [0])],
    "memfd": [("seals", 1 << 8)],
    "seccomp": [("seccomp_filters[].filter", "AAAA\n"), ("seccomp_filters[].prev", 4000)],
    "ghost-file": [("mode", 0o3644)],
    "ipcns-shm": [("desc.id", 0x70ABCDE1)],
    "mountpoints": [("parent_mnt_id", 0x7FFFFFF), ("mountpoint", "")],
    "netdev": [("name", ""), ("ifindex", 0)],
    "userns": [("uid_map[].count", 0), ("gid_map[].first", (1 << 32) - 1)],
    "timens": [("monotonic.tv_nsec", 10**9), ("boottime.tv_nsec", 10**9)],
    "utsns": [("nodename", "x" * 65)],
    "sk-queues": [("scm[].type", 7), ("scm[].rights", [NOBODY])],
    "pycriu-timerfd": [("boot", "AAAA\n")], "pycriu-files": [("digest", "AAAA\n")],
    "pycriu-packets": [("bytes", [1])], "pycriu-epoll": [("params", "AAAA\n")],
}  # fmt: skip

# Images in which no two entries may be of the same.
UNIQUE = (
    "pstree", "fdinfo", "files", "remap-fpath", "tty-info", "memfd", "pipes-data", "fifo-data", "ipcns-shm", "netdev",
    "mountpoints", "pycriu-files", "pycriu-eventfd", "pycriu-timerfd", "pycriu-epoll", "pycriu-pidfd", "pycriu-task",
    "pycriu-memory", "pycriu-packets", "pycriu-sockets", "pycriu-tty", "pycriu-ghosts", "pycriu-kmsg",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: how to make it, and what it is called."""

    name: str
    file: str
    plant: Callable[[Path], None]  # into a copy of the checkpoint


def faults(folder: Path) -> Iterator[Fault]:
    """Every fault that can be planted into a checkpoint and that something in it contradicts."""
    silent = _says_nothing(folder)
    for path in sorted(folder.iterdir()):
        kind = catalogue.lookup(path.name)
        if kind is None or kind.framing == catalogue.SERVICE:
            continue
        data = path.read_bytes()
        some = _of_files(path.name, kind, data)
        yield from (fault for fault in some if fault.name.removesuffix(" is missing") not in silent)
        if kind.framing != catalogue.RAW:
            some = _of_entries(path.name, kind, data)
            yield from (fault for fault in some if not fault.name.startswith(silent))


def found(folder: Path) -> list[str]:
    """What `crit check` says of a checkpoint."""
    with open_source(str(folder)) as images:
        return [str(finding) for finding in check.findings(images)]


def plant_all(good: Path, scratch: Path) -> tuple[int, list[str]]:
    """How many faults were planted into a copy, one at a time, and the names of those that were not found there."""
    planted, missed = 0, []
    for fault in faults(good):
        planted += 1
        fault.plant(scratch)
        if not found(scratch):
            missed.append(fault.name)
        shutil.copy2(good / fault.file, scratch / fault.file)
    return planted, missed


def _says_nothing(folder: Path) -> tuple[str, ...]:
    """Beginnings of faults in what nobody asks for: the ids and threads of a process that has ended."""
    tree = decoded.load((folder / "pstree.img").read_bytes(), "pstree.img")["entries"]
    dead = []
    for number, entry in enumerate(tree):
        core = decoded.load((folder / f"core-{entry['pid']}.img").read_bytes(), "core")["entries"][0]
        if core["tc"]["task_state"] == 2:
            dead += [f"ids-{entry['pid']}.img", f"pstree.img: entry {number}: threads"]
    return tuple(dead) or ("\0",)


def _write(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(data) and None


def _of_files(name: str, kind: catalogue.Kind, data: bytes) -> Iterator[Fault]:
    if not kind.stem.startswith(UNSEEN_WHEN_MISSING):
        yield Fault(f"{name} is missing", name, lambda folder: (folder / name).unlink())
    if kind.framing == catalogue.RAW:
        yield Fault(f"{name} has a page too many", name, _write(name, data + bytes(PAGE)))
        if data:
            yield Fault(f"{name} lacks a page", name, _write(name, data[:-PAGE]))
            yield Fault(f"{name} lacks a byte", name, _write(name, data[:-1]))
        return
    yield Fault(f"{name} is empty", name, _write(name, b""))
    if kind.stem != "ghost-file":  # whose content goes on to the end of the file, wherever that is
        if len(data) > 9:
            yield Fault(f"{name} lacks a byte", name, _write(name, data[:-1]))
        yield Fault(f"{name} has a byte too many", name, _write(name, data + b"\0"))
    yield Fault(f"{name} has another first magic", name, _write(name, b"\x11\x22\x33\x44" + data[4:]))
    if kind.framing == catalogue.COMMON:
        yield Fault(f"{name} has another magic", name, _write(name, data[:4] + b"\x11\x22\x33\x44" + data[8:]))
        yield Fault(f"{name} has the magic of another", name, _write(name, data[:4] + b"\x13\x03\x54\x61" + data[8:]))
    if len(data) > 12:
        at = 4 if kind.framing == catalogue.INVENTORY else 8
        yield Fault(f"{name} has an entry without end", name, _write(name, data[:at] + b"\xff" * 4 + data[at + 4 :]))
        yield Fault(
            f"{name} has an entry of garbage", name, _write(name, data[: at + 4] + b"\xff" * (len(data) - at - 4))
        )


def _of_entries(name: str, kind: catalogue.Kind, data: bytes) -> Iterator[Fault]:
    image = decoded.load(data, name)
    for field in REFERENCES.get(kind.stem, []):
        yield from _changed(name, image, field, NOBODY, "leads nowhere")
    for field, value in VALUES.get(kind.stem, []):
        yield from _changed(name, image, field, value, f"is {str(value)[:20]}" if not callable(value) else "is changed")
    if kind.stem in UNIQUE:
        for number in _some(list(range(len(image["entries"])))):
            twice = copy.deepcopy(image)
            twice["entries"].insert(number, twice["entries"][number])
            yield Fault(f"{name}: entry {number} is there twice", name, _write(name, decoded.dump(twice, name)))


def _changed(name: str, image: dict[str, Any], field: str, value: Any, what: str) -> Iterator[Fault]:
    """One fault for each entry, and each place in its lists, that has the field."""
    entries = [
        (number, entry) for number, entry in enumerate(image["entries"]) if any(_places(entry, field.split(".")))
    ]
    for number, entry in _some(entries):
        for place in _some(list(_places(entry, field.split(".")))):
            spoilt = copy.deepcopy(image)
            at = spoilt["entries"][number]
            for step in place[:-1]:
                at = at[step]
            old = at[place[-1]]
            new = value(old, at) if callable(value) else value
            if new == old or (old == 0 and what == "leads nowhere"):
                continue
            if new is None:
                del at[place[-1]]
            else:
                at[place[-1]] = new
            made = decoded.dump(spoilt, name)
            words = ".".join(map(str, place))
            yield Fault(f"{name}: entry {number}: {words} {what}", name, _write(name, made))


def _some(places: list[Any]) -> list[Any]:
    """Of many places that are alike, some from either end and from between."""
    return places if len(places) <= 4 else [places[0], places[1], places[len(places) // 2], places[-1]]


def _places(values: Any, fields: list[str]) -> Iterator[list[Any]]:
    """The paths, as keys and indices, of a field that is there."""
    field, *rest = fields
    name = field.removesuffix("[]")
    if not isinstance(values, dict) or name not in values:
        return
    if field.endswith("[]"):
        for number, one in enumerate(values[name]):
            yield from ([name, number, *path] for path in _places(one, rest))
    elif rest:
        yield from ([name, *path] for path in _places(values[name], rest))
    else:
        yield [name]


def stem_of(name: str) -> str:
    """The kind of an image by its name."""
    return store.kind_of(name).stem
