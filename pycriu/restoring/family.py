# SPDX-License-Identifier: GPL-2.0-only
"""In which order a tree of processes is made so that parents, sessions and groups come out right: a list of steps.

A task is born into the session and group of whoever makes it, and can only leave a session by leading a new one. So:

- children that stay in the session that their parent has left are born before it leaves;
- sessions and groups whose leader has ended get one again: a helper with that PID, which ends when all are made;
- a child whose parent never was in its session is made by a task of that session: by a sibling, with CLONE_PARENT; or,
  where the nearest one is further below, by a go-between that ends at once, so that its child falls to the parent,
  which is made a subreaper for that moment. That is how such children come about.

Nothing here touches a process: `survey` asks whether a tree can be made again, `spawn` makes it.
"""

from __future__ import annotations

from pycriu.errors import Unsupported
from pycriu.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# What is to be done. `who` does it, `whom` it concerns, `value` is a group or a subreaper.
ROOT = "root"  # we make `whom`; it is our child
CHILD = "child"  # `who` makes its child `whom`
SIBLING = "sibling"  # `who` makes `whom`, a child of its own parent
THROUGH = "through"  # `who` makes a go-between, that makes `whom`, and ends; `whom` falls to the subreaper `value`
SETSID = "setsid"
SETPGID = "setpgid"  # `who` enters the group `value`
END = "end"  # the helper `who` ends, and its parent `value` (0: we) forgets it


@record
class Kin:
    """What is to be known of a process."""

    pid: int
    parent: int  # 0: the root's is outside
    group: int
    session: int
    maker: int = 0  # who has to make it, where it is not the parent: a sibling, with which it shares something


@record
class Step:
    """One step."""

    what: str
    who: int
    whom: int = 0
    value: int = 0


