# SPDX-License-Identifier: GPL-2.0-only
"""Hooks without a checkpoint: order, errors, simulations, sections, forks, the memory that the engine reads."""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from pycriu.dumping import survey
from pycriu.errors import HookFailed
from pycriu.hooks import channel, fresh, program
from pycriu.hooks.audience import Audience
from pycriu.hooks.page import Page
from pycriu.hooks.registry import AFTER_RESTORE, BEFORE, Hook, NotNow, Refusal, Registry, described
from pycriu.log import ERROR, Log

ROOT = Path(__file__).parents[2]


def told(code: str) -> list[str]:
    """The lines that a fresh Python prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_mark_is_what_the_survey_looks_for() -> None:
    assert survey._HOOKS == channel.MARK
    assert channel.NAME in (ROOT / "pycriu/restore.py").read_text()


def test_order() -> None:
    registry = Registry()
    for kind in (BEFORE, AFTER_RESTORE):
        for name, priority in (("a", 0), ("b", 0), ("early", 5), ("late", -5), ("c", 0)):
            hook = Hook(lambda: None, priority, None)
            hook.name = name
            registry.add(kind, hook)
    assert [hook.name for hook in registry.ordered(BEFORE)] == ["early", "c", "b", "a", "late"]
    assert [hook.name for hook in registry.ordered(AFTER_RESTORE)] == ["late", "a", "b", "c", "early"]


def test_what_is_taken_apart_last_is_put_together_first() -> None:
    registry = Registry()
    for number, priority in enumerate((3, 0, 0, -1, 3)):
        for kind in (BEFORE, AFTER_RESTORE):
            hook = Hook(lambda: None, priority, None)
            hook.name = str(number)
            registry.add(kind, hook)
    before = [hook.name for hook in registry.ordered(BEFORE)]
    assert [hook.name for hook in registry.ordered(AFTER_RESTORE)] == before[::-1]


def test_forgetting() -> None:
    registry = Registry()
    registry.add(BEFORE, Hook(test_order, 0, None))
    registry.remove(test_order)
    assert registry.ordered(BEFORE) == []
    with pytest.raises(ValueError, match="is not registered"):
        registry.remove(test_order)


def test_refusals() -> None:
    assert Refusal([("a", NotNow("busy")), ("b", NotNow("too"))]).later
    assert not Refusal([("a", NotNow("busy")), ("b", KeyError("x"))]).later
    assert str(Refusal([("a", NotNow("busy")), ("b", KeyError("x"))])) == "a: busy; b: KeyError: 'x'"
    assert described("f", OSError(2, "gone")) == "f: FileNotFoundError: [Errno 2] gone"


SIMULATED = """
import pycriu
said = []
@pycriu.before_checkpoint
def close(): said.append("close")
@pycriu.before_checkpoint
async def flush(): said.append("flush")
@pycriu.after_checkpoint
def again(): said.append(f"again {pycriu.moment().outcome} {pycriu.moment().why}".strip())
@pycriu.after_restore
async def reopen(): said.append(f"reopen {sorted(pycriu.moment().changed)}")
def report(report):
    print(report.outcome, report.called, said, [type(error).__name__ for _, error in report.errors], report.refusal)
    said.clear()
"""


def test_simulations() -> None:
    code = SIMULATED + (
        "report(pycriu.simulate())\n"
        'report(pycriu.simulate("restored", changed=("hostname",)))\n'
        'report(pycriu.simulate("failed", why="no room"))\n'
    )
    assert told(code) == [
        "continued ['flush', 'close', 'again'] ['flush', 'close', 'again continued'] [] None",
        "restored ['flush', 'close', 'reopen'] ['flush', 'close', \"reopen ['hostname']\"] [] None",
        "failed ['flush', 'close', 'again'] ['flush', 'close', 'again failed no room'] [] None",
    ]


def test_simulation_in_a_loop() -> None:
    code = SIMULATED + "import asyncio\nreport(asyncio.run(pycriu.simulate_async('restored')))"
    assert told(code) == ["restored ['flush', 'close', 'reopen'] ['flush', 'close', 'reopen []'] [] None"]


def test_simulated_refusal() -> None:
    code = SIMULATED + (
        "@pycriu.before_checkpoint\ndef no(): raise pycriu.NotNow('busy')\n"
        "@pycriu.after_checkpoint\ndef bad(): raise KeyError(1)\n"
        "one = pycriu.simulate('restored')\nreport(one)\nprint(one.refusal.later)"
    )
    assert told(code) == [
        "failed ['no', 'flush', 'close', 'again', 'bad'] ['flush', 'close', 'again failed no: busy'] "
        "['NotNow', 'KeyError'] no: busy",
        "True",
    ]


def test_an_outcome_that_there_is_not() -> None:
    code = "import pycriu\ntry: pycriu.simulate('gone')\nexcept ValueError as error: print(error)"
    assert told(code) == ["'gone': there are continued, restored, failed"]


def test_hooks_are_registered_in_the_main_thread() -> None:
    code = """
