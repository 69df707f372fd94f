# SPDX-License-Identifier: GPL-2.0-only
"""`pycriu job run`: saved at a signal, with exit status 0; the next start of the same line goes on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.host.conftest import DEADLINE, Host, below, children, clean_up, reap, wait_until

ROOT = Path(__file__).parents[2]
COUNTING = """
import os, signal, sys, time
number = 0
signal.signal(signal.SIGUSR2, lambda *_: os.write(1, b"USR2\\n"))
while not os.path.exists("go"):
    number += 1
    print(number, flush=True)
    time.sleep(0.02)
print("end", flush=True)
sys.exit(7)
"""


class Batch:
    """Starts a job, again and again, with its output in a new file each time."""

    def __init__(self, host: Host) -> None:
        self.host, self.starts = host, 0
        (host.folder / "job.py").write_text(COUNTING)
        (host.folder / "state").mkdir()

    def command(self, *words: str, program: tuple[str, ...] = ()) -> list[str]:
        folder = () if "-D" in words else ("-D", "state")
        return self.host.command("job", "run", *folder, *words, "--", *(program or (sys.executable, "-IS", "job.py")))

    def start(
        self, *words: str, program: tuple[str, ...] = (), interpreter: tuple[str, ...] = (), **streams: object
    ) -> subprocess.Popen[bytes]:
        """`interpreter`: what takes the place of `-m pycriu`."""
        self.starts += 1
        command = self.command(*words, program=program)
        command[1:3] = interpreter or command[1:3]
        with open(self.output, "wb") as out, open(self.errors, "wb") as errors:
            options = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": errors, **streams}
            return subprocess.Popen(command, cwd=self.host.folder, **options)  # type: ignore[call-overload]

    @property
    def output(self) -> Path:
        return self.host.folder / f"out.{self.starts}"

    @property
    def errors(self) -> Path:
        return self.host.folder / f"err.{self.starts}"

    def numbers(self) -> list[int]:
        return [int(line) for line in self.output.read_text().splitlines() if line.isdigit()]

    def counts(self, least: int = 3) -> None:
        wait_until(lambda: len(self.numbers()) >= least, f"it counts: {self.errors.read_text()}")

    def counting(self) -> subprocess.Popen[bytes]:
        job = self.start()
        self.counts()
        return job

    def finish(self, job: subprocess.Popen[bytes]) -> int:
        (self.host.folder / "go").touch()
        return job.wait(DEADLINE)


@pytest.fixture
def full(host: Host) -> Iterator[Path]:
    """A directory on a small disk."""
    place = host.folder / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "none", place], check=False).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        yield place
    finally:
        clean_up()  # nobody has anything open there
        subprocess.run(["umount", place], check=True)


@pytest.fixture
def batch(host: Host) -> Batch:
    return Batch(host)


def saved(batch: Batch, job: subprocess.Popen[bytes], number: int) -> None:
    job.send_signal(number)
    assert job.wait(DEADLINE) == 0, batch.errors.read_text()
    assert not below(os.getpid()), "it has left somebody"


@pytest.mark.parametrize("on", ["SIGTERM", "usr1", "SIGTERM|SIGUSR1"])
def test_interrupted_twice(batch: Batch, on: str) -> None:
    number = signal.SIGTERM if on == "SIGTERM" else signal.SIGUSR1
    last = 0
    for _ in range(2):
        job = batch.start("--on", on)
        batch.counts()
        assert batch.numbers() == list(range(last + 1, last + 1 + len(batch.numbers())))
        saved(batch, job, number)
        last = batch.numbers()[-1]
        assert "end" not in batch.output.read_text()
    job = batch.start("--on", on)
    batch.counts()
    assert batch.finish(job) == 7
    assert batch.numbers()[0] == last + 1
    assert batch.output.read_text().endswith("end\n")
    assert not (batch.host.folder / "state/checkpoint").exists()
    (batch.host.folder / "go").unlink()
    job = batch.start()  # it was done, so this is another one
    batch.counts()
    assert batch.numbers()[0] == 1
    assert batch.finish(job) == 7


def test_other_signals_are_for_the_program(batch: Batch) -> None:
    job = batch.start()
    batch.counts()
    job.send_signal(signal.SIGUSR2)
    wait_until(lambda: "USR2" in batch.output.read_text(), "it has had it")
    job.send_signal(signal.SIGINT)
    assert job.wait(DEADLINE) == -signal.SIGINT or job.returncode == 1  # Python's way to end of it


def test_ends_as_the_program_ends(batch: Batch) -> None:
    job = batch.start(program=("sh", "-c", "echo 1; echo 2; echo 3; kill -USR1 $$; sleep 60"))
    assert job.wait(DEADLINE) == -signal.SIGUSR1


def test_pipes_are_those_of_each_start(batch: Batch) -> None:
    last = 0
    for _ in range(2):
        job = batch.start(stdout=subprocess.PIPE)
        assert job.stdout is not None
        lines = [int(job.stdout.readline()) for _ in range(5)]
        assert lines[0] == last + 1
        job.send_signal(signal.SIGTERM)
        rest = job.stdout.read().split()
        assert job.wait(DEADLINE) == 0, batch.errors.read_text()
        last = int(rest[-1]) if rest else lines[-1]


def test_a_job_that_cannot_be_saved_gets_the_signal_itself(batch: Batch) -> None:
    code = "import fcntl,time; f = open('lock', 'w'); fcntl.flock(f, 2); print('1\\n2\\n3', flush=True); time.sleep(60)"
    job = batch.start(program=(sys.executable, "-IS", "-c", code))
    batch.counts()
    job.send_signal(signal.SIGTERM)
    assert job.wait(DEADLINE) == -signal.SIGTERM
    assert "the job cannot be saved" in batch.errors.read_text()
    assert "--file-locks" in batch.errors.read_text()
    (batch.host.folder / "lock").unlink()
    job = batch.start("--file-locks", program=(sys.executable, "-IS", "-c", code))
    batch.counts()
    saved(batch, job, signal.SIGTERM)


def test_a_program_that_says_not_now_is_asked_again(batch: Batch) -> None:
    code = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
import os, time, pycriu
@pycriu.before_checkpoint
def busy():
    print("asked", flush=True)
    if not os.path.exists("calm"): raise pycriu.NotNow("busy")
print("1\\n2\\n3", flush=True)
while True: time.sleep(0.1)
"""
    job = batch.start(program=(sys.executable, "-IS", "-c", code))
    batch.counts()
    job.send_signal(signal.SIGTERM)
    wait_until(lambda: batch.output.read_text().count("asked") > 1, "it is asked again")
    assert job.poll() is None
    (batch.host.folder / "calm").touch()
    assert job.wait(DEADLINE) == 0


