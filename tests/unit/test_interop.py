# SPDX-License-Identifier: GPL-2.0-only
"""The page on trips between CRIU and pycriu: written and read alike, and no defect in it."""

from __future__ import annotations

import pytest

from tests import interop
from tests.interop import NO, NONE, OURS, YES, Cell


def test_what_is_written_is_read() -> None:
    cells = [
        Cell(YES),
        Cell(NO, "CRIU 9.9 dump: (criu/a.c:12): no | way for 12345"),
        Cell(NONE, "why"),
        Cell(OURS, "x"),
    ]
    text = interop.page({"pipes": cells}, ["CRIU 9.8", "CRIU 9.9"])
    assert interop.held(text) == {
        ("pipes", "CRIU 9.8", True): YES,
        ("pipes", "CRIU 9.8", False): NO,
        ("pipes", "CRIU 9.9", True): NONE,
        ("pipes", "CRIU 9.9", False): OURS,
    }
    assert "1 of 3." in text


def test_reasons_do_not_differ_from_run_to_run() -> None:
    assert interop.plain("CRIU 4.2.1 dump: (criu/cr-dump.c:676): Can't make FS id for 7354") == (
        "dump: Can't make FS id for N"
    )
    assert interop.plain("FAIL the marks: ['fanotify ino:26a1d5']") == "lost: the marks"
    assert interop.plain("CRIU 4.2.1 restore: (criu/a.c:1): no /tmp/interop-a1b2/x") == "restore: no …/x"


def test_the_page_has_no_defect() -> None:
    said = interop.held(interop.PAGE.read_text(encoding="utf-8"))
    assert said
    assert set(said.values()) <= {YES, NO, NONE}
    assert {name for name, _, _ in said} <= set(interop.VICTIMS)


def test_a_reason_behind_a_yes_is_not_on_the_page() -> None:
    text = interop.page({"pipes": [Cell(YES, "a first try that failed")]}, ["CRIU 9.9"])
    assert "first try" not in text


@pytest.mark.parametrize(
    ("between", "own", "cell"),
    [
        (["PASS"], [], Cell(YES)),
        (["SKIP no such device"], [], Cell(NONE, "no such device")),
        (["FAIL a"], ["FAIL b"], Cell(NO, "FAIL b")),
        (["FAIL a", "PASS"], ["PASS"], Cell(YES, "FAIL a")),
        (["FAIL a", "FAIL c"], ["PASS", "PASS"], Cell(OURS, "FAIL a")),
        (["FAIL a", "FAIL c"], ["PASS", "FAIL b"], Cell(NO, "FAIL b")),
    ],
)
def test_each_is_tried_again_before_it_is_a_defect(between: list[str], own: list[str], cell: Cell) -> None:
    ways = iter(between), iter(own)
    assert interop.judged(*(lambda way=way: next(way) for way in ways)) == cell
    assert [list(way) for way in ways] == [[], []]
