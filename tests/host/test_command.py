# SPDX-License-Identifier: GPL-2.0-only
"""The command around a dump or restore: waiting for the root, and being told to stop half way."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.host.conftest import DEADLINE, alive, reap, state, wait_until

if TYPE_CHECKING:
    from tests.host.conftest import Host, Subject

ENDS_WITH_7 = """
pause_for_dump()
say("goes on")
sys.exit(7)
"""

LARGE = """
memory = mmap.mmap(-1, 256 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
block = os.urandom(1 << 20)
for at in range(0, len(memory), len(block)):
    memory[at : at + len(block)] = block
pause_for_dump()
say(all(memory[at : at + len(block)] == block for at in range(0, len(memory), len(block))))
"""


def command(host: Host, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        host.command(*words, "-D", str(host.images)),
        cwd=host.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def attached_restore(host: Host) -> tuple[Subject, subprocess.Popen[str]]:
    """What has been dumped and runs again, and the restore that waits for it."""
    subject = host.python(ENDS_WITH_7)
    assert host.dump(subject).ok
    restoring = command(host, "restore")
    wait_until(lambda: alive(subject.pid) or restoring.poll() is not None, "the root runs")
    with pytest.raises(subprocess.TimeoutExpired):
        restoring.wait(0.2)
    return subject, restoring


def test_an_attached_restore_stays_until_the_root_ends(host: Host) -> None:
    subject, restoring = attached_restore(host)
    (host.folder / "go").touch()
    assert restoring.wait(DEADLINE) == 0  # as criu: the status of the restore, not of the root
    assert subject.said()[-1] == "goes on"
    assert state(subject.pid) is None  # and the root has been waited for


def test_an_attached_restore_that_is_killed_leaves_the_tasks(host: Host) -> None:
    subject, restoring = attached_restore(host)
    restoring.send_signal(signal.SIGTERM)
    assert restoring.wait(DEADLINE) == -signal.SIGTERM
    assert subject.go() == ["goes on"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_an_interrupted_dump_leaves_everything_as_it_was(host: Host, number: signal.Signals) -> None:
    subject = host.python(LARGE)
    dumping = command(host, "dump", "-t", str(subject.pid))
    wait_until(lambda: state(subject.pid) == "t" or dumping.poll() is not None, "the root is stopped")
    dumping.send_signal(number)
    said, _ = dumping.communicate(timeout=DEADLINE)
    assert dumping.returncode == 1, said
    assert f"interrupted by signal {number.value}" in said
    assert "Dumping FAILED." in said
    assert "Traceback" not in said
    assert os.listdir(host.images) == []
    assert subject.status("TracerPid") == "0"
    assert subject.go() == ["True"]


def test_figures_that_cannot_be_written_fail_nothing(host: Host) -> None:
    work = host.folder / "work"
    for name in ("stats-dump", "stats-restore"):
        (work / f"{name}.tmp").mkdir(parents=True)  # where they would be written
    subject = host.python("pause_for_dump()\nsay('ok')")
    for outcome in (host.dump(subject, "-W", str(work)), host.restore("-W", str(work))):
        assert outcome.ok, outcome
        assert "no figures: " in outcome.log
        assert "finished successfully" in outcome.log
    assert subject.go() == ["ok"]


def test_a_log_that_cannot_be_written_fails_nothing(host: Host) -> None:
    subject = host.python("pause_for_dump()\nsay('ok')")
    with open("/dev/full", "wb") as full:
        for words in (("dump", "-t", str(subject.pid)), ("restore", "-d")):
            line = host.command(*words, "-D", str(host.images), "-v4", "-o", "-", "--display-stats")
            done = subprocess.run(line, cwd=host.folder, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
            assert done.returncode == 0, done.stderr
            assert "the log is not complete: No space left on device" in done.stderr
            if words[0] == "dump":
                reap(subject.pid)
    assert subject.go() == ["ok"]


def test_a_pidfile_that_cannot_be_written_is_gone_again(host: Host) -> None:
    subject = host.python("pause_for_dump()\nsay('ok')")
    assert host.dump(subject).ok
    place = host.folder / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", str(place)], check=False).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        (place / "filler").write_bytes(bytes(4096))
        outcome = host.restore("-W", str(place), "--pidfile", "pid")
        assert not outcome.ok
        assert f"--pidfile {place}/pid: No space left on device" in outcome.log
        assert os.listdir(place) == ["filler"]
        assert not alive(subject.pid)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
