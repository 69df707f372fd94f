# SPDX-License-Identifier: GPL-2.0-only
"""What a restore here and now would be refused for. All images are read as for a restore; then each thing that it would
open, bind or make is looked at from outside, and nothing is opened, bound or made.

Kernel features, and whether this CPU takes the registers of the checkpoint, are tried on a child that is thrown away.
Options are tried in rounds, as for a dump.
"""

from __future__ import annotations

import os

from pycriu import arch
from pycriu.arch import cpuinfo
from pycriu.check import describe, probe, running_configuration
from pycriu.dryrun import report, rounds
from pycriu.errors import About, Gathering, ImageError, PycriuError, UserError
from pycriu.fds.table import KINDS, Kinds
from pycriu.images import store
from pycriu.probes.subject import Subject
from pycriu.probes.table import FEATURES
from pycriu.resources import limits, memory
from pycriu.restore import asked_edits, check_cpu, check_uprobes, demand_plugins, refuse_pidfile
from pycriu.restoring import spawn
from pycriu.restoring.reading import Checkpoint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pycriu.command.arguments import Values
    from pycriu.log import Log
    from pycriu.options import RestoreOptions

REGULAR = 1  # fd_types.REG

# Features that a restore needs: of any tree, and by the module of a kind of file.
OF_ALL = ("ptrace_seize", "proc_mem", "clone3_set_tid", "execveat_memfd", "set_mm_map", "vdso_remap", "pidfd_getfd")
OF_KINDS = {
    "eventfd": ("eventfd",), "epoll": ("epoll",), "signalfd": ("signalfd",), "timerfd": ("timerfd_ticks",),
    "inotify": ("inotify_numbers",), "fanotify": ("fanotify",), "pidfd": ("pidfd_open",), "tun": ("tun",),
    "tty.kind": ("ptmx",), "unix.kind": ("unix_socket",), "inet.kind": ("inet_socket",),
}  # fmt: skip
OF_CONNECTIONS = ("tcp_repair", "tcp_half_closed", "tcp_window")