import threading, pycriu
def register():
    try: pycriu.listen()
    except RuntimeError as error: print(error)
thread = threading.Thread(target=register); thread.start(); thread.join()
pycriu.listen()
thread = threading.Thread(target=pycriu.before_checkpoint, args=(print,)); thread.start(); thread.join()
print(pycriu.simulate().called)
"""
    assert told(code) == [
        "hooks are first registered in the main thread of the main interpreter: only there can handlers be set",
        "",
        "['print']",
    ]


def test_a_signal_that_is_somebody_elses_is_passed_on() -> None:
    code = """
import signal, pycriu
signal.signal(signal.SIGURG, lambda number, frame: print("mine", number))
pycriu.listen()
signal.raise_signal(signal.SIGURG)
"""
    assert told(code) == ["mine 23"]


def test_the_mapping_is_all_that_is_left() -> None:
    code = """
import os
before = os.listdir("/proc/self/fd")
import pycriu
pycriu.listen()
print(os.listdir("/proc/self/fd") == before)
print(*[line.split(None, 5)[5].strip() for line in open("/proc/self/maps") if "pycriu" in line], flush=True)
child = os.fork()
if not child:
    print([line.split(None, 5)[5].strip() for line in open("/proc/self/maps") if "pycriu" in line], flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""
    assert told(code) == ["True", channel.MARK, f"['{channel.MARK}']"]


def test_no_thread_is_made() -> None:
    code = "import os, pycriu\npycriu.listen()\nprint(len(os.listdir('/proc/self/task')))"
    assert told(code) == ["1"]


def test_what_the_application_side_imports() -> None:
    """Not the engine, nor protobuf, and nothing that takes long."""
    code = "import sys, pycriu\npycriu.listen()\nprint(*sorted(sys.modules))"
    (line,) = told(code)
    loaded = set(line.split())
    ours = {name for name in loaded if name.startswith("pycriu")}
    assert {name for name in ours if not name.startswith("pycriu.hooks")} == {"pycriu"}
    assert not loaded & {
        "google.protobuf",
        "asyncio",
        "json",
        "logging",
        "inspect",
        "dataclasses",
        "pycriu.hooks.audience",
        "pycriu.hooks.program",
    }


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


# ------------------------------------------------------------------------------------------------------- randomness


def test_reseeding_touches_what_is_imported_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    random.seed(1)
    first = random.random()
    random.seed(1)
    assert "random" in fresh.reseed()[0]
    assert random.random() != first
    monkeypatch.setattr(fresh, "kept", set())
    fresh.keep("random")
    random.seed(1)
    assert "random" not in fresh.reseed()[0]
    assert random.random() == first
    with pytest.raises(ValueError, match="nothing: there are random, numpy"):
        fresh.keep("nothing")
    fresh.keep()
    assert fresh.reseed() == ([], [])


def test_uuid_forgets_time_and_machine() -> None:
    code = """
import uuid
uuid.uuid1(node=7, clock_seq=1)
uuid._last_timestamp, uuid._node = 1 << 60, 7
from pycriu.hooks import fresh
fresh.reseed()
print(uuid._last_timestamp, uuid._node)
"""
    assert told(code) == ["None None"]


def test_a_source_that_cannot_be_seeded_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of the program's that has the name of one, or a generator that numpy does not seed."""
    monkeypatch.setitem(sys.modules, "random", ModuleType("random"))
    monkeypatch.setitem(sys.modules, "tempfile", ModuleType("tempfile"))
    done, errors = fresh.reseed()
    assert "random" not in done
    assert "tempfile" in done
    assert [name for name, _ in errors] == ["seeding random anew"]


def test_sources_that_are_not_imported_stay_so() -> None:
    code = "import sys, pycriu\nfrom pycriu.hooks import fresh\npycriu.listen()\nprint(fresh.reseed()[0])"
    (line,) = told(code)
    assert "numpy" not in line
    assert "uuid" not in line


# ------------------------------------------------------------------------------------------------- critical sections


def test_sections_nest_and_are_of_threads() -> None:
    code = """
import threading, pycriu
from pycriu.hooks.listener import here
with pycriu.critical_section():
    with pycriu.critical_section():
        print(here.in_section, len(here._sections))
    thread = threading.Thread(target=lambda: pycriu.critical_section().__enter__())
    thread.start(); thread.join()
    print(len(here._sections))
print(len(here._sections))
"""
    assert told(code) == ["True 1", "2", "1"]


def test_another_thread_asks_while_a_callback_waits() -> None:
    code = """
import threading, pycriu
from pycriu.hooks.listener import here
pycriu.listen()
here.asking_in_loop = True
def ask():
    try: pycriu.checkpoint("images", options=["--hooks=skip"])
    except ValueError: print("refused", here.asking_in_loop)
thread = threading.Thread(target=ask)
thread.start(); thread.join()
print(here.asking_in_loop)
"""
    assert told(code) == ["refused True", "True"]


def test_the_loop_of_a_program_stays_its_own() -> None:
    code = """
import asyncio, pycriu
@pycriu.before_checkpoint
async def before(): print("before")
loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
pycriu.simulate()
print(asyncio.get_event_loop() is loop)
loop.close()
"""
    assert told(code) == ["before", "True"]


# -------------------------------------------------------------------------------------------------- conversations

# What the engine writes; the one who asks has ended some time later, so it has failed then.
ASKED = """
import asyncio, signal, subprocess, time, pycriu
from pycriu.hooks import channel
from pycriu.hooks.listener import here
@pycriu.before_checkpoint
async def before(): print("before")
@pycriu.after_checkpoint
def after(): print("after", pycriu.moment().outcome)
def request(seconds=0.3):
    asker = subprocess.Popen(["sleep", str(seconds)])
    for at, value in ((channel.WHAT, channel.PREPARE), (channel.ASKER, asker.pid)):
        here.page.put(at, value)
    here.page.put(channel.REQUEST, here.page.request + 1)
    signal.raise_signal(signal.SIGURG)
def state():
    print(here.page.asked, here.page.get(channel.STATE), here._serving, here._turn, here._task)
"""
SERVED = ["before", "after failed", "False 0 False None None"]


def test_whoever_asked_may_stay_as_a_zombie() -> None:
    """It is gone all the same, and nobody waits for it."""
    assert told(ASKED + "request()\nstate()") == SERVED


def test_a_loop_that_ends_before_it_has_begun() -> None:
    """The conversation takes place behind it."""
    code = "async def main(): request()\nasyncio.run(main())\nstate()"
    assert told(ASKED + code) == SERVED


def test_a_loop_that_is_closed_before_it_has_begun() -> None:
    code = """
loop = asyncio.new_event_loop()
async def main():
    loop.call_later(0, lambda: (request(), loop.stop()))
loop.create_task(main())
loop.run_forever()
loop.close()
del loop, main
state()
"""
    assert told(ASKED + code) == SERVED


def test_a_loop_that_rests() -> None:
    """The next time that it is asked, the program answers without it."""
    code = """
loop = asyncio.new_event_loop()
loop.call_soon(lambda: (request(), loop.stop()))
loop.run_forever()
print(here._serving)
request()
state()
loop.run_until_complete(asyncio.sleep(0))
"""
    assert told(ASKED + code) == ["True", *SERVED]


def test_a_request_that_comes_with_the_end_of_another() -> None:
    """Whoever waits for the end asks as soon as it is to be seen."""
    code = """
put = here.page.put
def racing(at, value):
    put(at, value)
    if (at, value) == (channel.STATE, channel.IDLE):
        here.page.put = put
        request()
here.page.put = racing
request()
state()
"""
    assert told(ASKED + code) == [*SERVED[:2], *SERVED]


def test_a_request_that_comes_while_nobody_waits_for_an_answer() -> None:
    """It is not answered by the end of the one before."""
    code = """
asked = []
@pycriu.before_checkpoint
def again():
    if not asked:
        asked.append(True)
        request()
        print(here.page.request)
request()
state()
"""
    assert told(ASKED + code) == ["2", *SERVED[:2], *SERVED]


def test_sections_of_threads_that_wait_for_each_other() -> None:
    """A dump that waits for them keeps them no longer than it waits itself."""
    code = """
import threading
entered, asked = threading.Event(), threading.Event()
def inner():
    with pycriu.critical_section(): print("inner")
def outer():
    with pycriu.critical_section():
        entered.set()
        asked.wait()
        thread = threading.Thread(target=inner, daemon=True)
        thread.start()
        thread.join()
    print("outer")
thread = threading.Thread(target=outer, daemon=True)
thread.start()
entered.wait()
request()
asked.set()
thread.join(5)
state()
"""
    assert told(ASKED + code) == ["inner", "outer", SERVED[-1]]


def test_a_task_that_is_cancelled() -> None:
    """Hooks that wait are interrupted, and what was put away is put back."""
    code = """
@pycriu.before_checkpoint
async def slow(): await asyncio.sleep(60)
async def main():
    request()
    await asyncio.sleep(0.05)
asyncio.run(main())
state()
print(channel.number(here.page._map, channel.RESULT) == channel.NOT_NOW, here.moment.errors)
"""
    assert told(ASKED + code) == [*SERVED, "True [('slow', CancelledError())]"]


def test_while_it_stands_nothing_is_open() -> None:
    """What is open at the moment of a dump has to be there at the restore."""
    code = """
import builtins
from pycriu.hooks import listener
stand = listener.stand
def watched(*words):
    open = builtins.open
    def opened(name, *how, **ways):
        print("opened", name)
        return open(name, *how, **ways)
    builtins.open = opened
    try: return stand(*words)
    finally: builtins.open = open
listener.stand = watched
request(0.6)
state()
"""
    said = told(ASKED + code)
    assert said == ["before", "opened /proc/self/stat", *SERVED[1:]]  # once: when whoever asked is no more


def test_a_page_that_is_forgotten_closes_nobody_elses_descriptor() -> None:
    page = Page(os.getpid(), signal.SIGURG)
    reader, writer = os.pipe()
    del page
    gc.collect()
    os.close(reader)
    os.close(writer)


def test_what_a_program_has_not_written_yet_is_written_at_its_end(tmp_path: Path) -> None:
    code = f"""
import pycriu
pycriu.before_checkpoint(print)
files = [open({str(tmp_path)!r} + f"/{{number}}", "w") for number in range(4)]
for file in files: file.write("whole")
"""
    assert told(code) == []
    assert [(tmp_path / str(number)).read_text() for number in range(4)] == ["whole"] * 4


def test_a_program_that_has_another_sleep() -> None:
    """As greenlets have, with which others would run while it is to stand still."""
    code = "time.sleep = lambda seconds: print('slept')\nrequest()\nstate()"
    assert told(ASKED + code) == SERVED


def test_what_handlers_raise_while_it_stands() -> None:
    code = """
def stop(*_): raise TimeoutError("alarm")
signal.signal(signal.SIGALRM, stop)
signal.setitimer(signal.ITIMER_REAL, 0.1)
try: request()
except TimeoutError as error: print(error)
state()
"""
    assert told(ASKED + code) == [*SERVED[:2], "alarm", *SERVED[2:]]


def test_simulated_interruptions_are_raised() -> None:
    code = """
import pycriu
@pycriu.before_checkpoint
def stop(): raise KeyboardInterrupt
@pycriu.after_checkpoint
def after(): print("after", pycriu.moment().outcome)
try: pycriu.simulate()
except KeyboardInterrupt: print("raised")
"""
    assert told(code) == ["after failed", "raised"]
