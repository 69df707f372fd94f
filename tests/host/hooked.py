# SPDX-License-Identifier: GPL-2.0-only
"""Programs with hooks under test: how they begin, what they say, and those that say in which order they are called."""

from __future__ import annotations

from pathlib import Path

from tests.host.conftest import Host, Subject, wait_until

ROOT = Path(__file__).parents[2]
HERE = f"import sys; sys.path[:0] = {[str(ROOT)]!r}; import pycriu\n"

# Each hook says its name, and how it ended.
TALKATIVE = """
def hook(kind, name, **options):
    def call():
        moment = pycriu.moment()
        say(name, *([moment.outcome] if moment.outcome else []))
    call.__qualname__ = name
    getattr(pycriu, kind)(**options)(call)
"""
COUNTING = """
number = 1
ready()
while not os.path.exists("go"):
    number += 1
    time.sleep(0.01)
say("end", number > 0)
"""


def start(host: Host, code: str, **options: object) -> Subject:
    return host.python(HERE + TALKATIVE + code, **options)


def since_ready(subject: Subject) -> list[str]:
    said = subject.said()
    return said[said.index("ready") + 1 :]


def wait_said(subject: Subject, *lines: str) -> None:
    wait_until(lambda: since_ready(subject)[: len(lines)] == list(lines), f"{lines} but {since_ready(subject)}")


ORDER = """
hook("before_checkpoint", "pool")
hook("before_checkpoint", "cache")
hook("before_checkpoint", "first", priority=1)
hook("before_checkpoint", "last", priority=-1)
for kind in ("after_checkpoint", "after_restore"):
    hook(kind, kind + " pool")
    hook(kind, kind + " cache")
    hook(kind, kind + " last", priority=1)
    hook(kind, kind + " first", priority=-1)
"""
BEFORE = ["first", "cache", "pool", "last"]
RESTORED = [f"after_restore {name} restored" for name in ("first", "pool", "cache", "last")]
CONTINUED = [f"after_checkpoint {name} continued" for name in ("first", "pool", "cache", "last")]
