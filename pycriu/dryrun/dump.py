# SPDX-License-Identifier: GPL-2.0-only
"""The story of a dump up to where pages would be copied, with every refusal kept instead of raised.

What an option would allow may be refused for another reason, which shows only with the option. So there are rounds:
each adds the options that the obstacles of the one before name, until nothing new is named. By then it has been tried
that the options which are told are enough. Each round stops the tree for as long as a dump would, without the copying.
"""

from __future__ import annotations

import time

from pycriu import arch, pstree, sharing
from pycriu.dryrun import report
from pycriu.dump import preload, take_files
from pycriu.errors import About, Gathering, PycriuError
from pycriu.fds.openfile import OpenFile
from pycriu.fds.table import KINDS, Kinds
from pycriu.home import Gadgets
from pycriu.images import store
from pycriu.resources import limits, memory
from pycriu.snapshot import Snapshot
from pycriu.survey import check_sessions, refuse_relations, survey

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pycriu.arguments import Values
    from pycriu.log import Log
    from pycriu.options import DumpOptions

    Found = dict[str, tuple[PycriuError, object]]

_ROUNDS = 6


class Round:
    """What one look at the tree has found."""

    def __init__(self, options: DumpOptions, log: Log) -> None:
        self.found: Found = {}
        self.tasks = self.threads = self.size = 0
        self.frozen = 0.0  # seconds
        self._cpu, self._kinds = arch.native(), Kinds(options, log)
        preload(self._cpu)
        with Gathering() as gathering, About():
            self._look(options)
        self.found = gathering.found

    def _look(self, options: DumpOptions) -> None:
        gadgets, kinds = Gadgets(self._cpu), self._kinds
        root, self.size = survey(options, gadgets, kinds)
        self.tasks = len(root.walk())
        with About():
            store.refuse_without_room(options.images_dir, self.size)
        begin = time.monotonic()
        try:
            with pstree.Freeze(options.pid, self._cpu, options.timeout) as tree, kinds, memory.Objects() as objects:
                self._look_at_stopped(tree, gadgets, kinds, objects, shell_job=options.shell_job)
        finally:
            self.frozen = time.monotonic() - begin

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

    def kind_of(self, file: OpenFile) -> str:
        """The name of a kind of file, or what it is that no kind handles."""
        for module, _, _, looks in KINDS:
            kind = self._kinds.find(module)
            if looks(file) and (kind is None or kind.matches(file)):
                return module.partition(".")[0]
        from pycriu.fds import refused

        return refused.describe(file)[0]


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
    first = last = Round(build(values), log)
    seen, known, tried = dict(first.found), _keys(first.found), dict(values)
    frozen = first.frozen
    for _ in range(_ROUNDS):
        more = _named(last.found, tried)
        if not more:
            break
        tried |= more
        last = Round(build(tried), log)
        frozen = max(frozen, last.frozen)
        seen |= {message: one for message, one in last.found.items() if _key(*one) not in known}
        known |= _keys(last.found)
    return _report(values, seen, first, last, frozen)


def _report(values: Values, seen: Found, first: Round, last: Round, frozen: float) -> report.Report:
    left = _keys(last.found)
    obstacles: list[report.Obstacle] = []
    options: dict[str, str | bool] = {}
    for error, subject in seen.values():
        named = None if _key(error, subject) in left else report.named_in(error, "dump")
        if named and report.larger(options, *named):
            options[named[0]] = named[1]
        option = report.spelled(*named) if named else None
        kind = first.kind_of(subject) if isinstance(subject, OpenFile) else None
        obstacles.append(report.about(error, subject, option, kind))
    facts = {
        "processes": first.tasks, "threads": first.threads, "kibibytes": first.size >> 10,
        "microseconds_stopped": round(frozen * 1e6),
    }  # fmt: skip
    size = f"{report.count(first.tasks, 'process', 'processes')}, {report.count(first.threads, 'thread')}"
    summary = f"{size}, {facts['kibibytes']} KiB; stopped for {frozen * 1e3:.1f} ms" if first.tasks else ""
    return report.Report("dump", obstacles, [report.spelled(*one) for one in options.items()], facts, summary)


def _named(found: Found, tried: Values) -> Values:
    """Options that obstacles name and that have not been tried."""
    more: Values = {}
    for error, _ in found.values():
        named = report.named_in(error, "dump")
        if named and report.larger(tried | more, *named):
            more[named[0]] = named[1]
    return more


def _keys(found: Found) -> set[object]:
    return {_key(*one) for one in found.values()}


def _key(error: PycriuError, subject: object) -> object:
    """The same for what is the same obstacle in another round, though numbers in its sentence have changed."""
    if isinstance(subject, OpenFile):
        return subject.pid, subject.fd, error.message.translate(_NO_DIGITS)
    return error.message


_NO_DIGITS = dict.fromkeys(map(ord, "0123456789"))
