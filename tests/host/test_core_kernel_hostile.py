# SPDX-License-Identifier: GPL-2.0-only
"""The handler of cores at bad moments: full disks, kills, many at once, other namespaces; core_patterns of others."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.host.conftest import Host, alive, reap, wait_until
from tests.host.cores import handler, imported, may_dump_core, quit_, restart

OURS = {"pycriu-handler", "pycriu-before.json", "handler.log"}


def left(cores: Path) -> set[str]:
    """What is in the folder beside what the handler needs."""
    return {one.name for one in cores.iterdir()} - OURS


@pytest.fixture
def full_disk(host: Host) -> Iterator[None]:
    """The folder of cores has less room than a core must leave free."""
    (host.folder / "cores").mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=60m,mode=700", "none", str(host.folder / "cores")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    yield
    subprocess.run(["umount", str(host.folder / "cores")], check=True)


@pytest.mark.usefixtures("full_disk")
def test_on_a_full_disk_nothing_is_left_and_the_process_ends(host: Host) -> None:
    with handler(host) as cores:
        subject = host.python("pause_for_dump()", preexec_fn=may_dump_core)
        quit_(subject)
        assert left(cores) == set()
        assert "the disk is full" in (cores / "handler.log").read_text()


def test_what_a_killed_handler_has_begun_is_removed_by_the_next(host: Host) -> None:
    with handler(host) as cores:
        subject = host.python("data = os.urandom(200 << 20)\npause_for_dump()", preexec_fn=may_dump_core)
        os.kill(subject.pid, signal.SIGQUIT)
        core = f"core.{subject.pid}.crit-*"  # the side-car is long written when there is time to kill anybody
        wait_until(lambda: list(cores.glob(core)), "the core is being written")
        begun = next(cores.glob(core)).name
        os.kill(int(begun.rpartition("-")[2]), signal.SIGKILL)
        reap(subject.pid)
        assert begun in left(cores)
        (cores / f".pycriu-core-{1 << 22}-of-nobody").mkdir()
        other = host.python("pause_for_dump()", preexec_fn=may_dump_core)
        quit_(other)
        names = {f"core.{other.pid}{suffix}" for suffix in ("", ".side", ".fds")}
        assert names <= left(cores)
        assert not [name for name in left(cores) if name == begun or name.startswith(".")]
        imported(host, cores / f"core.{other.pid}")


def test_several_processes_end_at_once(host: Host, compiled: Callable[..., str]) -> None:
    program = compiled("numbers")
    with handler(host) as cores:
        subjects = [host.start(program, f"numbers-{n}", "30", "5", "20", preexec_fn=may_dump_core) for n in range(6)]
        for subject in subjects:
            os.kill(subject.pid, signal.SIGQUIT)
        for subject in subjects:
            assert os.WCOREDUMP(reap(subject.pid) or 0)
    for subject in subjects:
        done = host.run("core", "restore", "-d", str(cores / f"core.{subject.pid}"))
        assert done.ok, done
    (host.folder / "go").touch()
    for n, subject in enumerate(subjects):
        wait_until(lambda pid=subject.pid: not alive(pid), "it ends")  # type: ignore[misc]
        assert (host.folder / f"numbers-{n}").read_text().split() == [str(number) for number in range(1, 31)]


def test_of_another_namespace_there_are_a_core_and_the_list(host: Host, compiled: Callable[..., str]) -> None:
    """Its paths and PIDs mean something else out here. A side-car of another process with that PID is gone."""
    program = compiled("numbers")
    with handler(host) as cores:
        command = ["unshare", "-pf", "--mount-proc", "sh", "-c", f"{program} numbers 30 5 20; true"]
        subject = host.start(*command, preexec_fn=may_dump_core)
        pid = subject.pid
        while children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            pid = int(children[0])
        for suffix in ("", ".side", ".fds"):
            (cores / f"core.{pid}{suffix}").write_bytes(b"of another")
        os.kill(pid, signal.SIGQUIT)
        reap(subject.pid)
        assert left(cores) == {f"core.{pid}", f"core.{pid}.fds"}
        assert "no side-car: " in (cores / "handler.log").read_text()
        assert "namespaces of its own (mnt, pid)" in (cores / "handler.log").read_text()
    (host.folder / "go").touch()
    said = restart(host, f"-f{cores}/core.{pid}.fds", "-n", "-w", "-V", program, str(cores / f"core.{pid}"))
    assert "exiting with value 0" in said
    assert (host.folder / "numbers").read_text().split() == [str(number) for number in range(1, 31)]


@pytest.mark.parametrize("pattern", ["|/usr/lib/collector %P %s", "", "core"], ids=["another's", "none", "core"])
def test_the_pattern_of_before_comes_back(host: Host, pattern: str) -> None:
    with handler(host, pattern=pattern) as cores:
        done = host.run("core", "handler", "--install", str(cores))
        assert not done.ok
        assert "it is installed already" in done.errors()
    done = host.run("core", "handler", "--uninstall")
    assert not done.ok
    assert "not ours" in done.errors()