def test_two_starts_at_once(batch: Batch) -> None:
    first = batch.start()
    batch.counts()
    second = batch.start()
    assert second.wait(DEADLINE) == 1
    assert "another start of this job is under way" in batch.errors.read_text()
    (pid,) = children(first.pid)
    assert pid
    batch.finish(first)


def test_whoever_starts_it_ignores_sigchld(batch: Batch) -> None:
    """Then the kernel would reap the program, and nobody hear how it has ended."""
    job = batch.start(preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN))
    batch.counts()
    assert batch.finish(job) == 7


def test_its_directory_is_removed_while_it_runs(batch: Batch) -> None:
    job = batch.start(program=("sh", "-c", "rm -r state; echo 1; exit 7"))
    assert job.wait(DEADLINE) == 7, batch.errors.read_text()
    assert batch.errors.read_text() == ""


def test_a_checkpoint_that_is_removed_is_made_again(batch: Batch) -> None:
    job = batch.counting()
    shutil.rmtree(batch.host.folder / "state/checkpoint")
    saved(batch, job, signal.SIGTERM)
    last = batch.numbers()[-1]
    job = batch.counting()
    assert batch.numbers()[0] == last + 1
    assert batch.finish(job) == 7


def test_a_script_that_fails_when_the_checkpoint_is_there(batch: Batch) -> None:
    """The next start goes on from it, with its own streams."""
    script = batch.host.folder / "script"
    script.write_text('#!/bin/sh\n[ "$CRTOOLS_SCRIPT_ACTION" != post-dump ]\n')
    script.chmod(0o700)
    job = batch.start("--action-script", str(script))
    batch.counts()
    job.send_signal(signal.SIGTERM)
    assert job.wait(DEADLINE) == -signal.SIGTERM
    assert "has failed at post-dump" in batch.errors.read_text()
    assert "means nothing" not in batch.errors.read_text()
    first = batch.numbers()[-1]
    job = batch.counting()
    assert 3 < batch.numbers()[0] <= first + 1
    assert batch.finish(job) == 7


