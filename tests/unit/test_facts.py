# SPDX-License-Identifier: GPL-2.0-only
"""pycriu's own images: what is written is read, and nothing else is."""

from __future__ import annotations

from typing import Any

import pytest

from pycriu.errors import ImageError
from pycriu.images import catalogue, framing, own
from pycriu.images import messages as m
from tests.images import InMemory, framed

TASK = "pycriu-task-12.img"


def test_round_trip() -> None:
    said: own.Facts = {
        12: {"affinity": (0, 7), "timer_slack": (1 << 63,)},
        13: {"tsc": (2,), "exit_signal": (0,)},
        14: {},
    }
    images = InMemory({TASK: own.task_entries(said)})
    assert own.facts(images.read_if_there(TASK), "tid", TASK) == {12: said[12], 13: said[13]}
    assert own.task_entries({}) == own.task_entries({5: {}}) == []
    assert images.read_if_there("pycriu-task-13.img") == []


def test_what_is_said_twice_is_refused() -> None:
    twice = [m.pycriu_task_entry(tid=12), m.pycriu_task_entry(tid=12)]
    with pytest.raises(ImageError, match=f"^{TASK}: two entries say something of 12"):
        own.facts(twice, "tid", TASK)


def _entries(data: bytes) -> list[Any]:
    kind = catalogue.lookup(TASK)
    assert kind is not None
    return list(framing.entries(kind, data, TASK))


def test_unknown_fields_are_refused() -> None:
    good = m.pycriu_task_entry(tid=12, slice=7)
    unknown = good.SerializeToString() + b"\xf8\x07\x01"  # field 127
    head = framed(TASK, [])
    assert _entries(framed(TASK, [good]))[0][0] == good
    with pytest.raises(ImageError, match="a field that is not known"):
        _entries(head + len(unknown).to_bytes(4, "little") + unknown)


@pytest.mark.parametrize("spoil", [lambda data: data[:-1], lambda data: b"\0" + data[1:], lambda data: data + b"\1\0"])
def test_lies(spoil: Any) -> None:
    with pytest.raises(ImageError, match=f"^{TASK}"):
        _entries(spoil(framed(TASK, [m.pycriu_task_entry(tid=12, affinity=[1, 2])])))


def test_all_of_ours_are_read_strictly_and_have_a_magic() -> None:
    ours = [kind for kind in catalogue.KINDS if kind.stem.startswith("pycriu-")]
    assert ours == [kind for kind in catalogue.KINDS if kind.own]
    assert all(kind.magic for kind in ours)
    assert len({kind.magic for kind in ours} | {kind.magic for kind in catalogue.KINDS if not kind.own}) == len(
        ours
    ) + len({kind.magic for kind in catalogue.KINDS if not kind.own})
