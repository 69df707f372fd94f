# SPDX-License-Identifier: GPL-2.0-only
"""While a tree stands still we come before others, and no longer."""

from __future__ import annotations

import os
import threading

import pytest

from pycriu.tracing.haste import Haste

OURS = os.PRIO_PROCESS, 0


@pytest.mark.skipif(os.geteuid() != 0, reason="coming before others needs CAP_SYS_NICE")
def test_until_it_ends_and_in_the_threads_that_are_started_meanwhile() -> None:
    before = os.getpriority(*OURS)
    seen: list[int] = []
    with Haste() as haste:
        helper = threading.Thread(target=lambda: seen.append(os.getpriority(*OURS)))
        helper.start()
        helper.join()
        seen.append(os.getpriority(*OURS))
        haste.end()
        seen.append(os.getpriority(*OURS))
    assert [*seen, os.getpriority(*OURS)] == [-20, -20, before, before]


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming somebody else needs root")
def test_who_may_not_goes_on_as_before() -> None:
    child = os.fork()
    if not child:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        before = os.getpriority(*OURS)
        with Haste():
            within = os.getpriority(*OURS)
        os._exit(0 if within == before == os.getpriority(*OURS) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
