# SPDX-License-Identifier: GPL-2.0-only
"""Action scripts: when they are told what, and that nothing is lost where one fails."""

from __future__ import annotations

import os
import signal
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.host.conftest import alive, below, reap, state

if TYPE_CHECKING:
    from tests.host.conftest import Host

OF_A_DUMP = ["pre-dump", "post-dump"]
OF_A_RESTORE = ["pre-restore", "post-restore", "pre-resume", "post-resume"]

SCRIPT = """#!/bin/sh
root=$CRTOOLS_INIT_PID
[ -n "$root" ] && state=$(cut -d' ' -f3 /proc/$root/stat 2>/dev/null | tr RD SS)
echo "$CRTOOLS_SCRIPT_ACTION|$CRTOOLS_IMAGE_DIR|$root|$(pwd)|$state|$(ls $CRTOOLS_IMAGE_DIR | grep -c inventory)" >>NAME
echo "said at $CRTOOLS_SCRIPT_ACTION"
[ "$CRTOOLS_SCRIPT_ACTION" != "$FAIL_AT" ] || exit 7
"""


def script(host: Host, name: str = "told") -> Path:
    """A program that writes what it is told into the file of its name, and fails at the stage in $FAIL_AT."""
    path = host.folder / f"{name}.sh"
    path.write_text(SCRIPT.replace("NAME", str(host.folder / name)))
    path.chmod(stat.S_IRWXU)
    return path


def told(host: Host, name: str = "told") -> list[list[str]]:
    """What it has been told since it was last asked."""
    path = host.folder / name
    lines = [line.split("|") for line in path.read_text().splitlines()] if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def test_each_stage_has_its_environment(host: Host) -> None:
    subject = host.python("pause_for_dump()\nsay('ok')")
    program, images, pid = str(script(host)), str(host.images), str(subject.pid)
    work = host.folder / "work"
    work.mkdir()
    dumped = host.dump(subject, "--action-script", program, "-W", str(work))
    assert dumped.ok, dumped
    assert told(host) == [
        ["pre-dump", images, pid, str(work), "S", "0"],
        ["post-dump", images, pid, str(work), "t", "1"],
    ]
    assert [f"said at {stage}" in dumped.log for stage in OF_A_DUMP] == [True, True], "its output belongs into the log"
    restored = host.restore("--action-script", program)
    assert restored.ok, restored
    assert told(host) == [
        ["pre-restore", images, "", images, "", "1"],
        ["post-restore", images, pid, images, "t", "1"],
        ["pre-resume", images, pid, images, "t", "1"],
        ["post-resume", images, pid, images, "S", "1"],
    ]
    assert subject.go() == ["ok"]


def test_a_dump_that_leaves_the_tree_running_tells_when_the_checkpoint_is_whole(host: Host) -> None:
    subject = host.python("pause_for_dump()\nsay('ok')")
    assert host.dump(subject, "-R", "--action-script", str(script(host))).ok
    assert [(one[0], one[4], one[5]) for one in told(host)] == [("pre-dump", "S", "0"), ("post-dump", "S", "1")]
    assert subject.go() == ["ok"]


def test_several_are_told_the_last_named_first_and_all_of_them(host: Host) -> None:
    subject = host.python("pause_for_dump()\nsay('ok')")
    first, second = script(host, "first"), script(host, "second")
    order = host.folder / "order"
    for one in (first, second):
        one.write_text(f"#!/bin/sh\necho {one.stem} $CRTOOLS_SCRIPT_ACTION >>{order}\n[ {one.stem} = first ]\n")
    outcome = host.dump(subject, "--action-script", str(first), "--action-script", str(second))
    assert outcome.status == 1
    assert order.read_text().splitlines() == ["second pre-dump", "first pre-dump"]
    assert f"the action script {second} has failed at pre-dump: exit status 1" in outcome.log
    assert subject.go() == ["ok"]