class Plan:
    """The steps for the tree `family`, parents first. Unsupported where it cannot be made.

    `outside` is the session of the root where that stays the one that it is started from, else 0; the root's group, or
    `group`, if nobody in the tree leads it, is then outside, too. There may be several roots, all our children.
    """

    def __init__(self, family: Iterable[Kin], outside: int = 0, group: int | None = None) -> None:
        self.steps: list[Step] = []
        self.helpers: dict[int, int] = {}  # PID → parent
        self._kin = {kin.pid: kin for kin in family}
        self._root = next(iter(self._kin.values()))
        self._outside = outside
        self._outer_group = self._root.group if group is None else group
        self._children: dict[int, list[Kin]] = {pid: [] for pid in self._kin}
        for kin in self._kin.values():
            if kin.parent:
                self._children[kin.parent].append(kin)
        self._parent: dict[int, int] = {}  # of everybody who has been made
        self._session: dict[int, int] = {}
        self._make_root()
        self._make_other_roots()
        self._make_orphans()
        self._make_groups()
        for pid, parent in reversed(self.helpers.items()):
            self.steps.append(Step(END, pid, value=parent))

    def _do(self, what: str, who: int, whom: int = 0, value: int = 0) -> None:
        self.steps.append(Step(what, who, whom, value))

    def _born(self, pid: int, parent: int, session: int) -> None:
        self._parent[pid], self._session[pid] = parent, session

    def _helper(self, pid: int, parent: int) -> None:
        self.helpers[pid] = parent
        self._do(CHILD, parent, pid) if parent else self._do(ROOT, 0, pid)
        self._born(pid, parent, self._session.get(parent, 0))

    def _lead(self, pid: int) -> None:
        self._do(SETSID, pid)
        self._session[pid] = pid

    def _make_root(self) -> None:
        root = self._root
        if root.session in (root.pid, self._outside):
            self._do(ROOT, 0, root.pid)
        else:
            if root.session in self._kin:
                if any(not kin.parent for kin in self._kin.values() if kin is not root):
                    return  # it may be made later, as an orphan, where it is in the session of another root
                raise Unsupported(f"process {root.pid}, the root, is in session {root.session} of one of its children")
            self._helper(root.session, 0)
            self._lead(root.session)
            self._do(SIBLING, root.session, root.pid)
        self._born(root.pid, 0, self._outside if root.session == self._outside else self._session.get(root.session, 0))
        self._grow(root)

    def _make_other_roots(self) -> None:
        """Those that stay in our session, and leaders for which it will do; others are orphans, born into theirs."""
        for kin in self._kin.values():
            wanted = self._wanted(kin)
            if not kin.parent and kin.pid not in self._parent and (not wanted or self._outside in wanted):
                self._do(ROOT, 0, kin.pid)
                self._born(kin.pid, 0, self._outside)
                self._grow(kin)

    def _grow(self, kin: Kin) -> None:
        """Everything below a process that can be born where it is."""
        if kin.session == kin.pid:
            for child in self._children[kin.pid]:
                if self._wants(child, self._session[kin.pid]):
                    self._bear(kin, child)
            self._lead(kin.pid)
        born = [child for child in self._children[kin.pid] if self._may_bear(kin, child)]
        for child in born:
            self._bear(kin, child)
        for child in self._children[kin.pid]:
            if child.pid in self._parent:
                self._grow(child)

    def _wants(self, kin: Kin, session: int) -> bool:
        """Whether a process has to be born into a session: it is in it, or leads one but has a child that has to."""
        return session in self._wanted(kin)

    def _wanted(self, kin: Kin) -> list[int]:
        """The sessions into which a process may have to be born; any will do for a leader if there is none."""
        if kin.session != kin.pid:
            return [kin.session]
        wanted = [session for child in self._children[kin.pid] for session in self._wanted(child)]
        return [session for session in wanted if session != kin.pid]

    def _may_bear(self, kin: Kin, child: Kin) -> bool:
        wanted = self._wanted(child)
        return child.pid not in self._parent and (not wanted or self._session[kin.pid] in wanted)

    def _bear(self, kin: Kin, child: Kin) -> None:
        """A child, by its parent or by the sibling that has to make it, which comes first."""
        if child.pid in self._parent:
            return
        maker = child.maker if child.maker != kin.pid else 0
        if maker and maker not in self._parent:
            self._bear(kin, self._kin[maker])
        self._do(SIBLING, maker, child.pid) if maker else self._do(CHILD, kin.pid, child.pid)
        self._born(child.pid, kin.pid, self._session[maker or kin.pid])

    def _make_orphans(self) -> None:
        """Those that no parent could bear, and what is below them."""
        while waiting := [kin for kin in self._kin.values() if kin.pid not in self._parent]:
            ready = [kin for kin in waiting if kin.parent in self._parent or not kin.parent]
            if not any(self._make_orphan(kin, ready) for kin in ready):
                kin = ready[0]
                raise Unsupported(
                    f"process {kin.pid} was born into session {self._wanted(kin)[0]}, which its parent {kin.parent} "
                    "has left or never was in, and which nobody below that parent is in"
                )

    def _make_orphan(self, kin: Kin, ready: list[Kin]) -> bool:
        session = self._wanted(kin)[0]
        if session not in self._kin and session not in self._session and session != self._outside:
            self._revive(session, [one.parent for one in ready if self._wants(one, session)])
        mates = [pid for pid, its in self._session.items() if its == session]
        sibling = next((pid for pid in mates if self._parent[pid] == kin.parent), 0)
        below = next((pid for pid in mates if self._is_below(pid, kin.parent)), 0)
        if sibling:
            self._do(SIBLING, sibling, kin.pid)
        elif below:
            self._do(THROUGH, below, kin.pid, kin.parent)
        else:
            return False
        self._born(kin.pid, kin.parent, session)
        self._grow(kin)
        return True

    def _revive(self, session: int, parents: list[int]) -> None:
        """A leader for a session that has lost its own, below all of `parents` if that can be."""
        lowest = max(parents, key=lambda pid: sum(self._is_below(pid, other) for other in parents))
        self._helper(session, lowest)
        self._lead(session)

    def _is_below(self, pid: int, ancestor: int) -> bool:
        while pid and pid != ancestor:
            pid = self._parent[pid]
        return pid == ancestor

    def _make_groups(self) -> None:
        """A group begins with its leader, who may leave it; it lasts as long as it has a member."""
        needed = {kin.group for kin in self._kin.values() if not self._is_outside(kin)}
        leaders = {kin.pid: kin for kin in self._kin.values() if kin.pid in needed and kin.pid != kin.session}
        for pid in leaders:
            self._do(SETPGID, pid, value=pid)
        for kin in self._kin.values():
            if kin.pid not in leaders and kin.pid != kin.session and not self._is_outside(kin):
                self._enter(kin)
        leaving = [kin for kin in leaders.values() if kin.group != kin.pid]
        while leaving:
            first = next((kin for kin in leaving if not self._is_awaited(kin, leaving)), None)
            if first is None:
                raise Unsupported(f"process {leaving[0].pid} and others have each joined the group of another of them")
            self._enter(first)
            leaving.remove(first)

    def _is_outside(self, kin: Kin) -> bool:
        """Whether it is in the group in which the root is started, and stays there."""
        outside = kin.session == self._outside and kin.group == self._outer_group
        return outside and kin.group not in self._kin

    def _is_awaited(self, leader: Kin, leaving: list[Kin]) -> bool:
        """Whether the group that a leader is to leave ends with that, while others are to enter it that still lead."""
        members = [kin for kin in self._kin.values() if kin.group == leader.pid]
        return bool(members) and all(kin in leaving for kin in members)

    def _enter(self, kin: Kin) -> None:
        if kin.group not in self._kin and kin.group not in self.helpers and not self._is_outside(kin):
            self._helper(kin.group, kin.pid)
            self._do(SETPGID, kin.group, value=kin.group)
        self._do(SETPGID, kin.pid, value=kin.group)