# How the program ends while it is saved: by itself just before it could be stopped; killed as it stands.
ENDS = {
    "before": ("pycriu.kernel.ptrace", "interrupt", 'open("go", "w").close()', 7),
    "standing": ("pycriu.dump", "take_snapshots", "os.kill(pid, 9)", -signal.SIGKILL),
}


@pytest.mark.parametrize("when", ENDS)
def test_the_program_ends_while_it_is_saved(batch: Batch, when: str) -> None:
    """Then the dump, which traces it, may have heard of that in the place of its parent."""
    module, function, action, status = ENDS[when]
    ending = f"""
import os, sys, time, {module} as module
from pycriu.cli import main
function = module.{function}
def end(*words):
    (pid,) = open(f"/proc/self/task/{{os.getpid()}}/children").read().split()
    pid = int(pid)
    {action}
    while ") Z" not in open(f"/proc/{{pid}}/stat").read(): time.sleep(0.001)
    return function(*words)
module.{function} = end
sys.exit(main(sys.argv[1:]))
"""
    job = batch.start(interpreter=("-c", ending))
    batch.counts()
    job.send_signal(signal.SIGTERM)
    assert job.wait(DEADLINE) == status, batch.errors.read_text()
    assert "the job cannot be saved" in batch.errors.read_text()
    assert "Traceback" not in batch.errors.read_text()


def orphan(batch: Batch) -> int:
    """The program, after whoever started it was killed."""
    (pid,) = below(os.getpid())
    return pid


def test_a_start_that_is_killed_leaves_its_program(batch: Batch) -> None:
    """Another start does not begin a second one; when it has been ended, the next goes on, or begins."""
    job = batch.start()
    batch.counts()
    job.kill()
    job.wait()
    pid = orphan(batch)
    assert batch.start().wait(DEADLINE) == 1
    assert (
        f"the program of this job still runs, as process {pid}; who started it was killed" in batch.errors.read_text()
    )
    assert f"kill {pid}" in batch.errors.read_text()
    os.kill(pid, signal.SIGKILL)
    reap(pid)
    job = batch.start()
    batch.counts()
    assert batch.numbers()[0] == 1
    assert batch.finish(job) == 7


