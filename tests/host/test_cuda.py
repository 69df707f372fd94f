# SPDX-License-Identifier: GPL-2.0-only
"""Processes that use CUDA, before a driver that insists on the order in which it is to be asked (tests/fakecuda)."""

from __future__ import annotations

import ctypes.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pycriu.images.store import ImagesDir
from tests.host.conftest import (
    DEADLINE,
    Host,
    Outcome,
    Subject,
    alive,
    assert_sound,
    below,
    reap,
    state,
    wait_until,
)

SOURCE = Path(__file__).parents[1] / "fakecuda" / "libcuda.c"

APPLICATION = """
cuda = ctypes.CDLL("libcuda.so.1")
def work():
    assert cuda.cuInit(0) == 0
    say("number", cuda.fakeWork())
    ready()
    done, wrong = 1, 0
    while not os.path.exists("go"):
        done += 1
        wrong += cuda.fakeWork() != done
        if done % 50 == 0:
            say("number", done)
        time.sleep(0.001)
    say("wrong", wrong)
"""

ALONE = APPLICATION + "work()"
FAMILY = (
    APPLICATION
    + """
for _ in range(2):
    if not os.fork():
        work()
        os._exit(0)
os.wait()
os.wait()
"""
)


class Gpu:
    """The folder in which applications and those who checkpoint them meet, and the device."""

    def __init__(self, folder: Path, device: Path) -> None:
        self.folder, self.device = folder, device

    def log(self, pid: int) -> list[str]:
        """What was done to a process, and how the rest of it stood meanwhile."""
        log = self.folder / "log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [line.partition(" ")[2] for line in lines if line.startswith(f"{pid} ")]

    def state(self, pid: int) -> int:
        """As the driver tells it."""
        return int((self.folder / f"{pid}.state").read_text().split()[0])

    def thread(self, pid: int) -> int:
        """The restore thread."""
        return int((self.folder / f"{pid}.state").read_text().split()[1])

    def mask(self, pid: int) -> str:
        """The signals that it blocks."""
        status = Path(f"/proc/{pid}/task/{self.thread(pid)}/status").read_text()
        return next(line for line in status.splitlines() if line.startswith("SigBlk"))

    def fail(self, *lines: str) -> None:
        """What is to go wrong from now on."""
        beside = self.folder / "fail.new"
        beside.write_text("".join(f"{line}\n" for line in lines))
        beside.rename(self.folder / "fail")


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the driver, compiled."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler on this machine: apt-get install gcc")
    folder = tmp_path_factory.mktemp("driver")
    words = ["-shared", "-fPIC", "-O1", "-Wl,-soname,libcuda.so.1", "-o", str(folder / "libcuda.so.1"), str(SOURCE)]
    subprocess.run([compiler, *words, "-lpthread"], check=True)
    return folder


@pytest.fixture
def gpu(host: Host, library: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    """A machine with a GPU: its device is a file."""
    folder = host.folder / "gpu"
    folder.mkdir()
    device = Path(f"/dev/nvidia-pycriu-{os.getpid()}")
    device.touch()
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library))
    monkeypatch.setenv("FAKE_CUDA", str(folder))
    monkeypatch.setenv("FAKE_CUDA_DEVICE", str(device))
    try:
        yield Gpu(folder, device)
    finally:
        (folder / "fail").unlink(missing_ok=True)
        device.unlink()


def goes_on(subject: Subject) -> None:
    """It still works on the GPU, and what it had there is as it was."""
    before = len(subject.said())
    wait_until(lambda: len(subject.said()) > before + 1, f"it works on the GPU: {subject.said()[-3:]}")
    assert subject.go()[-1:] == ["wrong 0"], subject.said()[-5:]


def refused(host: Host, subject: Subject, gpu: Gpu, *needles: str, options: tuple[str, ...] = ()) -> Outcome:
    """A dump fails with these words, and all is as before."""
    mask = gpu.mask(subject.pid)
    outcome = host.refused(subject, *needles, options=options)
    assert gpu.state(subject.pid) == 0
    assert gpu.mask(subject.pid) == mask
    return outcome


def test_round_trip(host: Host, gpu: Gpu) -> None:
    subject = host.python(ALONE)
    mask = gpu.mask(subject.pid)
    host.round_trip(subject)
    assert gpu.log(subject.pid) == ["lock running", "checkpoint frozen", "restore frozen", "unlock frozen"]
    assert gpu.mask(subject.pid) == mask
    with ImagesDir(str(host.images)) as images:
        assert list(images.inventory().plugins_entry.plugins) == ["cuda_plugin"]  # as CRIU has it
    goes_on(subject)


