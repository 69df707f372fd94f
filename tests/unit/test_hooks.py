# SPDX-License-Identifier: GPL-2.0-only
"""Hooks without a checkpoint: order, errors, simulations, what is imported and left."""

from __future__ import annotations

import pytest

from pycriu.dumping import survey
from pycriu.hooks import channel
from pycriu.hooks.registry import AFTER_RESTORE, BEFORE, Hook, NotNow, Refusal, Registry, described
from tests.unit.hooked import ROOT, told


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
