# SPDX-License-Identifier: GPL-2.0-only
"""The handler of cores at bad moments: full disks, kills, many at once, other namespaces; core_patterns of others."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.host.conftest import Host, alive, reap, state, wait_until
from tests.host.cores import handler, imported, kernel_cores, may_dump_core, quit_, restart

OURS = {"pycriu-handler", "pycriu-before.json", "handler.log"}


def left(cores: Path) -> set[str]:
    """What is in the folder beside what the handler needs."""
    return {one.name for one in cores.iterdir()} - OURS


@pytest.fixture
def small_disk(host: Host) -> Iterator[Path]:
    """The folder of cores has room for some cores, as it is mounted; see `fill`."""
    cores = host.folder / "cores"
    cores.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=160m,mode=700", "none", str(cores)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    yield cores
    subprocess.run(["umount", str(cores)], check=True)


def fill(cores: Path) -> None:
    """It has less room now than a core must leave free."""
    subprocess.run(["mount", "-o", "remount,size=60m", str(cores)], check=True)


def test_on_a_full_disk_nothing_is_left_and_the_process_ends(host: Host, small_disk: Path) -> None:
    with handler(host) as cores:
        fill(small_disk)
        subject = host.python("pause_for_dump()", preexec_fn=may_dump_core)
        quit_(subject)
        assert left(cores) == set()
        assert "the disk is full" in (cores / "handler.log").read_text()


def refused(host: Host, cores: Path, *before: str) -> str:
    """What is said by an installation that fails, and leaves nothing."""
    files = Path("/proc/sys/kernel/core_pattern"), Path("/proc/sys/kernel/core_pipe_limit")
    with kernel_cores("core.%p\n"):
        then = [file.read_text() for file in files]
        done = subprocess.run(
            [*before, *host.command("core", "handler", "--install", str(cores))], cwd=host.folder,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 1, done
        assert [file.read_text() for file in files] == then
    assert os.listdir(cores) == []
    return done.stderr


def test_it_is_not_installed_where_no_core_can_be_stored(host: Host, small_disk: Path) -> None:
    """The kernel finds the handler, and yet would all cores be lost."""
    fill(small_disk)
    said = refused(host, small_disk)
    assert "the handler did not store the core of process" in said
    assert "the disk is full" in said


@pytest.mark.parametrize("name", ["core_pattern", "core_pipe_limit"])
def test_a_file_that_cannot_be_written(host: Host, name: str) -> None:
    """What was written before is as it was."""
    cores = host.folder / "cores"
    cores.mkdir(mode=0o700)
    path = f"/proc/sys/kernel/{name}"
    script = f'mount --bind {path} {path} && mount -o remount,bind,ro {path} && exec "$@"'
    assert f"{path}: Read-only file system" in refused(host, cores, "unshare", "-m", "sh", "-c", script, "sh")


def test_a_second_folder_is_refused(host: Host) -> None:
    """Each would have the pattern of the other as that of before."""
    other = host.folder / "other"
    other.mkdir(mode=0o700)
    with handler(host) as cores:
        done = host.run("core", "handler", "--install", str(other))
        assert not done.ok
        assert f"it is installed already, for {cores}" in done.errors()
        assert os.listdir(other) == []


def test_a_path_that_the_kernel_would_cut(host: Host) -> None:
    """The letter has the byte 0xa0 in it, which is a blank to the kernel."""
    cores = host.folder / "cor\u00e0"
    cores.mkdir(mode=0o700)
    assert "a letter that is not ASCII" in refused(host, cores)


def test_who_may_have_no_core_installs_it_all_the_same(host: Host) -> None:
    """`ulimit -c 1`: of such a process the kernel takes none."""
    limit = "import os, resource as r, sys; r.setrlimit(r.RLIMIT_CORE, (1, 1)); os.execv(sys.argv[1], sys.argv[1:])"
    cores = host.folder / "cores"
    cores.mkdir(mode=0o700)
    with kernel_cores("core.%p\n"):
        words = [sys.executable, "-c", limit, *host.command("core", "handler", "--install", str(cores))]
        done = subprocess.run(words, cwd=host.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done
        assert left(cores) == set()
        assert host.run("core", "handler", "--uninstall").ok


def test_what_a_killed_handler_has_begun_is_removed_by_the_next(host: Host) -> None:
    with handler(host) as cores:
        subject = host.python("data = os.urandom(200 << 20)\npause_for_dump()", preexec_fn=may_dump_core)
        os.kill(subject.pid, signal.SIGQUIT)
        core = f"core.{subject.pid}.crit-*"  # the side-car is long written when there is time to kill anybody
        names: set[str] = set()
        wait_until(lambda: names.update(one.name for one in cores.glob(core)) or names, "the core is being written")
        begun = names.pop()
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


def test_the_handler_that_listens_goes_on_when_a_core_cannot_be_taken(host: Host) -> None:
    """A core whose name a directory has; a process that was killed before its core was heard of; then one of ours."""
    cores = host.folder / "cores"
    (cores / f"core.{os.getpid()}").mkdir(parents=True)
    client = "import socket; socket.socket(socket.AF_UNIX).connect('cores/pycriu.socket')"
    with open(host.folder / "served", "wb") as said:
        server = subprocess.Popen(
            host.command("core", "handler", "cores", "--socket"), cwd=host.folder, stdout=said, stderr=said
        )
    wait_until((cores / "pycriu.socket").exists, "the handler has its name")
    wait_until(lambda: hand_over(cores, b"core"), "it listens")
    wait_until(lambda: "Is a directory" in (host.folder / "served").read_text(), "it says what is wrong")
    os.kill(server.pid, signal.SIGSTOP)
    wait_until(lambda: state(server.pid) == "T", "it hears nothing")
    subprocess.run([sys.executable, "-c", client], cwd=host.folder, check=True)
    os.kill(server.pid, signal.SIGCONT)
    wait_until(lambda: "somebody has killed it" in (host.folder / "served").read_text(), "it says what is wrong")
    (cores / f"core.{os.getpid()}").rmdir()
    assert hand_over(cores, b"core")
    wait_until((cores / f"core.{os.getpid()}").exists, "the core is there")
    server.terminate()
    server.wait()
    assert (cores / f"core.{os.getpid()}").read_bytes() == b"core"
    assert not list(cores.glob("core.-*"))


def hand_over(cores: Path, data: bytes) -> bool:
    """As the kernel does; whether somebody listens."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(cores / "pycriu.socket"))
        except ConnectionRefusedError:
            return False
        connection.sendall(data)
    return True
