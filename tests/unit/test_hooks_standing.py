# SPDX-License-Identifier: GPL-2.0-only
"""Programs that are asked: critical sections, conversations in loops and beside them, what is open meanwhile."""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path

from pycriu.hooks.page import Page
from tests.unit.hooked import told


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
