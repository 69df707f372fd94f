# SPDX-License-Identifier: GPL-2.0-only
"""Programs that have themselves dumped, and what is done to the randomness of those that are restored."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from tests import debian
from tests.host.conftest import Host, Subject, alive, reap, wait_until
from tests.host.hooked import since_ready, start

# Where benchmarks/warm_start.py has put numpy and pandas.
PACKAGES = debian.cache() / f"warm-start-{sys.version_info.major}.{sys.version_info.minor}"
SAME_SIZE = ("--file-validation", "filesize")

MYSELF = """
def tell(outcome):
    say("outcome", outcome.what, bool(outcome), *outcome.why.splitlines()[:1])
"""


def answers(subject: Subject, number: int = 1) -> list[str]:
    """The first outcomes that it has told."""

    def told() -> list[str]:
        return [line for line in since_ready(subject) if line.startswith("outcome ")]

    wait_until(lambda: len(told()) >= number, f"{number} outcomes, but {since_ready(subject)}")
    return told()


IN_A_THREAD = """
import threading
def ask():
    tell(pycriu.checkpoint("images"))
thread = threading.Thread(target=ask)
thread.start()
thread.join()
"""


@pytest.mark.parametrize("asking", ['tell(pycriu.checkpoint("images"))\n', IN_A_THREAD], ids=["main", "thread"])
def test_continued_and_then_restored(host: Host, asking: str) -> None:
    code = f"""
hook("before_checkpoint", "before")
hook("after_checkpoint", "after")
hook("after_restore", "back")
ready()
memory = os.urandom(1 << 20)
{asking}
wait_for_go()
say("end", len(memory))
"""
    subject = start(host, MYSELF + code)
    assert answers(subject) == ["outcome continued True"]
    assert since_ready(subject)[:2] == ["before", "after continued"]
    assert subject.go()[-1] == f"end {1 << 20}"
    (host.folder / "go").unlink()
    (host.folder / "out").write_text("ready\nbefore\n")  # as it was then
    restored = host.restore("--shell-job", *SAME_SIZE)
    assert restored.ok, restored
    assert answers(subject) == ["outcome restored True"]
    assert since_ready(subject)[:2] == ["before", "back restored"]
    assert subject.go()[-1] == f"end {1 << 20}"


def test_all_is_written_when_it_answers(host: Host) -> None:
    """It may be moved or removed at once."""
    code = """
ready()
for number in range(3):
    tell(pycriu.checkpoint("images"))
    say("log", open("images/checkpoint.log").read().endswith("Dumping finished successfully\\n"))
    os.rename("images", f"images-{number}")
    say("all", "stats-dump" in os.listdir(f"images-{number}"), os.path.exists("images"))
say("end")
"""
    subject = start(host, MYSELF + code)
    subject.wait_for("end")
    assert since_ready(subject) == ["outcome continued True", "log True", "all True False"] * 3 + ["end"]


SLOW = """
@pycriu.after_restore
def slow():
    time.sleep(0.3)
"""
SLOW_IN_A_LOOP = """
import asyncio
@pycriu.after_restore
async def slow():
    await asyncio.sleep(0.3)
ready()
async def main():
    tell(await pycriu.checkpoint_async("images", leave_running=False))
    while not os.path.exists("go"):
        await asyncio.sleep(0.01)
asyncio.run(main())
"""
SLOW_BESIDE_A_THREAD = (
    SLOW + "ready()\n" + IN_A_THREAD.replace('"images"', '"images", leave_running=False') + "wait_for_go()\n"
)


@pytest.mark.parametrize("code", [SLOW_BESIDE_A_THREAD, SLOW_IN_A_LOOP], ids=["thread", "loop"])
def test_who_asked_waits_for_the_hooks_of_the_restore(host: Host, code: str) -> None:
    """It looks for news all the while, and its dumper is nobody any more."""
    subject = start(host, MYSELF + code)
    wait_until(lambda: not alive(subject.pid), "it has ended")
    reap(subject.pid)
    assert host.restore("--shell-job").ok
    assert answers(subject) == ["outcome restored True"]
    subject.go()


def test_it_ends_and_answers_when_it_is_restored(host: Host) -> None:
    code = """
ready()
tell(pycriu.checkpoint("images", leave_running=False))
wait_for_go()
say("end")
"""
    subject = start(host, MYSELF + code)
    wait_until(lambda: not alive(subject.pid), "it has ended")
    reap(subject.pid)
    assert since_ready(subject) == []
    assert host.restore("--shell-job").ok
    assert answers(subject) == ["outcome restored True"]
    assert subject.go()[-1] == "end"


def test_it_fails_and_says_why(host: Host) -> None:
    """What the engine refuses, and what hooks of its own refuse, with the exceptions themselves."""
    code = """
hook("after_checkpoint", "after")
import fcntl
lock = open("lock", "w")
fcntl.flock(lock, fcntl.LOCK_EX)
@pycriu.before_checkpoint
def refuse():
    if angry: raise pycriu.NotNow("angry")
angry = False
ready()
tell(pycriu.checkpoint("images"))
angry = True
outcome = pycriu.checkpoint("images", options=["--file-locks"])
tell(outcome)
say(outcome.refusal.later, *(f"{name} {type(error).__name__}" for name, error in outcome.refusal.errors))
angry = False
tell(pycriu.checkpoint("images", options=["--no-such-option"]))
tell(pycriu.checkpoint("images", options=["--file-locks"]))
from pycriu.hooks import asking
asking.interpreter = "/no/such/python"
tell(pycriu.checkpoint("images"))
"""
    subject = start(host, MYSELF + code)
    said = answers(subject, 5)
    assert "not found" in said[4]
    assert said[0].startswith("outcome failed False descriptor "), said
    assert "holds a file lock" in said[0]
    assert said[1] == "outcome failed False refuse: angry"
    assert said[2].startswith("outcome failed False "), said
    assert said[3] == "outcome continued True"
    assert "True refuse NotNow" in since_ready(subject)


ASYNC = """
import asyncio
@pycriu.before_checkpoint
async def close():
    await asyncio.sleep(0.01)
    say("closed")
