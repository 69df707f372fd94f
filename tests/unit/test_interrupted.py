# SPDX-License-Identifier: GPL-2.0-only
"""Which calls wait for ever."""

from __future__ import annotations

import os

import pytest

from pycriu.arch.aarch64 import AARCH64
from pycriu.arch.description import Arch
from pycriu.arch.x86_64 import X86_64
from pycriu.tracing import interrupted
from pycriu.tracing.limited import Limited

MINUS_ONE = (1 << 32) - 1


@pytest.mark.parametrize("arch", [X86_64, AARCH64], ids=lambda arch: arch.name)
def test_calls_without_a_limit(arch: Arch) -> None:
    unlimited = interrupted.Unlimited(arch)

    def waits(name: str, *arguments: int) -> bool:
        return unlimited.waits_for_ever(arch.syscall_number(name), [*arguments, 0, 0, 0, 0, 0, 0])

    assert waits("epoll_pwait", 3, 0x1000, 10, MINUS_ONE)
    assert waits("epoll_pwait", 3, 0x1000, 10, (1 << 64) - 1)
    assert not waits("epoll_pwait", 3, 0x1000, 10, 0)
    assert not waits("epoll_pwait", 3, 0x1000, 10, 500)
    assert waits("rt_sigtimedwait", 0x1000, 0, 0)
    assert not waits("rt_sigtimedwait", 0x1000, 0, 0x2000)
    assert waits("semop", 1, 0x1000, 1)
    assert not waits("nanosleep", 0x1000, 0)


def test_x86_has_epoll_wait() -> None:
    assert interrupted.Unlimited(X86_64).waits_for_ever(232, [3, 0x1000, 10, MINUS_ONE, 0, 0])


def test_who_runs_waits_for_nothing() -> None:
    assert interrupted.called(os.getpid()) == [] or len(interrupted.called(os.getpid())) == 9
    assert interrupted.called(1 << 23) == []


def test_a_thread_that_ends_before_it_is_noted() -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    waits = Limited(X86_64)
    waits.note(child, [X86_64.syscall_number("epoll_wait"), 5, 0, 16, 1000, 0, 0, 0, 0])
    waits.look()
