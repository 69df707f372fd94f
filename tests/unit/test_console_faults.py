# SPDX-License-Identifier: GPL-2.0-only
"""Reading kernel logs, terminals and the loop's log: text in, values out, on recorded samples."""

from __future__ import annotations

from pathlib import Path

import pytest

from layer.target import faults, looplog
from layer.target.vt100 import Filter

SAMPLES = Path(__file__).parent / "samples" / "console"


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("panic.txt", faults.KernelPanic, "Attempted to kill init"),
        ("oops.txt", faults.KernelOops, "NULL pointer dereference"),
        ("oops-aarch64.txt", faults.KernelOops, "Unable to handle kernel"),
        ("lockup.txt", faults.SoftLockup, "soft lockup"),
        ("hung-task.txt", faults.SoftLockup, "blocked for more than"),
        ("stall.txt", faults.RcuStall, "stall"),
        ("oom.txt", faults.OutOfMemory, "Out of memory"),
    ],
)
def test_recorded_trouble_is_recognised(name: str, kind: type[faults.GuestError], words: str) -> None:
    fault = faults.worst((SAMPLES / name).read_text().splitlines())
    assert fault is not None
    assert (fault.kind, words in fault.line) == (kind, True)


def test_a_recorded_boot_is_no_trouble() -> None:
    assert faults.every((SAMPLES / "boot.txt").read_text().splitlines()) == ()


@pytest.mark.parametrize(
    "line",
    [
        "the program said: Oops: 0002",
        "grep 'Kernel panic - not syncing' log",
        "[    0.5] rcu: Hierarchical RCU implementation.",
        "[    1.000000] WARNING: CPU: 0 PID: 1 at kernel/fork.c:1 x",
        "[    1.000000] 9p: BUGGY client",
    ],
)
def test_words_that_look_like_trouble_are_none(line: str) -> None:
    assert faults.judge(line) is None


def test_trouble_behind_a_prompt_counts_when_the_kernel_stamped_it() -> None:
    fault = faults.judge("# ls /pr[   12.345678][   T1] Oops: 0000 [#1]")
    assert fault is not None and fault.kind is faults.KernelOops


def test_a_log_level_in_front_does_not_hide_it() -> None:
    assert faults.judge("<0>Kernel panic - not syncing: x") is not None


def test_everything_fed_byte_by_byte_comes_out_as_at_once() -> None:
    text = "a\x1b[6nb\r\r\nc\x1b[1;32md\x1b[0m\r\ne\x1b]0;title\x07f\x1b(Bg\rh\x08\n"
    whole, single = Filter(), Filter()
    expected = whole.feed(text) + whole.close()
    assert expected == "ab\ncd\nefg\rh\n"
    assert "".join(single.feed(letter) for letter in text) + single.close() == expected


def test_an_escape_without_an_end_does_not_swallow_the_rest() -> None:
    plain = Filter()
    assert "x" * 400 in plain.feed("\x1b]" + "x" * 400) + plain.close()


LOG = "Tue Aug 26 18:21:24 UTC 2014\nTue Aug 26 18:21:25 UTC 2014\nTue Aug 26 18:21:54 UTC 2014\n"


def test_the_walk_throughs_own_log_has_its_gap() -> None:
    times = looplog.stamps(LOG)
    assert times[0] == 1409077284
    assert looplog.gaps(times, 3) == (looplog.Gap(2, 29),)


def test_busybox_pads_days_with_a_blank() -> None:
    assert looplog.stamps("Sat Nov  1 00:00:00 UTC 2026\n") == looplog.stamps("Sat Nov 01 00:00:00 UTC 2026\n")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (LOG + LOG.splitlines(keepends=True)[2], "doubled"),
        (LOG + LOG.splitlines(keepends=True)[0], "older"),
        (LOG + "Tue Aug 26 18:2", "cut"),
        (LOG + "Terminated\n", "no date"),
    ],
)
def test_a_log_that_the_loop_does_not_write_is_refused(text: str, why: str) -> None:
    with pytest.raises(looplog.Misread, match=why):
        looplog.gaps(looplog.stamps(text), 3)
