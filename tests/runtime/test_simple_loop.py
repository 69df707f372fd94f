# SPDX-License-Identifier: GPL-2.0-only
"""The simple loop of feature/criu's walk-through, each of its sentences an assertion.

The tests are the steps of one story, in order.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest

from layer.target import guest, looplog
from layer.target.simpleloop import Loop

FROZEN = 4  # seconds that a log which should stand still is watched


@dataclass
class Story:
    """What earlier steps found out."""

    loop: Loop
    pid: int = 0
    before: tuple[int, ...] = ()
    text: str = ""


@pytest.fixture(scope="module")
def story(target: guest.Guest) -> Story:
    return Story(Loop(target.shell, "/root/simple"))


def longest_step(target: guest.Guest) -> int:
    """Seconds between two lines that still count as running; a busy host stops an emulator for seconds."""
    return int(4 + target.slowness)


def test_the_log_grows(story: Story) -> None:
    story.pid = story.loop.start()
    assert story.loop.pids() == [story.pid]
    assert len(story.loop.grown(0)) >= 3


def test_dump_succeeds_and_the_shell_says_killed(story: Story) -> None:
    story.loop.dump(story.pid)
    said = story.loop.notices("Killed")
    assert "Killed" in said and "./test.sh" in said
    story.text = story.loop.log()


def test_the_process_is_gone_with_its_child(story: Story) -> None:
    assert story.loop.pids() == []
    assert "sleep 1" not in story.loop.shell.run("ps").out
    assert not story.loop.shell.run(f"ls -d /proc/{story.pid}", check=False).out.startswith("/proc/")


def test_the_log_stands_still(story: Story) -> None:
    time.sleep(FROZEN)
    assert story.loop.log() == story.text
    story.before = looplog.stamps(story.text)


def test_the_images_are_there(story: Story) -> None:
    files = set(story.loop.shell.out(f"ls {story.loop.folder}/checkpoint").split())
    pid = story.pid
    assert {
        "inventory.img",
        "pstree.img",
        f"core-{pid}.img",
        f"mm-{pid}.img",
        f"pagemap-{pid}.img",
        "files.img",
    } <= files


def test_restore_without_shell_job_brings_the_same_pid_back(story: Story) -> None:
    story.loop.restore()
    assert story.loop.pids() == [story.pid]


def test_the_log_grows_again_with_one_gap(story: Story, target: guest.Guest) -> None:
    after = story.loop.grown(len(story.before), lines=4)
    assert story.loop.log().startswith(story.text), "lines written before the dump have changed"
    # Doubled lines and a clock that goes back raise; a lost line would be a second gap.
    found = looplog.gaps(after, 1)  # every place where more than the loop's own second passed
    away = [gap for gap in found if gap.after == len(story.before)]
    assert away and away[0].seconds >= FROZEN
    assert [gap for gap in found if gap not in away and gap.seconds > longest_step(target)] == []


def test_it_can_be_dumped_and_restored_once_more(story: Story) -> None:
    story.loop.shell.run("mkdir again", inside=True)
    # Restored without a terminal of its own, it is no job of this shell any more; --shell-job is harmless.
    story.loop.shell.run(f"pycriu dump -D again/ -t {story.pid} --shell-job", timeout=60, inside=True)
    assert story.loop.pids() == []
    lines = len(story.loop.stamps())
    story.loop.shell.run("pycriu restore -d -D again/", timeout=60, inside=True)
    assert story.loop.pids() == [story.pid]
    assert len(story.loop.grown(lines)) >= lines + 3


def test_orphans_are_reaped(story: Story) -> None:
    story.loop.shell.run(f"kill -9 {story.pid}; sleep 2")
    assert " Z " not in story.loop.shell.out("ps -o pid,stat,args")
    assert story.loop.pids() == []
