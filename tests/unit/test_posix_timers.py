# SPDX-License-Identifier: GPL-2.0-only
"""POSIX timers: what /proc says of them, the entries, and images that lie."""

from __future__ import annotations

from typing import Any

import pytest

from pycriu.arch.x86_64 import X86_64
from pycriu.errors import ImageError, Unsupported
from pycriu.images import messages as m
from pycriu.resources import posix_timers
from pycriu.tracing.tracee import Remote, Row, Tracee

SAMPLE = """\
ID: 7
signal: 10/0000000000000000
notify: none/pid.2634
ClockID: -6
ID: 1
signal: 60/00007fff86e452a8
notify: signal/tid.2635
ClockID: 0
"""


class Recorder(Remote):
    """Nobody runs anything: the tables are kept."""

    def __init__(self) -> None:
        super().__init__(Tracee(0, X86_64))
        self.tables: list[list[Row]] = []

    def calls(self, rows: list[Row]) -> list[int]:
        self.tables.append(rows)
        return [0] * len(rows)


def entry(number: int = 1, **changes: Any) -> Any:
    values = {
        "it_id": number, "clock_id": 1, "si_signo": 14, "it_sigev_notify": 0, "sival_ptr": 0, "overrun": 0,
        "isec": 1, "insec": 2, "vsec": 3, "vnsec": 4,
    }  # fmt: skip
    return m.posix_timer_entry(**{**values, **changes})


def test_sample() -> None:
    first, second = posix_timers.parse(SAMPLE)
    assert (first.number, first.signal, first.value, first.clock) == (1, 60, 0x7FFF86E452A8, 0)
    assert (first.notify, first.thread) == (posix_timers.SIGEV_THREAD_ID, 2635)
    assert (second.number, second.notify, second.thread, second.clock) == (7, posix_timers.SIGEV_NONE, 0, -6)
    assert posix_timers.parse("") == ()


def test_entries() -> None:
    timers = posix_timers.Timers(posix_timers.parse(SAMPLE), ((1, 2, 3, 4), (0, 0, 0, 0)), (5, 0))
    first, second = posix_timers.entries(timers)
    assert (first.isec, first.insec, first.vsec, first.vnsec, first.overrun) == (1, 2, 3, 4, 5)
    assert first.notify_thread_id == 2635
    assert not second.HasField("notify_thread_id")
    assert second.clock_id == (1 << 32) - 6
    first.SerializeToString()


@pytest.mark.parametrize(
    "wrong",
    [
        {"it_sigev_notify": 3 | 4},
        {"si_signo": 65},
        {"si_signo": 0},
        {"it_sigev_notify": 4, "notify_thread_id": 8},
        {"vnsec": 10**9},
        {"isec": 1 << 63},
        {"it_id": 1 << 31},
    ],
)
def test_images_that_lie(wrong: dict[str, int]) -> None:
    with pytest.raises(ImageError, match=r"core-9\.img: timer"):
        posix_timers.check(9, [entry(**{"number": wrong.pop("it_id", 1), **wrong})], {9})
    with pytest.raises(ImageError, match="twice"):
        posix_timers.check(9, [entry(), entry()], {9})
    posix_timers.check(9, [entry(), entry(2, it_sigev_notify=4, notify_thread_id=9)], {9})


def test_an_absurd_id_where_ids_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posix_timers, "ids_can_be_asked_for", lambda: False)
    with pytest.raises(Unsupported, match="count up"):
        posix_timers.check(9, [entry(posix_timers.COUNTABLE)], {9})


def test_ids_are_counted_up_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posix_timers, "ids_can_be_asked_for", lambda: False)
    remote = Recorder()
    posix_timers.make(remote, [entry(3), entry(1)])
    (table,) = remote.tables
    assert [row.name for row in table] == [
        "timer_create", "timer_delete", "timer_create", "timer_getoverrun", "timer_create", "timer_delete",
        "timer_create", "timer_getoverrun",
    ]  # fmt: skip
    assert [row.args[0] for row in table[1::2]] == [0, 1, 2, 3]


def test_ids_are_asked_for_and_only_armed_timers_armed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posix_timers, "ids_can_be_asked_for", lambda: True)
    remote = Recorder()
    timers = [entry(70), entry(20, vsec=0, vnsec=0)]
    posix_timers.make(remote, timers)
    posix_timers.arm(remote, timers)
    make, arm = remote.tables
    assert [(row.name, row.args[-1]) for row in (make[0], make[-1])] == [("prctl", 1), ("prctl", 0)]
    assert [row.args[0] for row in arm] == [70]


def test_more_timers_than_one_table_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posix_timers, "ids_can_be_asked_for", lambda: True)
    remote = Recorder()
    posix_timers.make(remote, [entry(number) for number in range(1000)])
    assert len(remote.tables) == 4
