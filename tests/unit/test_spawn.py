# SPDX-License-Identifier: GPL-2.0-only
"""Trees out of hostile images, and the small file that a new task runs."""

from __future__ import annotations

import os
import struct
from typing import Any

import pytest

from pycriu.arch.aarch64 import AARCH64
from pycriu.arch.description import Arch, elf
from pycriu.arch.x86_64 import X86_64
from pycriu.errors import ImageError, UserError
from pycriu.images import messages as m
from pycriu.restoring import spawn


def entry(pid: int, ppid: int = 0, threads: tuple[int, ...] | None = None) -> Any:
    return m.pstree_entry(pid=pid, ppid=ppid, pgid=pid, sid=pid, threads=(pid,) if threads is None else threads)


def cores(*pids: int, dead: tuple[int, ...] = ()) -> dict[int, Any]:
    def one(state: int) -> Any:
        task = m.task_core_entry(task_state=state, exit_code=1792, personality=0, flags=0, blk_sigset=0, comm="x")
        return m.core_entry(mtype=1, tc=task)

    return {pid: one(2 if pid in dead else 1) for pid in pids}


def test_tree() -> None:
    root = spawn.tree([entry(5), entry(7, 5), entry(6, 7), entry(9, 5)], cores(5, 7, 6, 9, dead=(9,)))
    assert [(one.pid, one.exit_status) for one in root.walk()] == [(5, None), (7, None), (6, None), (9, 1792)]
    assert [child.pid for child in root.children] == [7, 9]


def test_threads() -> None:
    root = spawn.tree([entry(5, threads=(4, 5, 9)), entry(7, 5, threads=())], cores(5, 7))
    assert root.other_threads == [4, 9]
    assert root.children[0].other_threads == []


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([], "no processes"),
        ([entry(5), entry(5, 5)], "twice"),
        ([entry(0)], "out of bounds"),
        ([entry(1 << 22)], "out of bounds"),
        ([entry((1 << 32) - 1)], "out of bounds"),
        ([entry(5), entry(6, 6)], "not above"),
        ([entry(5), entry(6, 7), entry(7, 6)], "not above"),
        ([entry(5), entry(6, 4)], "not above"),
        ([entry(5, threads=(5, 5))], "twice"),
        ([entry(5, threads=(5, 6)), entry(6, 5)], "twice"),
        ([entry(5), entry(6, 5, threads=(6, 5))], "twice"),
        ([entry(5, threads=(5, 0))], "out of bounds"),
        ([entry(5, threads=(5, 1 << 22))], "out of bounds"),
        ([entry(5, threads=(6, 7))], "no thread of that id"),
    ],
)
def test_tree_that_is_none(entries: list[Any], words: str) -> None:
    with pytest.raises(ImageError, match=words):
        spawn.tree(entries, cores(*(one.pid for one in entries)))


@pytest.mark.parametrize("arch", [X86_64, AARCH64], ids=lambda arch: arch.name)
def test_elf(arch: Arch) -> None:
    image = elf(arch)
    head = struct.unpack_from("<16sHHIQQQIHHHHHH", image)
    assert head[0][:7] == b"\x7fELF\x02\x01\x01"
    assert head[1:3] == (2, arch.elf_machine)
    entry_point, header = head[4], head[5]
    kind, flags, offset, at, _, in_file, in_memory, _ = struct.unpack_from("<IIQQQQQQ", image, header)
    assert (kind, flags, offset) == (1, 5, 0)
    assert in_file == in_memory == len(image) < 200
    code = image[entry_point - at :]
    assert code.startswith(arch.syscall_insn)
    assert entry_point % arch.syscall_align == 0
    assert len(code) > len(arch.syscall_insn), "a trap follows"


def test_pid_of_this_very_process_is_taken() -> None:
    with pytest.raises(UserError, match=f"PID {os.getpid()} is in use by"):
        spawn.refuse_taken([4194303, os.getpid()])
    spawn.refuse_taken([4194303])


def test_threads_of_the_dead_mean_nothing() -> None:
    root = spawn.tree([entry(5), entry(7, 5, threads=(0,))], cores(5, 7, dead=(7,)))
    assert [member.other_threads for member in root.walk()] == [[], []]
