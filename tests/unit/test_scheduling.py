# SPDX-License-Identifier: GPL-2.0-only
"""Scheduling: CPUs that are not here, facts that cannot be."""

from __future__ import annotations

import pytest

from pycriu.errors import ImageError, UserError
from pycriu.images.own import Facts
from pycriu.resources import scheduling


@pytest.fixture(autouse=True)
def two_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduling, "online", lambda: {0, 1})


def test_lists_of_cpus() -> None:
    assert scheduling.parse_cpus("0-3,8\n") == {0, 1, 2, 3, 8}
    assert scheduling.parse_cpus("0\n") == {0}


def test_affinity_that_is_here_in_part_is_remarked_upon() -> None:
    assert scheduling.check({5: {"affinity": (0,)}}) == []
    (remark,) = scheduling.check({5: {"affinity": (1, 7)}})
    assert "task 5" in remark
    assert "7" in remark


def test_affinity_that_is_not_here_is_refused() -> None:
    with pytest.raises(UserError, match=r"CPUs 3,7; this machine has 0,1"):
        scheduling.check({5: {"affinity": (3, 7)}})


@pytest.mark.parametrize(
    "said", [{"affinity": (-1,)}, {"affinity": (1 << 40,)}, {"io_priority": (-1,)}, {"sched_flags": (8,)}]
)
def test_facts_that_cannot_be(said: dict[str, tuple[int, ...]]) -> None:
    facts: Facts = {5: said}
    with pytest.raises(ImageError, match="5"):
        scheduling.check(facts)
