# SPDX-License-Identifier: GPL-2.0-only
"""Refusals: one at a time where the first ends the action, all of them where they are gathered."""

from __future__ import annotations

import threading

import pytest

from pycriu.errors import About, Gathering, Several, TraceeGone, Unsupported, UserError, at_once


def look(*numbers: int) -> list[int]:
    """Refuses the odd ones."""
    kept = []
    for number in numbers:
        with About(number):
            if number % 2:
                raise Unsupported(f"{number} is odd", f"try {number + 1}")
            kept.append(number)
    return kept


def test_the_first_refusal_ends_an_action_that_does_not_gather() -> None:
    with pytest.raises(Unsupported, match="3 is odd"):
        look(2, 3, 4, 5)


def test_gathered_each_once_with_what_it_is_about() -> None:
    with Gathering() as gathering:
        assert look(2, 3, 4, 5, 3) == [2, 4]
    assert [(error.message, about) for error, about in gathering.found.values()] == [("3 is odd", 3), ("5 is odd", 5)]
    with pytest.raises(Unsupported, match="3 is odd"):
        look(3)


def test_what_is_no_refusal_passes() -> None:
    with Gathering(), pytest.raises(TraceeGone), About():
        raise TraceeGone("it ended")
    with Gathering(), pytest.raises(KeyboardInterrupt), About():
        raise KeyboardInterrupt


def test_one_is_raised_as_it_is() -> None:
    with pytest.raises(Unsupported) as raised:
        at_once(lambda: look(2, 3))
    assert type(raised.value) is Unsupported
    assert str(raised.value) == "3 is odd\n  try 4"


def test_several_are_raised_together_with_the_one_that_ended_it() -> None:
    def work() -> None:
        look(3, 5)
        raise UserError("no such process")

    with pytest.raises(Several) as raised:
        at_once(work)
    assert str(raised.value) == (
        "3 things stand in the way:\n  3 is odd\n    try 4\n  5 is odd\n    try 6\n  no such process"
    )


def test_a_long_list_is_cut_short() -> None:
    with pytest.raises(Several) as raised:
        at_once(lambda: look(*range(1, 101, 2)))
    assert str(raised.value).endswith("\n  39 is odd\n    try 40\n  and 30 more, which --dry-run shows")
    assert len(raised.value.errors) == 50


def test_nothing_refused() -> None:
    assert at_once(lambda: look(2, 4)) == [2, 4]


def test_a_message_is_a_line_whatever_is_in_a_name() -> None:
    error = UserError("file a\nDumping finished successfully\x1b[2J\udcff: no such", "look\nhere")
    assert str(error) == "file a\\nDumping finished successfully\\x1b[2J\\udcff: no such\n  look\nhere"
    assert error.args == (error.message,)
    assert UserError("grün ☃").message == "grün ☃"


def test_what_one_thread_refuses_is_not_noted_by_another_that_gathers() -> None:
    """Else the first would go on as if nothing were in the way."""
    both = threading.Barrier(2, timeout=30)
    found: list[list[str]] = []

    def other() -> None:
        with Gathering() as gathering:
            both.wait()
            both.wait()
        found.append(list(gathering.found))

    thread = threading.Thread(target=other)
    with Gathering() as ours:
        thread.start()
        both.wait()
        with About(1):
            raise UserError("it is ours")
        both.wait()
    thread.join()
    assert list(ours.found) == ["it is ours"]
    assert found == [[]]
    with pytest.raises(UserError), About(1):
        raise UserError("nobody gathers")