# Where a start that saves its program for the second time is killed: before it writes, before and after the commit.
MOMENTS = {
    "begin": "pycriu.dump.dump = die",
    "copied": "pycriu.dump.thaw = pycriu.dump.sync_together = die",
    "whole": "pycriu.images.commit.publish = die",
    "committed": "pycriu.dump.finish = die",
    "ended": "pycriu.command.jobfolder.JobFolder.end_saving = die",
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_while_it_saves(batch: Batch, moment: str) -> None:
    """Whatever is there then, the next start goes on from a whole checkpoint, with its own streams."""
    saved(batch, batch.counting(), signal.SIGTERM)
    first = batch.numbers()[-1]
    killer = f"""
import os, sys, pycriu.dump, pycriu.images.commit, pycriu.command.jobfolder
from pycriu.cli import main
def die(*_, **__): os.kill(os.getpid(), 9)
{MOMENTS[moment]}
main(sys.argv[1:])
"""
    job = batch.start(interpreter=("-c", killer))
    batch.counts()
    job.send_signal(signal.SIGTERM)
    assert job.wait(DEADLINE) == -signal.SIGKILL
    for pid in below(os.getpid()):
        assert batch.start().wait(DEADLINE) == 1
        assert f"still runs, as process {pid}" in batch.errors.read_text()
        batch.starts -= 1
        os.kill(pid, signal.SIGKILL)
        reap(pid)
    second = batch.numbers()[-1]
    job = batch.start()
    batch.counts()
    begin = batch.numbers()[0]
    assert begin > first
    assert (begin > first + 3) is (moment in ("committed", "ended")), (first, second, begin)
    assert batch.finish(job) == 7
    assert not (batch.host.folder / "state/checkpoint").exists()


def test_a_saving_that_fails_leaves_the_checkpoint_before(batch: Batch) -> None:
    """And what is known of its streams."""
    saved(batch, batch.counting(), signal.SIGTERM)
    first = batch.numbers()[-1]
    job = batch.start("--action-script", "false")
    batch.counts()
    job.send_signal(signal.SIGTERM)
    assert job.wait(DEADLINE) == -signal.SIGTERM
    assert "the job cannot be saved" in batch.errors.read_text()
    job = batch.start()
    batch.counts()
    assert batch.numbers()[0] == first + 1
    assert batch.finish(job) == 7


@pytest.mark.parametrize("image", ["core", "pages", "inventory", "job-stdio"])
def test_a_spoiled_checkpoint_is_not_begun_from(batch: Batch, image: str) -> None:
    """Nor is the program begun anew, unless the user wants that."""
    saved(batch, batch.counting(), signal.SIGTERM)
    state = batch.host.folder / "state"
    (spoiled,) = state.glob("job-stdio") if image == "job-stdio" else state.glob(f"checkpoint/{image}*.img")
    spoiled.write_bytes(spoiled.read_bytes()[:-9])
    assert batch.start().wait(DEADLINE) == 1
    assert f"The job begins anew where there is no {state}/checkpoint" in batch.errors.read_text()
    assert "bug" not in batch.errors.read_text()
    assert batch.numbers() == []
    shutil.rmtree(state / "checkpoint")
    job = batch.start()
    batch.counts()
    assert batch.numbers()[0] == 1
    assert batch.finish(job) == 7


def test_a_program_that_ends_as_the_signal_comes(batch: Batch) -> None:
    for _ in range(8):
        job = batch.start(program=("sh", "-c", "echo 1; sleep 0.05; exit 3"))
        wait_until(lambda: "1" in batch.output.read_text(), "it runs")
        time.sleep(0.04)
        job.send_signal(signal.SIGTERM)
        status = job.wait(DEADLINE)
        assert status in (0, 3, -signal.SIGTERM), batch.errors.read_text()
        if status == 0:  # it was saved in time
            assert batch.start().wait(DEADLINE) == 3, batch.errors.read_text()


def test_a_full_disk(batch: Batch, full: Path) -> None:
    """The program goes on, and has the signal; what there was of a checkpoint is there."""
    job = batch.start("-D", str(full))
    batch.counts()
    with open(full / "filler", "wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(1 << 12)):
            continue
    job.send_signal(signal.SIGTERM)
    assert job.wait(DEADLINE) == -signal.SIGTERM
    assert "the job cannot be saved" in batch.errors.read_text()
    assert "make room there" in batch.errors.read_text()


def test_closed_streams(batch: Batch) -> None:
    """They are /dev/null then."""
    words = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *batch.command()]
    job = subprocess.Popen(words, cwd=batch.host.folder)
    wait_until(lambda: (batch.host.folder / "state/job.lock").exists() and below(job.pid), "it runs")
    time.sleep(0.5)
    saved(batch, job, signal.SIGTERM)
    job = subprocess.Popen(words, cwd=batch.host.folder)
    assert batch.finish(job) == 7


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("job",), "the words of a job are: run"),
        (("job", "run"), "the words of a job are: run"),
        (("job", "run", "--on", "SIGKILL", "--", "true"), "--on SIGKILL: not a signal that can be waited for"),
        (("job", "run", "--on", "nonsense", "--", "true"), "--on nonsense: not a signal"),
        (("job", "run", "--", "/no/such/program"), "/no/such/program: No such file"),
    ],
)
def test_what_makes_no_sense(host: Host, words: tuple[str, ...], said: str) -> None:
    outcome = host.run(words[0], *words[1:])
    assert outcome.status == 1
    assert said in outcome.log