def test_twice(host: Host, gpu: Gpu) -> None:
    subject = host.python(ALONE)
    host.round_trip(subject)
    host.round_trip(subject)
    assert len(gpu.log(subject.pid)) == 8
    goes_on(subject)


def test_beside_other_plugins(host: Host, gpu: Gpu) -> None:
    subject = host.python(ALONE)
    (host.folder / "plugins").mkdir()
    host.round_trip(subject, "-L", "plugins")
    assert gpu.log(subject.pid) == ["lock running", "checkpoint frozen", "restore frozen", "unlock frozen"]
    goes_on(subject)


def test_leave_running(host: Host, gpu: Gpu) -> None:
    subject = host.python(ALONE)
    mask = gpu.mask(subject.pid)
    outcome = host.dump(subject, "-R")
    assert outcome.ok, outcome
    assert gpu.log(subject.pid)[:2] == ["lock running", "checkpoint frozen"]
    assert gpu.log(subject.pid)[2:] == ["restore running", "unlock running"]
    assert gpu.mask(subject.pid) == mask
    goes_on(subject)


def test_leave_stopped(host: Host, gpu: Gpu) -> None:
    subject = host.python(ALONE)
    outcome = host.dump(subject, "-s")
    assert outcome.ok, outcome
    assert gpu.log(subject.pid) == ["lock running", "checkpoint frozen", "restore frozen", "unlock frozen"]
    wait_until(lambda: state(subject.pid) == "T", "stopped")
    os.kill(subject.pid, signal.SIGCONT)
    goes_on(subject)


def test_every_process_of_a_tree(host: Host, gpu: Gpu) -> None:
    subject = host.python(FAMILY)
    wait_until(lambda: subject.said().count("ready") == 2, "both have begun")
    users = [int(one.name.partition(".")[0]) for one in gpu.folder.glob("*.state")]
    assert len(users) == 2
    assert subject.pid not in users
    host.round_trip(subject)
    for pid in users:
        assert gpu.log(pid) == ["lock running", "checkpoint frozen", "restore frozen", "unlock frozen"]
    (host.folder / "go").touch()
    wait_until(lambda: not alive(subject.pid), "all have ended")
    assert subject.said().count("wrong 0") == 2, subject.said()[-5:]


LEAVING = (
    APPLICATION
    + """
if not os.fork():
    assert cuda.cuInit(0) == 0
    ready()
    while not os.path.exists("leave"): time.sleep(0.001)
    os._exit(0)
if not os.fork():
    work()
    os._exit(0)
if waits: os.wait()
wait_for_go()
say("statuses", sorted(os.wait()[1] for _ in range(1 if waits else 2)))
"""
)


@pytest.mark.parametrize("waits", [True, False])
def test_a_process_that_ends_once_it_is_locked(host: Host, gpu: Gpu, *, waits: bool) -> None:
    """It is in the images as one that has ended, or not at all: a restore asks nobody to bring its CUDA back."""
    subject = host.python(f"waits = {waits}\n" + LEAVING)
    wait_until(lambda: subject.said().count("ready") == 2, "both have begun")
    leaves, works = below(subject.pid)
    gpu.fail(f"lock hang {works}")
    words = host.command("dump", "-t", str(subject.pid), "-D", str(host.images))
    with subprocess.Popen(words, cwd=host.folder) as dumper:
        wait_until((gpu.folder / "hangs").exists, "the other is to be locked, too")
        assert gpu.state(leaves) == 1
        (host.folder / "leave").touch()
        wait_until(lambda: state(leaves) == (None if waits else "Z"), "it has ended")
        gpu.fail()
    assert dumper.returncode == 0
    reap(subject.pid)
    restored = host.restore()
    assert restored.ok, restored
    assert gpu.log(leaves) == ["lock running"]
    assert gpu.log(works) == ["lock running", "checkpoint frozen", "restore frozen", "unlock frozen"]
    (host.folder / "go").touch()
    wait_until(lambda: not alive(subject.pid), "all have ended")
    assert subject.said()[-2:] == ["wrong 0", f"statuses {[0] if waits else [0, 0]}"]


