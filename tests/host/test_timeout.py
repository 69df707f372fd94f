# SPDX-License-Identifier: GPL-2.0-only
"""--timeout: whenever it strikes, the tree runs on as it was, or is wholly in a checkpoint that is whole."""

from __future__ import annotations

import os
import random
import signal
import stat
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.host.conftest import DEADLINE, alive, below, reap, state, traces, wait_until
from tests.host.test_faults import WORKER, check_unharmed, check_worker, startup

if TYPE_CHECKING:
    from pathlib import Path

    from tests.host.conftest import Host

MANY = """
for _ in range(40):
    if not os.fork():
        while True: time.sleep(60)
pause_for_dump()
"""
STRIKES = int(os.environ.get("PYCRIU_TEST_STRIKES", "30"))


def test_strikes_at_any_moment(host: Host) -> None:
    """The timer's signal, at random moments from the first to the last of a dump, the end of the tree included."""
    worker = host.python(WORKER)
    pids = (worker.pid, *below(worker.pid))
    first = startup(host) * 0.9
    trial = host.dump(worker, "-R")
    assert trial.ok, trial
    length = trial.seconds * 1.3
    rng = random.Random(5)
    struck = done = 0
    for _ in range(STRIKES):
        before = {pid: traces(pid) for pid in pids}
        dumper = subprocess.Popen(
            host.command("dump", "-t", str(worker.pid), "-D", str(host.images), "--timeout", "20"),
            cwd=host.folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        time.sleep(rng.uniform(first, length))
        dumper.send_signal(signal.SIGALRM)
        _, said = dumper.communicate(timeout=DEADLINE)
        assert (dumper.returncode == 0) == (not alive(worker.pid)), (dumper.returncode, said)
        if dumper.returncode == 0:  # it may come when there is nothing to undo any more
            done += 1
            reap(worker.pid)
            assert [state(pid) for pid in pids] == [None, None], "half a tree is left"
            assert host.restore().ok
            continue
        check_unharmed(worker, before)
        if dumper.returncode == 1:
            struck += 1
            assert "the time of --timeout is over; what was begun has been undone" in said
    assert struck > 3, "nearly every dump was done, or had not begun, when the signal came: the delays are wrong"
    assert done, "no dump was done before the signal came: the delays are wrong"
    check_worker(worker)


def remove(images: Path) -> None:
    """A checkpoint that was whole."""
    for path in images.glob("*.img"):
        path.unlink()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGALRM])
def test_at_the_end_there_is_no_moment_in_between(host: Host, number: signal.Signals) -> None:
    """What comes behind the decision changes nothing; the log says that it has come, and so the exit status is right.

    There are many tasks, so that their end takes a while, and the images are there just before it.
    """
    tree = host.python(MANY)
    before = late = 0
    rng = random.Random(7)
    for _ in range(20 * STRIKES):
        if late:
            break
        log = host.folder / "dump.log"
        log.write_text("")
        dumper = subprocess.Popen(
            host.command("dump", "-t", str(tree.pid), "-D", str(host.images), "-v4", "-o", str(log)),
            cwd=host.folder, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        wait_until(lambda: list(host.images.glob("*.img")), "the images are there")
        time.sleep(rng.uniform(0, 0.02))
        dumper.send_signal(number)
        status = dumper.wait(DEADLINE)
        said = log.read_text()
        if status:
            assert status == 1, (status, said)
            before += 1
            assert alive(tree.pid) and len(below(tree.pid)) == 40, said
            assert "what was begun has been undone" in said
            remove(host.images)
            continue
        assert not alive(tree.pid), said
        assert "Dumping finished successfully" in said
        late += f"signal {int(number)} came when all was done" in said
        reap(tree.pid)
        restored = host.restore()
        assert restored.ok, restored
        remove(host.images)
    else:
        pytest.fail(f"no signal came late, {before} of {20 * STRIKES} early: the delays are wrong")


def test_a_restore_that_stays_is_not_undone(host: Host) -> None:
    """A signal that comes when the tree has begun to run ends pycriu, and nothing is said of undoing."""
    tree = host.python("ready()\nwhile not os.path.exists('go'): say('runs')\nsay('ok')")
    said = host.folder / "out"
    for _ in range(STRIKES):
        assert host.dump(tree).ok
        size = said.stat().st_size
        with subprocess.Popen(
            host.command("restore", "-D", str(host.images)), cwd=host.folder, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        ) as restore:  # fmt: skip
            while said.stat().st_size == size:
                assert restore.poll() is None
            restore.send_signal(signal.SIGTERM)
            _, words = restore.communicate(timeout=DEADLINE)
        assert words == ""
        assert restore.returncode == -signal.SIGTERM
        assert alive(tree.pid)
    assert tree.go()[-1] == "ok"


def test_the_time_is_for_the_whole_dump(host: Host) -> None:
    subject = host.python("pause_for_dump()\nsay('ok')")
    slow = host.folder / "slow"
    slow.write_text('#!/bin/sh\n[ "$CRTOOLS_SCRIPT_ACTION" = pre-dump ] || exec sleep 60\n')
    slow.chmod(stat.S_IRWXU)
    outcome = host.dump(subject, "--timeout", "1", "--action-script", str(slow))
    assert outcome.status == 1
    assert "the time of --timeout is over" in outcome.errors()
    assert outcome.seconds < 10
    assert "TracerPid:\t0\n" in subject.proc("status")
    assert subject.go() == ["ok"]


def test_a_tree_that_cannot_be_stopped(host: Host) -> None:
    """A child that its parent traces."""
    subject = host.python("""
child = os.fork()
if child == 0:
    libc.prctl(1, 9, 0, 0, 0)
    libc.ptrace(0, 0, 0, 0)  # PTRACE_TRACEME: its parent is its tracer
    wait_for_go()
    os._exit(0)
pause_for_dump()
say('ok')
""")
    begin = time.monotonic()
    outcome = host.dump(subject, "--timeout", "2")
    assert outcome.status == 1
    assert "is being traced by" in outcome.errors()
    assert time.monotonic() - begin < 10
    assert alive(subject.pid)
    assert subject.go() == ["ok"]


@pytest.mark.parametrize("given", ["0", "-1", "x"])
def test_no_time_at_all_is_refused(host: Host, given: str) -> None:
    outcome = host.run("dump", "-t", "1", f"--timeout={given}")
    assert outcome.status == 1
    assert f"--timeout {given}: not a positive number" in outcome.errors()
