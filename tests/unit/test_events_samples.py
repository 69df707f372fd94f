# SPDX-License-Identifier: GPL-2.0-only
"""fdinfo of the same descriptors as two kernels on two architectures show it: all of it is understood alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from pycriu.fds import epoll, fanotify, inotify, timerfd
from pycriu.kernel import procfs

FOLDER = Path(__file__).parent / "samples" / "fdinfo"
SAMPLES = sorted(path for path in FOLDER.iterdir() if path.name != "README")
ET, EXCLUSIVE, ONESHOT = 1 << 31, 1 << 28, 1 << 30
HEARD = 0x18  # EPOLLERR and EPOLLHUP, which the kernel adds
PERIOD = 30_000_000  # ns


@pytest.fixture(params=SAMPLES, ids=lambda path: path.name)
def sample(request: pytest.FixtureRequest) -> dict[str, list[str]]:
    """Name → the texts of that name."""
    found: dict[str, list[str]] = {}
    for block in request.param.read_text().split("== ")[1:]:
        head, _, text = block.partition("\n")
        found.setdefault(head.rpartition(" ")[0], []).append(text)
    return found


def test_there_are_samples_of_both_architectures() -> None:
    assert {path.name.partition("-")[0] for path in SAMPLES} == {"x86_64", "aarch64"}


def test_counters_and_signals(sample: dict[str, list[str]]) -> None:
    counters = [procfs.parse_fdinfo(text) for text in sample["eventfd"]]
    assert [int(one["eventfd-count"], 16) for one in counters] == [7, 0]
    assert [one["eventfd-semaphore"] for one in counters] == ["1", "0"]
    assert int(procfs.parse_fdinfo(sample["signalfd"][0])["sigmask"], 16) == 1 << 9 | 1 << 63


def test_timers(sample: dict[str, list[str]]) -> None:
    def state(name: str) -> timerfd.State:
        return timerfd.parse(procfs.parse_fdinfo(sample[name][0]))

    for clock in timerfd.CLOCKS:
        one = state(f"timerfd {clock}")
        assert (one.clock, one.ticks, one.flags, one.period) == (clock, 0, 0, PERIOD)
        assert 3.4e9 < one.left <= 3.5e9
    cancelled, past = state("cancel on set"), state("past")
    assert (cancelled.flags, cancelled.left > 90e9) == (3, True)
    assert (past.ticks, past.left, past.period) == (1, 0, PERIOD)  # at rest until somebody asks


def test_sets_of_watches(sample: dict[str, list[str]]) -> None:
    first, nested = (epoll.parse(sample[name][0]) for name in ("epoll", "epoll2"))
    events = sorted(watch.events for watch in first)
    assert events == sorted([1 | HEARD, 4 | HEARD, 1 | HEARD | EXCLUSIVE, ONESHOT, 1 | HEARD | ET])
    assert all(watch.data & 0xFFFF == watch.number for watch in first)
    assert [watch.events for watch in nested] == [1 | HEARD]


def test_watches_on_files(sample: dict[str, list[str]]) -> None:
    found = {watch.number: watch for watch in inotify.parse(sample["inotify"][0])}
    assert {number: watch.mask for number, watch in found.items()} == {1: 0xFFF, 2: 0x84000002, 3: 2, 4: 2}
    for watch in found.values():
        assert watch.target.inode
        assert len(watch.target.handle) in (8, 12)
    assert fanotify.made_with(sample["fanotify"][0])[0] == 3
    marks = fanotify.parse(sample["fanotify"][0])
    assert sorted((mark.type, mark.mask, mark.ignored, mark.flags) for mark in marks) == [
        (fanotify.INODE, 0, 0x20, 0x40), (fanotify.INODE, 0x8000020, 0, 0), (fanotify.MOUNT, 0x20, 0, 0),
        (fanotify.FILESYSTEM, 0x20, 0, 0),
    ]  # fmt: skip


def test_processes(sample: dict[str, list[str]]) -> None:
    pids = {name: int(procfs.parse_fdinfo(sample[name][0])["Pid"]) for name in ("pidfd", "zombie", "dead")}
    assert pids["pidfd"] > 0
    assert pids["zombie"] > 0
    assert pids["dead"] == -1