@pytest.mark.parametrize("stage", OF_A_DUMP)
def test_where_one_fails_at_a_dump_the_tree_runs_on(host: Host, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = host.python("if os.fork() == 0:\n    wait_for_go()\n    os._exit(3)\npause_for_dump()\nsay(os.wait()[1])")
    monkeypatch.setenv("FAIL_AT", stage)
    pids = [subject.pid, *below(subject.pid)]
    outcome = host.dump(subject, "--action-script", str(script(host)))
    assert outcome.status == (7 if stage == "post-dump" else 1), outcome
    assert f"has failed at {stage}: exit status 7" in outcome.errors()
    assert "Dumping FAILED." in outcome.log
    assert all(state(pid) in ("R", "S", "D") for pid in pids)
    assert "TracerPid:\t0\n" in subject.proc("status")
    assert (host.images / "inventory.img").exists() is (stage == "post-dump")
    assert subject.go() == ["768"]


@pytest.mark.parametrize("stage", ["pre-restore", "post-restore"])
def test_where_one_fails_before_the_tasks_run_none_does(
    host: Host, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = host.python("if os.fork() == 0:\n    wait_for_go()\n    os._exit(3)\npause_for_dump()\nsay(os.wait()[1])")
    pids = [subject.pid, *below(subject.pid)]
    assert host.dump(subject).ok
    monkeypatch.setenv("FAIL_AT", stage)
    pidfile = host.folder / "pidfile"
    outcome = host.restore("--action-script", str(script(host)), "--pidfile", str(pidfile))
    assert outcome.status == 1
    assert f"has failed at {stage}: exit status 7" in outcome.errors()
    assert "Restoring FAILED." in outcome.log
    assert [state(pid) for pid in pids] == [None, None]
    assert not pidfile.exists()
    monkeypatch.delenv("FAIL_AT")
    assert host.restore("--pidfile", str(pidfile)).ok
    assert pidfile.read_text() == str(subject.pid)
    assert subject.go() == ["768"]


def test_one_fails_that_has_taken_the_pidfile_away(host: Host) -> None:
    subject = host.python("pause_for_dump()\nsay('ok')")
    assert host.dump(subject).ok
    pidfile, thief = host.folder / "pidfile", host.folder / "thief"
    thief.write_text(f"#!/bin/sh\n[ $CRTOOLS_SCRIPT_ACTION != post-restore ] || {{ rm {pidfile}; exit 7; }}\n")
    thief.chmod(stat.S_IRWXU)
    outcome = host.restore("--action-script", str(thief), "--pidfile", str(pidfile))
    assert outcome.status == 1
    assert "has failed at post-restore: exit status 7" in outcome.errors()
    assert "bug" not in outcome.log
    assert state(subject.pid) is None


@pytest.mark.parametrize("stage", ["pre-resume", "post-resume"])
def test_where_one_fails_too_late_it_is_told_and_the_tasks_run(
    host: Host, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = host.python("pause_for_dump()\nsay('ok')")
    assert host.dump(subject).ok
    monkeypatch.setenv("FAIL_AT", stage)
    outcome = host.restore("--action-script", str(script(host)))
    assert outcome.ok, outcome
    assert f"has failed at {stage}: exit status 7" in outcome.errors()
    assert subject.go() == ["ok"]


def test_a_script_that_is_none_and_one_that_is_killed(host: Host) -> None:
    subject = host.python("pause_for_dump()\nsay('ok')")
    outcome = host.dump(subject, "--action-script", str(host.folder / "none"))
    assert outcome.status == 1
    assert "No such file or directory" in outcome.log
    assert "has failed at pre-dump: exit status 127" in outcome.errors()
    killed = script(host)
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    outcome = host.dump(subject, "--action-script", str(killed))
    assert "has failed at pre-dump: ended by signal 9" in outcome.errors()
    assert subject.go() == ["ok"]


def test_a_script_does_not_outlive_a_dump_that_is_ended(host: Host) -> None:
    import subprocess

    from tests.host.conftest import wait_until

    subject = host.python("pause_for_dump()\nsay('ok')")
    slow = script(host)
    slow.write_text(f"#!/bin/sh\necho $$ >{host.folder}/its-pid\nexec sleep 100\n")
    dumper = subprocess.Popen(
        host.command("dump", "-t", str(subject.pid), "-D", str(host.images), "--action-script", str(slow)),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    wait_until(lambda: (host.folder / "its-pid").exists() and (host.folder / "its-pid").read_text().strip(), "it runs")
    dumper.send_signal(signal.SIGTERM)
    assert dumper.wait(20) == 1
    assert dumper.stderr is not None
    assert b"interrupted by signal 15" in dumper.stderr.read()
    wait_until(lambda: not alive(int((host.folder / "its-pid").read_text())), "its end")
    assert subject.go() == ["ok"]


def test_a_restored_root_can_be_our_sibling(host: Host) -> None:
    subject = host.python("pause_for_dump()\nsay('ok')\nos._exit(5)")
    assert host.dump(subject).ok
    outcome = host.restore("--restore-sibling")
    assert outcome.ok, outcome
    assert int(subject.proc("stat").rpartition(") ")[2].split()[1]) == os.getpid(), "the parent of pycriu is its parent"
    (host.folder / "go").touch()
    assert os.waitstatus_to_exitcode(reap(subject.pid) or 0) == 5
    outcome = host.run("restore", "-D", str(host.images), "--restore-sibling")
    assert "--restore-sibling needs --restore-detached" in outcome.errors()


def test_a_restore_can_become_the_program_that_waits_for_the_root(host: Host) -> None:
    subject = host.python("pause_for_dump()\nsay('ok')\nos._exit(5)")
    assert host.dump(subject).ok
    waiter = 'echo I am $$, parent of $(cut -d" " -f4 /proc/$0/stat); touch go; sleep 1; echo done'
    outcome = host.run("restore", "-D", str(host.images), "--exec-cmd", "--", "sh", "-c", waiter, str(subject.pid))
    assert outcome.ok, outcome
    said = outcome.log.splitlines()
    line = next(line for line in said if line.startswith("I am"))
    assert line.split()[2].rstrip(",") == line.split()[-1], "the command is the parent of the root"
    assert said[-1] == "done"
    assert subject.said()[-1] == "ok"
    for words, why in (
        (["-d", "--exec-cmd", "--", "true"], "--exec-cmd and --restore-detached"),
        (["--exec-cmd"], "--exec-cmd needs a command"),
        (["--", "true"], "usage:"),
    ):
        outcome = host.run("restore", "-D", str(host.images), *words)
        assert outcome.status == 1
        assert why in outcome.log


def test_a_command_that_is_none_is_told(host: Host) -> None:
    subject = host.python("pause_for_dump()\nsay('ok')")
    assert host.dump(subject).ok
    outcome = host.run("restore", "-D", str(host.images), "--exec-cmd", "--", "/none")
    assert outcome.status == 1
    assert "/none: No such file or directory" in outcome.errors()
    assert subject.go() == ["ok"]