class Round(rounds.Round):
    """What one look at the checkpoint and this machine has found."""

    def __init__(self, options: RestoreOptions, log: Log) -> None:
        self.remarks: list[str] = []
        self._options = options
        with Gathering() as gathering, About(), store.ImagesDir(options.images_dir) as images:
            images.edited = self._edits = asked_edits(options)
            kinds = Kinds(options, log)
            with About():
                demand_plugins(images, kinds, options, log)
            checkpoint = Checkpoint(images, arch.native(), kinds)
            try:
                if not any(isinstance(error, ImageError) for error, _ in gathering.found.values()):
                    self._look(images, checkpoint, kinds)
            finally:
                checkpoint.close()
                for kind in kinds.all:
                    kind.close()
        self.found = gathering.found

    def _look(self, images: store.ImagesDir, checkpoint: Checkpoint, kinds: Kinds) -> None:
        options = self._options
        self.tasks = len(checkpoint.root.walk())
        self.threads = sum(len(task.threads) for task in checkpoint.tasks.values())
        with About():
            self.remarks += self._edits.check_used() if self._edits else []
        self.remarks += checkpoint.check_here()
        with About():
            check_uprobes(images, options)
        with About():
            check_cpu(images, options)
        if options.cpu_cap is None:
            self.remarks += cpuinfo.remarks(images)
        with About():
            if options.shell_job and not options.detached:
                spawn.join_our_group(checkpoint.root)
            spawn.plan(checkpoint.root, shell_job=options.shell_job, outer_group=options.outer_group)
        with About():
            refuse_pidfile(options.pidfile)
        self._look_at_files(checkpoint, kinds)
        with About():
            memory.check_huge_pages([task.plan for task in checkpoint.tasks.values()])
        checkpoint.segments.rehearse()
        self._look_at_memory(images)
        self._try_features(checkpoint, kinds)

    def _look_at_files(self, checkpoint: Checkpoint, kinds: Kinds) -> None:
        lent = {number for kind in kinds.all for number in kind.lent}
        paths = {entry.id: entry.reg.name for entry in checkpoint.files if entry.type == REGULAR}
        owners = {one.id: (pid, one.fd) for pid, task in checkpoint.tasks.items() for one in task.descriptors}
        for entry in checkpoint.files:
            if entry.type == REGULAR and entry.id in lent:
                continue
            if kinds.inherited is not None and kinds.inherited.has(entry, kinds):
                continue
            process, number = owners.get(entry.id, (None, None))
            with About(report.Descriptor(process, number, _name_of(entry.type))):
                kinds.by_type(entry).rehearse(entry)
        tables = {pid: {one.fd: one.id for one in task.descriptors} for pid, task in checkpoint.tasks.items()}
        kinds.locks.rehearse(lambda pid, number: paths.get(tables.get(pid, {}).get(number, 0)))

    def _look_at_memory(self, images: store.ImagesDir) -> None:
        """Pages of all images against what the machine, and our control group, have left."""
        sizes = [entry.stat() for entry in os.scandir(images.path) if entry.name.startswith("pages-")]
        self.size = sum(min(one.st_size, one.st_blocks * 512) for one in sizes)
        with About():
            left, where = available_memory()
            if self.size > left:
                raise UserError(
                    f"the tree has {self.size >> 20} MiB of memory; {left >> 20} MiB are left {where}",
                    "free some memory",
                )

    def _try_features(self, checkpoint: Checkpoint, kinds: Kinds) -> None:
        wanted = set(OF_ALL)
        for module, names in OF_KINDS.items():
            if kinds.find(module):
                wanted.update(names)
        if any(kind.is_delicate() for kind in kinds.all if kind.TYPE != REGULAR):
            wanted.update(OF_CONNECTIONS)
        if any(thread.seccomp.mode for task in checkpoint.tasks.values() for thread in task.threads):
            wanted.add("seccomp_suspend")
        chosen = tuple(feature for feature in FEATURES if feature.name in wanted)
        machine, configuration = os.uname().machine, running_configuration()
        for miss in probe(chosen):
            _, *lines = describe(miss, machine, configuration)
            with About():
                raise UserError(
                    f"this kernel lacks {miss.feature.name}, for {miss.feature.purpose}: {miss.said}",
                    "; ".join(line.strip() for line in lines[1:]) or None,
                )
        cpu = arch.native()
        for task in checkpoint.tasks.values():
            for thread in task.threads:
                with About(task.pid), Subject() as subject:
                    cpu.restore_others(subject.pid, thread.core, thread.extras)


def available_memory() -> tuple[int, str]:
    """Bytes that can be had without anybody being killed for it, and whose limit that is."""
    told = {}
    with open("/proc/meminfo") as file:
        for line in file:
            name, value = line.split()[:2]
            told[name] = int(value) << 10
    machine = told.get("MemAvailable:", told["MemFree:"]) + told["SwapFree:"]
    group = _left_in_group()
    return (group, "to our control group") if group is not None and group < machine else (machine, "on this machine")


def _left_in_group() -> int | None:
    """Of memory.max of our own group of control groups v2; None where there is no limit."""
    try:
        with open("/proc/self/cgroup") as file:
            path = next(line.rstrip("\n")[3:] for line in file if line.startswith("0::"))
        with open(f"/sys/fs/cgroup{path}/memory.max") as most, open(f"/sys/fs/cgroup{path}/memory.current") as now:
            return int(most.read()) - int(now.read())
    except (OSError, StopIteration, ValueError):  # no such group, or "max"
        return None


def _name_of(number: int) -> str:
    """The name of the kind of a file_entry's type."""
    return next((module.partition(".")[0] for module, _, type_, _ in KINDS if type_ == number), "unknown")


def restore(values: Values, build: Callable[[Values], RestoreOptions], log: Log) -> report.Report:
    """What a restore with the options `values` would say; `build` makes the options of a restore of such values."""
    limits.raise_own_descriptor_limit()
    done = rounds.Rounds("restore", values, lambda tried: Round(build(tried), log))
    told = done.report(_obstacle)
    told.remarks += done.first.remarks
    return told


def _obstacle(error: PycriuError, subject: object, option: str | None) -> report.Obstacle:
    """The processes are those of the checkpoint, of which none lives."""
    if isinstance(subject, report.Descriptor):
        number, kind = subject.number, subject.kind
        return report.Obstacle(error.message, error.hint, subject.process, None, number, kind, option)
    return report.Obstacle(error.message, error.hint, subject if isinstance(subject, int) else None, option=option)