async def main():
    ready()
    ticks = 0
    async def tick():
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.005)
    ticking = asyncio.create_task(tick())
    tell(await pycriu.checkpoint_async("images"))
    say("ticked", ticks > 3)
    ticking.cancel()
    while not os.path.exists("go"):
        await asyncio.sleep(0.01)
asyncio.run(main())
"""


def test_in_a_loop(host: Host) -> None:
    subject = start(host, MYSELF + ASYNC)
    assert answers(subject) == ["outcome continued True"]
    assert subject.go() == ["closed", "outcome continued True", "ticked True"]


def test_in_a_callback_of_a_loop_plain_hooks_are_called(host: Host) -> None:
    code = """
import asyncio
hook("before_checkpoint", "before")
async def main():
    ready()
    tell(pycriu.checkpoint("images"))
asyncio.run(main())
"""
    subject = start(host, MYSELF + code)
    assert answers(subject) == ["outcome continued True"]
    assert since_ready(subject)[0] == "before"


def test_the_shell_that_starts_the_dump_is_late(host: Host) -> None:
    """Until it has ended, the dump would be in the tree."""
    code = """
from pycriu.hooks import asking
asking._START += "; sleep 0.5"
ready()
tell(pycriu.checkpoint("images"))
wait_for_go()
"""
    subject = start(host, MYSELF + code)
    assert answers(subject) == ["outcome continued True"]
    subject.go()


def test_a_reaper_cannot_ask(host: Host) -> None:
    code = """
libc.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
ready()
try:
    pycriu.checkpoint("images")
except RuntimeError as error:
    say(error)
wait_for_go()
"""
    subject = start(host, code)
    wait_until(lambda: since_ready(subject), "it has asked")
    assert subject.go()[0].startswith("this process is the reaper of all that it starts")


# ------------------------------------------------------------------------------------------------------- randomness

DRAWING = """
import random, ssl, tempfile, uuid
random.seed(7)
next(tempfile._get_candidate_names())
ssl.RAND_bytes(8)
mine = random.Random(7)
ready()
wait_for_go()
say("random", random.random())
say("ssl", ssl.RAND_bytes(8).hex())
say("tempfile", next(tempfile._get_candidate_names()))
say("uuid4", uuid.uuid4())
say("mine", mine.random())
"""


def lives(host: Host, code: str) -> list[dict[str, str]]:
    """What three lives that are restored from one checkpoint draw."""
    subject = start(host, code)
    dumped = host.dump(subject)
    assert dumped.ok, dumped
    drawn = []
    for _ in range(3):
        restored = host.restore(*SAME_SIZE)
        assert restored.ok, restored
        drawn.append(dict(line.split(" ", 1) for line in subject.go()))
        (host.folder / "go").unlink()
        (host.folder / "out").write_text("ready\n")
    return drawn


def differ(drawn: list[dict[str, str]], name: str) -> bool:
    """Whether each life has drawn something else."""
    return len({life[name] for life in drawn}) == len(drawn)


def test_each_life_has_randomness_of_its_own(host: Host) -> None:
    drawn = lives(host, "pycriu.listen()\n" + DRAWING)
    assert [name for name in ("random", "ssl", "tempfile", "uuid4") if not differ(drawn, name)] == []
    assert not differ(drawn, "mine")  # nobody can find it; a hook has to


def test_it_can_be_kept(host: Host) -> None:
    drawn = lives(host, 'pycriu.listen(); pycriu.keep_randomness("random", "tempfile", "ssl")\n' + DRAWING)
    assert not differ(drawn, "random")
    assert not differ(drawn, "tempfile")


def test_numpy(host: Host) -> None:
    numpy = f"""
sys.path.append({str(PACKAGES)!r})
try:
    import numpy
except ModuleNotFoundError:
    say("lacks numpy")
    os._exit(0)
"""
    code = "numpy.random.seed(1)\nready()\nwait_for_go()\nsay('numpy', numpy.random.random())\n"
    assert differ(lives(host, "pycriu.listen()\n" + numpy + code), "numpy")


def test_what_has_changed_is_told(host: Host) -> None:
    code = """
import platform
before = platform.uname().node
@pycriu.after_restore
def back():
    moment = pycriu.moment()
    say("changed", *sorted(moment.changed))
    say("away", 0.2 < moment.away < 60)
    say("node", platform.uname().node != before, platform.node() == os.uname().nodename)
ready()
wait_for_go()
"""
    subject = start(host, code)
    dumped = host.dump(subject)
    assert dumped.ok, dumped
    time.sleep(0.3)
    command = ["unshare", "--uts", "sh", "-c", 'hostname elsewhere && exec "$@"', "sh"]
    if subprocess.run([*command, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine has no UTS namespaces, or no hostname(1)")
    subprocess.run([*command, *host.command("restore", "-d", "-D", str(host.images))], check=True, cwd=host.folder)
    wait_until(lambda: len(since_ready(subject)) >= 3, "it is back")
    assert subject.go() == ["changed hostname", "away True", "node True True"]
