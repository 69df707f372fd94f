# SPDX-License-Identifier: GPL-2.0-only
"""The story of a dump up to where pages would be copied, with every refusal kept instead of raised.

There are `rounds`. Each stops the tree for as long as a dump would, without the copying.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace

from pycriu import arch, sharing
from pycriu.dryrun import report, rounds
from pycriu.dump import opened_parent, preload, take_files
from pycriu.dumping.snapshot import Snapshot
from pycriu.dumping.survey import check_sessions, refuse_relations, survey
from pycriu.errors import About, Gathering, PycriuError, UserError
from pycriu.fds.openfile import OpenFile
from pycriu.fds.table import KINDS, Kinds
from pycriu.images import store
from pycriu.resources import limits, memory
from pycriu.tracing import pstree
from pycriu.tracing.haste import Haste
from pycriu.tracing.home import Gadgets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pycriu.command.arguments import Values
    from pycriu.log import Log
    from pycriu.options import DumpOptions


class Round(rounds.Round):
    """What one look at the tree has found."""

    def __init__(self, options: DumpOptions, log: Log) -> None:
        self.found = {}
        self.frozen = 0.0  # seconds
        self._cpu, self._kinds, self._log = arch.native(), Kinds(options, log), log
        preload(self._cpu)
        with Gathering() as gathering, About():
            self._look(options)
        for message, (error, subject) in gathering.found.items():
            about = self._descriptor(subject) if isinstance(subject, OpenFile) else subject
            self.found[message] = error, about

    def _look(self, options: DumpOptions) -> None:
        gadgets, kinds = Gadgets(self._cpu), self._kinds
        root, self.size = survey(options, gadgets, kinds)
        self.tasks = len(root.walk())
        self._look_at_directories(options)
        begin = time.monotonic()
        try:
            with (
                Haste(),
                pstree.Freeze(options.pid, self._cpu, options.timeout, options.find) as tree,
                kinds,
                memory.Objects() as objects,
            ):
                self._look_at_stopped(tree, gadgets, kinds, objects, shell_job=options.shell_job)
        finally:
            self.frozen = time.monotonic() - begin

    def _look_at_directories(self, options: DumpOptions) -> None:
        """Where the images go, and those to build upon."""
        with About():
            if not os.access(options.images_dir, os.W_OK | os.X_OK):
                raise UserError(f"{options.images_dir} may not be written to", "-D names another directory")
        with About(), opened_parent(options, self._log):
            # Pages go elsewhere, unless the tree runs on meanwhile; how many have changed since a parent, nobody knows.
            elsewhere = options.page_server is not None and not options.leave_running
            if not elsewhere and (options.prev_images_dir is None or options.page_server is not None):
                store.refuse_without_room(options.images_dir, self.size)

    def _look_at_stopped(
        self, tree: pstree.Freeze, gadgets: Gadgets, kinds: Kinds, objects: memory.Objects, *, shell_job: bool
    ) -> None:
        with About():
            check_sessions(tree.root, shell_job=shell_job)
        snapshots = _snapshots(tree, gadgets, kinds)
        self.threads = len(tree.tasks)
        for snapshot in snapshots:
            with About(snapshot.pid):
                snapshot.ask()
        take_files(tree.root, snapshots, kinds, objects)
        for snapshot in snapshots:
            with About(snapshot.pid):
                memory.check_idle(snapshot.task, snapshot.rings)

    def _descriptor(self, file: OpenFile) -> report.Descriptor:
        for module, _, _, looks in KINDS:
            kind = self._kinds.find(module)
            if looks(file) and (kind is None or kind.matches(file)):
                return report.Descriptor(file.pid, file.fd, module.partition(".")[0])
        from pycriu.fds import refused

        return report.Descriptor(file.pid, file.fd, refused.describe(file)[0])


def _snapshots(tree: pstree.Freeze, gadgets: Gadgets, kinds: Kinds) -> list[Snapshot]:
    """Of everybody who can be looked at whole; nobody else is made to work for us."""
    live = [process for process in tree.root.walk() if not process.zombie]
    shared = sharing.shares([process.pid for process in live])
    with About():
        refuse_relations(live, shared)
    whole: dict[int, Snapshot] = {}
    for one in live:
        snapshot = Snapshot(one, tree.threads(one), gadgets, kinds, shared[one.pid])
        others = set(snapshot.shares) - {one.pid}
        with About(one.pid):
            if others <= set(whole):
                snapshot.look(whole)
                whole[one.pid] = snapshot
    return list(whole.values())


def dump(values: Values, build: Callable[[Values], DumpOptions], log: Log) -> report.Report:
    """What a dump with the options `values` would say; `build` makes the options of a dump of such values."""
    limits.raise_own_descriptor_limit()
    done = rounds.Rounds("dump", values, lambda tried: Round(build(tried), log))
    frozen = max(one.frozen for one in done.looks)
    told = done.report(_obstacle)
    told.facts["microseconds_stopped"] = round(frozen * 1e6)
    if told.summary:
        told.summary += f"; stopped for {frozen * 1e3:.1f} ms"
    return told


def _obstacle(error: PycriuError, subject: object, option: str | None) -> report.Obstacle:
    told = report.Obstacle(error.message, error.hint, option=option)
    if isinstance(subject, report.Descriptor) and subject.process is not None:
        name = report.command(subject.process)
        return replace(told, process=subject.process, command=name, descriptor=subject.number, kind=subject.kind)
    return replace(told, process=subject, command=report.command(subject)) if isinstance(subject, int) else told
