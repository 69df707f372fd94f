# SPDX-License-Identifier: GPL-2.0-only
"""Dumps and restores that fail or are killed: the application lives on unharmed, a restore leaves nobody behind."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.host.conftest import DEADLINE, alive, below, reap, state, traces, wait_until

if TYPE_CHECKING:
    from tests.host.conftest import Host, Subject

KILLS = int(os.environ.get("PYCRIU_TEST_KILLS", "40"))

WORKER = """
import random
signal.signal(10, lambda *a: say("signal"))
signal.setitimer(signal.ITIMER_REAL, 3600)
r, w = os.pipe()
os.write(w, b"in flight")
block = random.Random(1).randbytes(1 << 20)
memory = [bytes(bytearray(block)) for _ in range(8)]
pid = os.fork()
if pid == 0:
    while not os.path.exists("go"): time.sleep(0.0005)
    os._exit(3)
ready()
n, x = 0, 1.0
while not os.path.exists("go"):
    for _ in range(200):
        x = x * 1.0000001 + 0.5
    y = 1.0
    n += 1
    if n % 50 == 0:
        say("n", n // 50)
        time.sleep(0.001)
z = 1.0
for _ in range(200 * n): z = z * 1.0000001 + 0.5
say(z == x, all(one == block for one in memory), os.read(r, 100) == b"in flight", os.waitpid(pid, 0)[1] == 768)
"""


def check_worker(worker: Subject) -> None:
    """It judges itself, and its log has no gap and no double."""
    assert alive(worker.pid), worker.said()[-3:]
    said = worker.go()
    assert said[-1] == "True True True True", said[-3:]
    assert said[:-1] == [f"n {n}" for n in range(1, len(said))]


def check_unharmed(worker: Subject, before: dict[int, object], *, scratch_pages: bool = True) -> None:
    """Running, not traced, its mask as it was, nothing of ours in it."""
    wait_until(lambda: all(state(pid) in "RSD" for pid in before), f"who runs: {[(p, state(p)) for p in before]}", 5)
    end = time.monotonic() + 5
    while (
        now := {pid: traces(pid, scratch_pages=scratch_pages) for pid in before}
    ) != before and time.monotonic() < end:
        time.sleep(0.01)
    assert now == before, "a dump has left its traces"


def spawn(host: Host, *words: str) -> subprocess.Popen[bytes]:
    """Begin a pycriu command."""
    return subprocess.Popen(
        host.command(*words), cwd=host.folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip


def startup(host: Host) -> float:
    """How long an interpreter with pycriu takes until it begins: the time when nothing is touched yet."""
    begin = time.monotonic()
    subprocess.run(host.command("-V"), check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - begin


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda how: how.name)
def test_dump_ended_by_a_signal_at_any_moment(host: Host, how: signal.Signals) -> None:
    """After SIGKILL nobody is left who could unmap the scratch pages; they are all that may stay."""
    worker = host.python(WORKER)
    undone = how != signal.SIGKILL
    before = {pid: traces(pid, scratch_pages=undone) for pid in (worker.pid, *below(worker.pid))}
    first = startup(host) * 0.9
    host.dump(worker, "-R")
    trial = host.dump(worker, "-R")
    assert trial.ok, trial
    length = trial.seconds
    rng = random.Random(7)
    interrupted = 0
    for _ in range(KILLS if how == signal.SIGKILL else 12):
        dumper = spawn(host, "dump", "-t", str(worker.pid), "-D", str(host.images), "-R")
        time.sleep(rng.uniform(first, length))
        dumper.send_signal(how)
        interrupted += dumper.wait(DEADLINE) != 0
        check_unharmed(worker, before, scratch_pages=undone)
    assert interrupted > 1, "nearly every dump was done before the signal came: the delays are wrong"
    assert host.dump(worker, "-R").ok
    check_worker(worker)


def test_restore_killed_at_any_moment_leaves_no_task(host: Host) -> None:
    worker = host.python(WORKER)
    assert host.dump(worker).ok
    first = startup(host) * 0.9
    begin = time.monotonic()
    restorer = spawn(host, "restore", "-d", "-D", str(host.images))
    restorer.wait(DEADLINE)
    length = time.monotonic() - begin
    rng = random.Random(11)
    half = 0
    for _ in range(25):
        for pid in below(os.getpid()):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not [reap(pid) for pid in below(os.getpid())] and not below(os.getpid()), "all are gone")
        out = host.folder / "out"
        out.write_bytes((out.read_bytes() + bytes(10**6))[: _size(host, out)])
        restorer = spawn(host, "restore", "-d", "-D", str(host.images))
        time.sleep(rng.uniform(first, length))
        restorer.kill()
        if restorer.wait() == 0:
            continue
        half += 1
        # The guard of the restore is below us, too, and has its say before it ends.
        wait_until(
            lambda: (
                len(left := [pid for pid in below(os.getpid()) if alive(pid)]) in (0, 2)
                and (not left or (worker.pid in left and _whole(worker.pid)))
            ),
            "nobody, or all",
        )
        time.sleep(0.1)  # whom a guard has killed may take its time to go
        if alive(worker.pid):
            assert _whole(worker.pid), "half a tree runs"
    assert half > 4


def _whole(root: int) -> bool:
    """Root and child run, nobody traces them."""
    pids = [root, *below(root)]
    try:
        return len(pids) == 2 and all(
            alive(pid) and "TracerPid:\t0\n" in Path(f"/proc/{pid}/status").read_text() for pid in pids
        )
    except FileNotFoundError:
        return False


_SIZES: dict[Path, int] = {}


def _size(host: Host, out: Path) -> int:
    """The size that the log had at the dump: a restored worker has written on since."""
    if out not in _SIZES:
        import re

        log = host.run("restore", "-d", "-D", str(host.images)).log
        found = re.search(r"at the dump it was (\d+)", log)
        _SIZES[out] = int(found.group(1)) if found else out.stat().st_size
    return _SIZES[out]


def test_restore_that_fails_half_way_leaves_nobody(host: Host) -> None:
    subject = host.python("for _ in range(3):\n    if os.fork() == 0: break\npause_for_dump()")
    wait_until(lambda: subject.said().count("ready") == 4, "all are ready")
    pids = [subject.pid, *below(subject.pid)]
    assert host.dump(subject).ok
    last = max(host.images.glob("pages-*.img"), key=lambda path: path.name)
    content = last.read_bytes()
    for _ in range(3):
        last.write_bytes(content[:-4096])
        outcome = host.restore()
        assert not outcome.ok
        assert "pages image" in outcome.log
        assert not [pid for pid in pids if state(pid)], "somebody is left"
    last.write_bytes(content)
    pidfile = host.folder / "pidfile"
    pidfile.write_text("")
    outcome = host.restore("--pidfile", str(pidfile))
    assert not outcome.ok
    assert "pidfile" in outcome.log
    assert [pid for pid in pids if state(pid)] == [], "the pidfile is written last: tasks existed, and must be gone"
    assert host.restore().ok
    assert subject.pid in below(os.getpid())


def test_pid_in_use_is_named(host: Host) -> None:
    subject = host.python("pause_for_dump()\nsay('ok')")
    assert host.dump(subject, "-R").ok
    outcome = host.restore()
    assert not outcome.ok
    assert f"PID {subject.pid} is in use by python" in outcome.log
    assert subject.go() == ["ok"]


def test_pid_of_a_zombie_is_named_with_its_parent(host: Host) -> None:
    parent = subprocess.Popen(
        ["/bin/sh", "-c", "sleep 0.01 & echo $!; exec sleep 60"], stdout=subprocess.PIPE, cwd=host.folder
    )
    parent.kill()
    parent.wait()
    subject = host.python("pause_for_dump()\nsay('ok')")
    outcome = host.run("dump", "-t", str(subject.pid), "-D", str(host.images))
    assert outcome.ok
    assert state(subject.pid) == "Z", "this test has not waited for it yet"
    outcome = host.restore()
    assert not outcome.ok
    assert f"PID {subject.pid} is still held by a zombie" in outcome.log
    assert str(os.getpid()) in outcome.log
    reap(subject.pid)
    assert host.restore().ok
    assert subject.go() == ["ok"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path: path.write_text("longer than before"), ["data", "18 bytes", "4"]),
        (lambda path: path.unlink(), ["data", "No such file"]),
        (lambda path: (path.unlink(), path.mkdir()), ["data"]),
    ],
    ids=["grown", "gone", "a directory"],
)
def test_file_changed_since_the_dump(host: Host, change: object, words: list[str]) -> None:
    (host.folder / "data").write_text("1234")
    subject = host.python("x = open('data', 'r+')\npause_for_dump()\nsay('ok')")
    assert host.dump(subject).ok
    change(host.folder / "data")  # type: ignore[operator]
    outcome = host.restore()
    assert not outcome.ok
    for word in words:
        assert word in outcome.log
    assert state(subject.pid) is None


def test_full_disk_leaves_application_and_checkpoint(host: Host) -> None:
    place = host.folder / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "none", str(place)], check=False)
    if mounted.returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        images = place / "images"
        images.mkdir()
        worker = host.python(WORKER)
        before = {pid: traces(pid) for pid in (worker.pid, *below(worker.pid))}
        assert host.dump(worker, "-R", images=images).ok
        digest = {path.name: path.read_bytes() for path in images.iterdir()}
        (place / "filler").write_bytes(bytes(4 << 20))
        for size in (4, 30, 50):
            (place / "filler").write_bytes(bytes(size << 20))
            for _ in range(3):
                outcome = host.dump(worker, "-R", images=images)
                if not outcome.ok:
                    assert "space" in outcome.log or "are free" in outcome.log, outcome
                    assert {path.name: path.read_bytes() for path in images.iterdir()} == digest
                else:
                    digest = {path.name: path.read_bytes() for path in images.iterdir()}
                check_unharmed(worker, before)
        assert not outcome.ok, "it never ran out of space"
        check_worker(worker)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_directory_whose_parent_is_missing(host: Host) -> None:
    worker = host.python(WORKER)
    before = {pid: traces(pid) for pid in (worker.pid, *below(worker.pid))}
    outcome = host.dump(worker, images=host.folder / "no" / "where")
    assert not outcome.ok
    assert "no/where" in outcome.log
    check_unharmed(worker, before)
    check_worker(worker)


def test_signals_sent_while_left_running_all_arrive(host: Host) -> None:
    subject = host.python(
        "got = 0\ndef f(*a):\n    global got\n    got += 1\nsignal.signal(40, f)\nready()\n"
        "while not os.path.exists('go'): time.sleep(0.001)\nsay(got)"
    )
    sent = 0
    for _ in range(10):
        dumper = spawn(host, "dump", "-t", str(subject.pid), "-D", str(host.images), "-R")
        while dumper.poll() is None:
            os.kill(subject.pid, 40)
            sent += 1
            time.sleep(0.0002)
        assert dumper.returncode == 0
    # Python may merge handlers that come together; the kernel's queue must be empty and some must have come.
    wait_until(lambda: int(subject.status("ShdPnd"), 16) == 0, "an empty queue")
    assert 0 < int(subject.go()[0]) <= sent


def test_two_dumps_at_once(host: Host) -> None:
    worker = host.python(WORKER)
    before = {pid: traces(pid) for pid in (worker.pid, *below(worker.pid))}
    for _ in range(6):
        folders = [host.folder / name for name in ("a", "b")]
        for folder in folders:
            folder.mkdir(exist_ok=True)
        dumpers = [spawn(host, "dump", "-t", str(worker.pid), "-D", str(folder), "-R") for folder in folders]
        assert [dumper.wait(DEADLINE) for dumper in dumpers].count(0) >= 1
        check_unharmed(worker, before)
    check_worker(worker)


def test_killed_application_during_the_dump(host: Host) -> None:
    """The application is killed by somebody else while it is being dumped: an error, no hang, no half checkpoint."""
    rng = random.Random(3)
    for _ in range(15):
        worker = host.python(WORKER)
        images = host.folder / "images"
        shutil.rmtree(images)
        images.mkdir()
        dumper = spawn(host, "dump", "-t", str(worker.pid), "-D", str(images), "-R")
        time.sleep(rng.uniform(0.03, 0.12))
        os.kill(worker.pid, signal.SIGKILL)
        status = dumper.wait(DEADLINE)
        names = [path.name for path in images.iterdir()]
        assert ("inventory.img" in names) == (status == 0), names
        for pid in below(os.getpid()):
            os.kill(pid, signal.SIGKILL)
            reap(pid)


def test_changed_images_are_refused_without_a_task(host: Host) -> None:
    """Every image damaged in many ways: never a task, never an exception of Python's."""
    subject = host.python("pid = os.fork()\nif pid == 0: wait_for_go(); os._exit(0)\npause_for_dump()\nsay('ok')")
    assert host.dump(subject).ok
    whole = {path.name: path.read_bytes() for path in host.images.iterdir() if path.is_file()}
    rng = random.Random(5)
    tried = restored = 0
    names = [name for name in whole if not name.startswith(("pages", "stats", "seccomp"))]
    for name in names:
        for cut in ("half", "empty", "byte", "gone"):
            path = host.images / name
            content = bytearray(whole[name])
            if cut == "half":
                content = content[: len(content) // 2]
            elif cut == "empty":
                content = content[:8]
            elif cut == "byte":
                content[rng.randrange(8, len(content))] ^= 1 << rng.randrange(8)
            path.write_bytes(content)
            if cut == "gone":
                path.unlink()
            outcome = host.run("restore", "-d", "-D", str(host.images))
            tried += 1
            if outcome.ok:
                restored += 1
                for pid in below(os.getpid()):
                    os.kill(pid, signal.SIGKILL)
                wait_until(lambda: not [reap(pid) for pid in below(os.getpid())], "all are gone")
            else:
                assert not below(os.getpid()), (name, cut, outcome)
            path.write_bytes(whole[name])
    assert tried > 40
    assert restored < tried / 2, f"{restored} of {tried} damaged checkpoints were restored"
