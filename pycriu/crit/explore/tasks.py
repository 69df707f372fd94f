# SPDX-License-Identifier: GPL-2.0-only
"""Processes and their descriptors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pycriu.crit.explore.view import DEAD, REG, View, word
from pycriu.errors import ImageError


def _families(view: View) -> tuple[list[Any], dict[int, list[Any]]]:
    """The roots, and the children of each process, in the order of the image; ImageError where no root leads to all."""
    known = {one.pid for one in view.processes}
    children: dict[int, list[Any]] = {}
    for one in view.processes:
        children.setdefault(one.ppid if one.ppid in known else 0, []).append(one)
    seen: set[int] = set()
    reached = [one.pid for one in children.get(0, [])]
    while reached:
        seen.add(pid := reached.pop())
        reached += [one.pid for one in children.get(pid, []) if one.pid not in seen]
    if len(seen) != len(view.processes):
        raise ImageError("pstree.img: the processes are not one tree")
    return children.get(0, []), children


def _walk(view: View) -> Iterator[tuple[Any, int]]:
    """Every process after its parent, with its depth."""
    roots, children = _families(view)
    todo = [(one, 0) for one in reversed(roots)]
    while todo:
        one, depth = todo.pop()
        yield one, depth
        todo += [(child, depth + 1) for child in reversed(children.get(one.pid, []))]


def ps(view: View) -> Iterator[str]:
    """PID, group, session and name."""
    yield f"{'PID':>7}{'PGID':>7}{'SID':>7}   COMM"
    for one, depth in _walk(view):
        yield f"{one.pid:7}{one.pgid:7}{one.sid:7}   {' ' * 4 * depth}{view.core(one.pid).tc.comm}"


def tree(view: View) -> Iterator[str]:
    """The family, each with its state where that is not usual, its threads, and its program."""
    for one, depth in _walk(view):
        tc = view.core(one.pid).tc
        words = [f"{'  ' * depth}{one.pid} {tc.comm}"]
        if tc.task_state in DEAD:
            words.append(f"dead, status {tc.exit_code:#x}")
        elif tc.task_state != 1:
            words.append(word("task_state", tc.task_state).lower())
        others = [tid for tid in one.threads if tid != one.pid]
        if others:
            words.append("threads " + " ".join(f"{tid} {view.comm(tid)}" for tid in others))
        if tc.task_state not in DEAD:
            words.append(view.file_text(REG, view.one(f"mm-{one.pid}.img").exe_file_id))
        yield "  ".join(words)


def fds(view: View) -> Iterator[str]:
    """Descriptors, working and root directory."""
    for one in view.living():
        yield str(one.pid)
        for entry in view.descriptors(one.pid):
            yield f"\t{entry.fd:7}: {view.file_text(entry.type, entry.id)}"
        fs = view.one(f"fs-{one.pid}.img")
        yield f"\t{'cwd':>7}: {view.file_text(REG, fs.cwd_id)}"
        yield f"\t{'root':>7}: {view.file_text(REG, fs.root_id)}"
