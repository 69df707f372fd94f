# SPDX-License-Identifier: GPL-2.0-only
"""Clocks of a tree, after the same boot and after another: by how much they are to be ahead of the machine's."""

from __future__ import annotations

import os
import time

import pytest

from pycriu.errors import ImageError
from pycriu.kernel import procfs
from pycriu.resources import clocks

SECOND = 10**9
ANOTHER = tuple(range(16))


def plan(tree: tuple[int, int], machine: tuple[int, int], boot: tuple[int, ...]) -> clocks.Plan:
    return clocks.Plan({clocks.CLOCKS: (*tree, *machine), clocks.BOOT: boot}, 0)


def test_we_are_in_no_time_namespace_or_know_of_it() -> None:
    known = clocks.look(os.getpid())
    ahead = clocks.offsets("self")
    assert [known["clocks"][n] - known["clocks"][n + 2] for n in (0, 1)] == list(ahead)
    assert abs(known["clocks"][0] - time.monotonic_ns()) < SECOND
    assert len(known["boot"]) in (0, 16)


@pytest.mark.skipif(not clocks.can_enter(), reason="no time namespace can be made here")
def test_clocks_of_the_same_boot_stay_as_they_are() -> None:
    ours = clocks.offsets("self")
    machine = (10 * SECOND, 20 * SECOND)
    alike = (machine[0] + ours[0], machine[1] + ours[1])
    assert plan(alike, machine, clocks.boot()).ahead is None
    assert plan((alike[0] + 5, alike[1] + 7), machine, clocks.boot()).ahead == (ours[0] + 5, ours[1] + 7)


@pytest.mark.skipif(not clocks.can_enter(), reason="no time namespace can be made here")
def test_clocks_of_another_boot_go_on() -> None:
    then = time.monotonic_ns() + 3600 * SECOND, time.monotonic_ns() + 7200 * SECOND
    made = plan(then, (1, 1), ANOTHER)
    assert made.remarks == []
    assert made.ahead is not None
    machine = time.monotonic_ns() - clocks.offsets("self")[0]
    assert abs(machine + made.ahead[0] - then[0]) < SECOND


def test_images_that_say_nothing_of_clocks() -> None:
    now = procfs.uptime()
    assert clocks.Plan({}, 0).remarks == []
    assert clocks.Plan({}, now).remarks == []
    (remark,) = clocks.Plan({}, now + 60_000_000).remarks
    assert "goes back by 5" in remark or "goes back by 60" in remark


def test_hostile_clocks() -> None:
    for numbers in ((1, 2, 3), (1 << 63, 1, 1, 1)):
        with pytest.raises(ImageError, match="impossible"):
            clocks.Plan({clocks.CLOCKS: numbers, clocks.BOOT: ANOTHER}, 0)