def test_a_process_that_ends_before_it_is_locked(host: Host, gpu: Gpu) -> None:
    """The others are saved: it is in nobody's way."""
    subject = host.python("waits = True\n" + LEAVING)
    wait_until(lambda: subject.said().count("ready") == 2, "both have begun")
    leaves, works = below(subject.pid)
    gpu.fail(f"lock hang {leaves}")
    words = host.command("dump", "-t", str(subject.pid), "-D", str(host.images), "-R")
    with subprocess.Popen(words, cwd=host.folder) as dumper:
        wait_until((gpu.folder / "hangs").exists, "it is to be locked")
        (host.folder / "leave").touch()
        wait_until(lambda: state(leaves) is None, "it has ended")
        gpu.fail()
    assert dumper.returncode == 0
    assert gpu.log(leaves) == []
    assert gpu.log(works)[-1] == "unlock running"


def test_a_process_that_somebody_else_has_locked_stays_so(host: Host, gpu: Gpu) -> None:
    subject = host.python(ALONE)
    code = f"import ctypes; print(ctypes.CDLL('libcuda.so.1').cuCheckpointProcess%s({subject.pid}, bytes(64)))"
    assert subprocess.check_output([sys.executable, "-c", code % "Lock"]) == b"0\n"
    outcome = host.dump(subject, "-R")
    assert outcome.ok, outcome
    assert gpu.state(subject.pid) == 1
    host.round_trip(subject)
    assert gpu.state(subject.pid) == 1
    assert gpu.log(subject.pid)[1:] == ["checkpoint frozen", "restore running", "checkpoint frozen", "restore frozen"]
    assert subprocess.check_output([sys.executable, "-c", code % "Unlock"]) == b"0\n"
    goes_on(subject)


ERRORS = {
    "lock 600": ("cannot be locked", "has not ended in time", "--timeout"),
    "lock 801": ("cannot be locked", "does not support that for this process", "570"),
    "lock 401": ("cannot be locked", "in a state in which that cannot be done"),
    "checkpoint 2": ("cannot be checkpointed", "not enough memory", "main memory must have room"),
    "checkpoint 1": ("cannot be checkpointed", "does not accept the request"),
    "checkpoint 100": ("cannot be checkpointed", "there is no GPU"),
    "checkpoint 999": ("cannot be checkpointed", "CUDA error 999"),
    "checkpoint keep": ("still has descriptor", "/dev/nvidia", "the mapping", "older than 570, or a child"),
    "checkpoint die": ("the CUDA driver has ended the process that asked (checkpoint of process",),
    "lock die": ("the CUDA driver has ended the process that asked (lock of process",),
    "state 999": ("cannot be asked for its state", "CUDA error 999"),
    "state 1": ("cannot be asked for its state", "does not accept the request"),
    "state die": ("the CUDA driver has ended the process that asked (state of process",),
    "thread 999": ("cannot be asked for its thread", "CUDA error 999"),
    "thread 3": ("cannot be asked for its thread", "does not use CUDA any more"),
    "thread die": ("the CUDA driver has ended the process that asked (thread of process",),
}


@pytest.mark.parametrize("fault", ERRORS)
def test_what_fails_is_undone(host: Host, gpu: Gpu, fault: str) -> None:
    subject = host.python(ALONE)
    gpu.fail(fault)
    refused(host, subject, gpu, *ERRORS[fault])
    if "600" in fault:
        assert (gpu.folder / "timeout").read_text() == "8000"  # ms, of the 10 s that a dump has for stopping all
    goes_on(subject)


@pytest.mark.parametrize("fault", ["lock 600", "lock 999", "thread 999", "checkpoint 2"])
def test_what_fails_for_one_of_several_is_undone_for_all(host: Host, gpu: Gpu, fault: str) -> None:
    subject = host.python(FAMILY)
    wait_until(lambda: subject.said().count("ready") == 2, "both have begun")
    users = sorted(int(one.name.partition(".")[0]) for one in gpu.folder.glob("*.state"))
    gpu.fail(f"{fault} {users[1]}")
    host.refused(subject, f"CUDA of process {users[1]} cannot be")
    assert [gpu.state(pid) for pid in users] == [0, 0]
    assert gpu.log(users[0])[-1] == "unlock running"
    (host.folder / "go").touch()
    wait_until(lambda: not alive(subject.pid), "all have ended")
    assert subject.said().count("wrong 0") == 2, subject.said()[-5:]


