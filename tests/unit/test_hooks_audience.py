# SPDX-License-Identifier: GPL-2.0-only
"""The engine's side of hooks, and the page between both: who is found, asked, and believed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from pycriu.errors import HookFailed
from pycriu.hooks import channel, program
from pycriu.hooks.audience import Audience
from pycriu.hooks.page import Page
from pycriu.log import ERROR, Log
from tests.unit.hooked import ROOT

PAGES: list[Page] = []


def made(pid: int, number: int) -> Page:
    """A page that stays, as a program's does.

    Before Python 3.13 the end of a mapping closes a descriptor by its number, which is somebody else's by now.
    """
    PAGES.append(Page(pid, number))
    return PAGES[-1]


def places() -> list[int]:
    """Where this process has pages."""
    with open("/proc/self/maps") as file:
        return [int(line.partition("-")[0], 16) for line in file if line.rstrip().endswith(channel.MARK)]


def test_the_page() -> None:
    page = made(4711, 23)
    assert not page.asked
    page.put(channel.REQUEST, 5)
    assert page.asked
    page.reply(4, channel.DONE)
    assert page.asked
    page.reply(5, channel.REFUSED, "é" * 10_000)
    assert not page.asked
    size = page.get(channel.REPLY_SIZE)
    assert size <= channel.REPLY_ROOM
    page.put(channel.MESSAGE_SIZE, 1 << 31)  # whoever writes that
    assert len(page.message()) == channel.MESSAGE_ROOM


def test_nobody_is_found_where_nothing_is() -> None:
    """What a process shows is not believed."""
    before = places()
    page = made(os.getpid() + 1, signal.SIGURG)  # of somebody else: a child by vfork has its parent's
    assert program.marked(os.getpid()) in places()
    (address,) = set(places()) - set(before)
    assert program.found(os.getpid(), "me", address) is None
    assert program.found(os.getpid(), "me", 4096) is None
    page.put(channel.PID, os.getpid())
    found = program.found(os.getpid(), "me", address)
    assert found is not None
    found.close()


@pytest.mark.parametrize("number", [0, 65, 0xFFFFFFFF])
def test_a_signal_that_is_none(number: int) -> None:
    """Nobody computes with it."""
    page = made(os.getpid(), number)
    page.put(channel.STATE, channel.STANDING)
    found = with_signal(number)
    try:
        assert f"no longer handles signal {number}" in str(found.deaf())
        assert found.why_late() == "it is in a call that it does not return from"
    finally:
        found.close()


def with_signal(number: int) -> program.Program:
    """This process, by that of its pages that has this signal."""
    for place in places():
        found = program.found(os.getpid(), "me", place)
        if found is not None and found.signal == number:
            return found
        if found is not None:
            found.close()
    raise AssertionError("no such page")


@pytest.fixture
def page() -> Iterator[Page]:
    """Of this process, which hears of requests."""
    before = signal.signal(signal.SIGURG, lambda *_: None)
    page = made(os.getpid(), signal.SIGURG)
    yield page
    page.put(channel.REPLY_SIZE, 0)  # else it would be that of the next test
    signal.signal(signal.SIGURG, before)


def last() -> program.Program:
    """This process, by the page that it has last mapped."""
    found = [one for one in (program.found(os.getpid(), "me", place) for place in places()) if one is not None]
    chosen = next(one for one in found if (head := one.head()) and channel.number(head, channel.REPLY_SIZE) == 77)
    for one in found:
        if one is not chosen:
            one.close()
    return chosen


def test_a_refusal_that_comes_with_the_end_of_the_time(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two looks: it is no consent."""
    page.put(channel.REPLY_SIZE, 77)
    me, clock, calls = last(), time.monotonic, [0]

    def monotonic() -> float:
        calls[0] += 1
        if calls[0] == 3:  # behind the only look
            page.reply(page.request, channel.REFUSED, "no")
        return clock()

    with (
        pytest.raises(HookFailed),
        Audience([me], 0, Log(ERROR, echo=False)) as audience,
        monkeypatch.context() as patch,
    ):
        patch.setattr(time, "monotonic", monotonic)
        audience.prepare()


def test_who_stood_needs_no_signal(page: Page) -> None:
    """And is no longer there when those are woken that did not."""
    page.put(channel.REPLY_SIZE, 77)
    page.put(channel.STATE, channel.STANDING)
    heard: list[int] = []
    signal.signal(signal.SIGURG, lambda number, _: heard.append(number))
    audience = Audience([last()], 0, Log(ERROR, echo=False))
    audience.returned()
    page.put(channel.STATE, channel.BUSY)
    audience.wake()
    page.reply(page.request, channel.DONE)
    audience.done()
    assert heard == []


def test_who_waits_for_a_section_can_be_asked_anew(page: Page) -> None:
    """Whoever has asked before has given up without a word."""
    page.put(channel.REPLY_SIZE, 77)
    page.put(channel.STATE, channel.IN_SECTION)
    with pytest.raises(HookFailed) as caught, Audience([last()], 0, Log(ERROR, echo=False)) as audience:
        audience.prepare()
    assert "it is in a critical section" in caught.value.message


def test_one_that_ends_after_its_answer() -> None:
    code = "import pycriu; pycriu.listen(); print(flush=True); input()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", code]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as child:
        assert child.stdout is not None
        child.stdout.readline()
        found = program.found(child.pid, "child", program.marked(child.pid))
        assert found is not None
        child.kill()
    assert (found.head(), found.reply(), found.stands) == (None, "", False)
    found.put(channel.FINAL, channel.packed(1))
    found.wake()
    found.close()


def test_text_of_others_cannot_speak_to_a_terminal() -> None:
    assert program.clean(b"red \x1b[31m\n\xff") == "red  [31m \ufffd"
