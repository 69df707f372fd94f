# SPDX-License-Identifier: GPL-2.0-only
"""Signals between the kernel's structures and the image."""

from __future__ import annotations

import struct

from pycriu.arch.x86_64 import X86_64
from pycriu.images import messages as m
from pycriu.resources import signals
from pycriu.tracing.tracee import Remote, Tracee

ACTIONS = tuple((number, number << 8, number << 16, number << 24) for number in range(1, 63))


def remote() -> Remote:
    """One that has not been entered: it collects data, and nobody runs anything."""
    return Remote(Tracee(0, X86_64))


def core(stack: tuple[int, int, int], **more: object) -> m.core_entry:
    zero = m.creds_entry(uid=0, gid=0, euid=0, egid=0, suid=0, sgid=0, fsuid=0, fsgid=0)
    return m.core_entry(
        mtype=1,
        tc=m.task_core_entry(
            task_state=1, exit_code=0, personality=0, flags=0, blk_sigset=5, comm="x",
            sigactions=signals.action_entries(ACTIONS), signals_s=signals.queue_entry((bytes([34]) + bytes(127),)),
        ),
        thread_core=m.thread_core_entry(
            futex_rla=0, futex_rla_len=0, creds=zero, sas=signals.stack_entry(stack),
            signals_p=signals.queue_entry((bytes([12]) + bytes(127),)), **more,
        ),
    )  # fmt: skip


def test_there_are_62_actions() -> None:
    assert len(signals.SIGNALS) == 62
    assert not {9, 19} & set(signals.SIGNALS)


def test_rows_set_every_action_and_keep_the_queues_apart() -> None:
    image = core((0x1000, 8192, 0))
    rows = signals.rows(image, 77, remote())
    assert [row.args[0] for row in rows if row.name == "rt_sigaction"] == list(signals.SIGNALS)
    assert [row.args[:2] for row in rows if row.name == "rt_sigqueueinfo"] == [(77, 34)]
    own = signals.thread_rows(image.thread_core, 77, 78, remote())
    assert [row.name for row in own] == ["sigaltstack", "rt_tgsigqueueinfo"]
    assert own[1].args[:3] == (77, 78, 12)


def test_stack_flags() -> None:
    autodisarm = 1 << 31
    entry = signals.stack_entry((0x1000, 8192, autodisarm | signals.SS_ONSTACK))
    assert entry.ss_flags & 0xFFFFFFFF == autodisarm
    rows = signals.thread_rows(core((0, 0, signals.SS_DISABLE)).thread_core, 77, 77, remote())
    assert not [row for row in rows if row.name == "sigaltstack"]


def test_mask_of_the_thread_goes_before_that_of_the_process() -> None:
    assert signals.mask(core((0, 0, 2))) == 5
    assert signals.mask(core((0, 0, 2), blk_sigset=1 << 63)) == 1 << 63


def test_kernel_structures() -> None:
    assert signals._KERNEL_SIGACTION.size == 32
    assert signals._STACK_T.size == struct.calcsize("Pi4xN") == 24