@pytest.mark.parametrize("step", ["lock", "checkpoint", "state", "thread"])
def test_a_driver_that_does_not_come_back(host: Host, gpu: Gpu, step: str) -> None:
    """--timeout ends it."""
    subject = host.python(ALONE)
    gpu.fail(f"{step} hang")
    refused(host, subject, gpu, "the time of --timeout is over", options=("--timeout", "1"))
    goes_on(subject)


def test_what_fails_later_is_undone(host: Host, gpu: Gpu) -> None:
    subject = host.python(ALONE)
    refused(host, subject, gpu, "false", options=("--action-script", "false"))
    script = host.folder / "script"
    script.write_text('#!/bin/sh\n[ "$CRTOOLS_SCRIPT_ACTION" != post-dump ]\n')
    script.chmod(0o755)
    outcome = host.dump(subject, "--action-script", str(script))
    assert not outcome.ok
    assert gpu.log(subject.pid) == ["lock running", "checkpoint frozen", "restore running", "unlock running"]
    goes_on(subject)


@pytest.mark.parametrize("how", ["-R", "-s"])
@pytest.mark.parametrize("fault", ["restore 999", "unlock 999", "restore die"])
def test_a_process_that_cannot_be_brought_back_is_named(host: Host, gpu: Gpu, how: str, fault: str) -> None:
    """It runs, and waits at its next call of CUDA; the checkpoint is whole; as soon as the driver can, it goes on."""
    subject = host.python(ALONE)
    gpu.fail(fault)
    outcome = host.dump(subject, how)
    assert not outcome.ok
    said = "no answer" if "die" in fault else "CUDA error 999"
    assert f"CUDA of process {subject.pid} ({said}) could not be brought back" in outcome.errors()
    assert "cuda-checkpoint" in outcome.errors()
    assert (host.images / "inventory.img").exists()
    assert_sound(host.images)
    gpu.fail()
    code = "import ctypes; cuda = ctypes.CDLL('libcuda.so.1')\n"
    code += f"for call in ('Restore', 'Unlock'): getattr(cuda, 'cuCheckpointProcess' + call)({subject.pid}, bytes(64))"
    subprocess.run([sys.executable, "-c", code], check=True)
    goes_on(subject)


@pytest.mark.parametrize("step", ["lock", "checkpoint", "post-dump"])
def test_a_dumper_that_is_killed(host: Host, gpu: Gpu, step: str) -> None:
    subject = host.python(ALONE)
    mask = gpu.mask(subject.pid)
    script = host.folder / "script"
    script.write_text(
        f'#!/bin/sh\n[ "$CRTOOLS_SCRIPT_ACTION" != post-dump ] || {{ touch {host.folder}/there; sleep 60; }}\n'
    )
    script.chmod(0o755)
    gpu.fail(f"{step} hang")
    words = host.command("dump", "-t", str(subject.pid), "-D", str(host.images), "--action-script", str(script))
    with subprocess.Popen(words, cwd=host.folder, stderr=subprocess.DEVNULL) as dumper:
        if step == "post-dump":
            wait_until((host.folder / "there").exists, "the script runs")
        else:
            wait_until((gpu.folder / "hangs").exists, "the driver is asked")
            assert (gpu.mask(subject.pid) != mask) is (step == "checkpoint")
        dumper.kill()
    gpu.fail()
    wait_until(lambda: gpu.log(subject.pid)[-1:] == ["unlock running"], "the guard undoes it")
    wait_until(lambda: gpu.mask(subject.pid) == mask, "its thread has its mask")
    assert gpu.state(subject.pid) == 0
    goes_on(subject)


@pytest.mark.parametrize("step", ["restore", "unlock"])
def test_a_dumper_that_is_killed_while_it_brings_back(host: Host, gpu: Gpu, step: str) -> None:
    subject = host.python(ALONE)
    gpu.fail(f"{step} hang")
    words = host.command("dump", "-t", str(subject.pid), "-D", str(host.images), "-R")
    with subprocess.Popen(words, cwd=host.folder, stderr=subprocess.DEVNULL) as dumper:
        wait_until((gpu.folder / "hangs").exists, "the driver is asked")
        dumper.kill()
    gpu.fail()
    wait_until(lambda: gpu.state(subject.pid) == 0, "the guard goes on")
    goes_on(subject)


@pytest.mark.parametrize("step", ["restore", "unlock"])
def test_a_restorer_that_is_killed(host: Host, gpu: Gpu, step: str) -> None:
    """Nothing is left of the tree, and the checkpoint is what it was."""
    subject = host.python(ALONE)
    dumped = host.dump(subject)
    assert dumped.ok, dumped
    gpu.fail(f"{step} hang")
    words = host.command("restore", "-d", "-D", str(host.images))
    with subprocess.Popen(words, cwd=host.folder, stderr=subprocess.DEVNULL) as restorer:
        wait_until((gpu.folder / "hangs").exists, "the driver is asked")
        restorer.kill()
    wait_until(lambda: not alive(subject.pid), "it has ended, too")
    reap(subject.pid)
    gpu.fail()
    wait_until(lambda: not any(map(alive, below(os.getpid()))), "so has the guard")
    restored = host.restore()
    assert restored.ok, restored
    goes_on(subject)


def test_no_restore_without_a_driver(host: Host, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    if ctypes.util.find_library("cuda"):
        pytest.skip("this machine has a CUDA driver")
    subject = host.python(ALONE)
    dumped = host.dump(subject)
    assert dumped.ok, dumped
    with monkeypatch.context() as without:
        without.delenv("LD_LIBRARY_PATH")
        outcome = host.restore()
        assert not outcome.ok
        assert "these images are of processes that use CUDA, and the CUDA driver cannot be loaded" in outcome.errors()
        assert state(subject.pid) is None
        dry = host.restore("--dry-run")
        assert "these images are of processes that use CUDA" in dry.log
    restored = host.restore()
    assert restored.ok, restored
    goes_on(subject)


@pytest.mark.parametrize("step", ["thread", "restore", "unlock"])
def test_a_driver_that_ends_its_caller_at_a_restore(host: Host, gpu: Gpu, step: str) -> None:
    subject = host.python(ALONE)
    assert host.dump(subject).ok
    gpu.fail(f"{step} die")
    outcome = host.restore()
    assert not outcome.ok
    said = f"the CUDA driver has ended the process that asked ({step} of process {subject.pid})"
    assert said in outcome.errors()
    assert state(subject.pid) is None
    gpu.fail()
    assert host.restore().ok
    goes_on(subject)


@pytest.mark.parametrize("fault", ["restore 999", "unlock 401", "thread 3", "thread 999"])
def test_a_restore_that_fails_leaves_nothing(host: Host, gpu: Gpu, fault: str) -> None:
    subject = host.python(ALONE)
    dumped = host.dump(subject)
    assert dumped.ok, dumped
    gpu.fail(fault)
    outcome = host.restore()
    assert not outcome.ok
    assert f"CUDA of process {subject.pid} cannot be" in outcome.errors()
    assert state(subject.pid) is None


def test_check_knows_whether_there_is_a_driver(host: Host, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "cuda_checkpoint is supported" in host.run("check", "--feature", "cuda_checkpoint").log
    if ctypes.util.find_library("cuda"):
        pytest.skip("this machine has a CUDA driver")
    monkeypatch.delenv("LD_LIBRARY_PATH")
    outcome = host.run("check", "--feature", "cuda_checkpoint")
    assert not outcome.ok
    assert "the CUDA driver cannot be loaded" in outcome.log


def test_a_pre_dump_asks_nobody(host: Host, gpu: Gpu) -> None:
    subject = host.python(ALONE)
    outcome = host.run("pre-dump", "-t", str(subject.pid), "-D", str(host.images))
    assert outcome.ok, outcome
    assert gpu.log(subject.pid) == []
    goes_on(subject)


def test_a_dry_run_asks_nobody(host: Host, gpu: Gpu) -> None:
    subject = host.python(ALONE)
    outcome = host.run("dump", "-t", str(subject.pid), "-D", str(host.images), "--dry-run")
    assert outcome.ok, outcome
    assert gpu.log(subject.pid) == []
    goes_on(subject)


def test_without_cuda_nobody_hears_of_it(host: Host) -> None:
    """Nor is anything of it imported."""
    if os.path.exists("/proc/driver/nvidia"):
        pytest.skip("this machine has a GPU")
    subject = host.python("pause_for_dump()\nsay('ok')")
    for action in (["dump", "-t", str(subject.pid)], ["restore", "-d"]):
        words = [sys.executable, "-X", "importtime", "-m", "pycriu", *action, "-D", str(host.images), "-v4", "-o", "-"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE, check=True)
        said = done.stdout + done.stderr
        if not alive(subject.pid):
            reap(subject.pid)
        assert "pycriu.options" in said
        assert "cuda" not in said.lower()
        assert "plugin" not in said.lower()
    assert subject.go() == ["ok"]
