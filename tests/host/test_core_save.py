# SPDX-License-Identifier: GPL-2.0-only
"""`pycriu core save`: a core and its side-car of a running process; together they are as good as a dump."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import gdb
from tests.host.conftest import Host, Subject, alive, reap, wait_until
from tests.host.cores import end, imported, redis

EVERYTHING = """
import threading
def caught(number, frame):
    heard.append(number)
heard = []
signal.signal(signal.SIGUSR1, caught)
signal.setitimer(signal.ITIMER_VIRTUAL, 1000)
signal.sigaltstack = libc.sigaltstack
left, right = os.pipe()
os.write(right, b"in the pipe")
memory = os.memfd_create("memory")
os.write(memory, b"in the memfd")
shared = mmap.mmap(-1, 8192)
shared[:6] = b"shared"
deleted = open("deleted", "w+")
deleted.write("still here")
deleted.flush()
os.unlink("deleted")
watch = select.epoll()
counter = os.eventfd(3)
watch.register(counter, select.EPOLLIN)
def work():
    while not done.wait(0.01):
        turns.append(len(turns))
turns, done = [], threading.Event()
thread = threading.Thread(target=work)
thread.start()
pause_for_dump()
done.set()
thread.join()
os.kill(os.getpid(), signal.SIGUSR1)
deleted.seek(0)
say(heard, os.read(left, 20), os.pread(memory, 20, 0), bytes(shared[:6]), deleted.read())
say(watch.poll(0) == [(counter, 1)], turns == list(range(len(turns))), signal.getitimer(signal.ITIMER_VIRTUAL)[0] > 900)
"""
SAID = ["[10] b'in the pipe' b'in the memfd' b'shared' still here", "True True True"]


def save(host: Host, subject: Subject, *words: str) -> Path:
    """The core, which must be made."""
    path = host.folder / "core.saved"
    done = host.run("core", "save", str(subject.pid), str(path), *words)
    assert done.ok, done
    assert not [one for one in host.folder.iterdir() if one.name.startswith(".pycriu")]
    assert path.stat().st_mode & 0o777 == 0o600
    return path


def test_everything_comes_back_from_a_core_and_its_side_car(host: Host) -> None:
    subject = host.python(EVERYTHING)
    core = save(host, subject, "--kill")
    reap(subject.pid)
    assert not alive(subject.pid)
    assert "not in the core" not in imported(host, core, "--strict")
    restored = host.restore("--shell-job")
    assert restored.ok, restored
    assert subject.go() == SAID


def test_the_process_goes_on_and_its_core_is_restored_later(host: Host) -> None:
    subject = host.python(EVERYTHING)
    core = save(host, subject)
    assert alive(subject.pid)
    time.sleep(0.05)
    end(subject.pid)
    (host.folder / "go").touch()
    done = host.run("core", "restore", str(core))
    assert done.ok, done
    assert subject.said()[-2:] == SAID


def test_what_a_debugger_changes_in_the_core_counts(host: Host, compiled: Callable[..., str]) -> None:
    """Memory and registers are the core's: gdb writes into it, and the process wakes up with that."""
    program = compiled("numbers", "-g", "-O0")
    subject = host.start(program, "numbers", "30", "5", "20")
    wait_until(lambda: Path(f"/proc/{subject.pid}/wchan").exists(), "it runs")
    time.sleep(0.3)
    core = save(host, subject, "--kill")
    reap(subject.pid)
    try:
        look = ("set write on", f"core-file {core}", "frame function main", "p count")
        changed = gdb.run(program, *look, "set var count = 25")
    except gdb.NoGdbError as error:
        pytest.skip(f"no gdb: {error}")
    assert "= 30" in changed, changed
    (host.folder / "go").touch()
    done = host.run("core", "restore", str(core))
    assert done.ok, done
    assert (host.folder / "numbers").read_text().split() == [str(number) for number in range(1, 26)]


def test_redis_serves_on(host: Host) -> None:
    """Listening sockets, event loop, threads."""
    server, ask = redis(host)
    assert ask("SET", "key", "value") == b"+OK\r\n"
    core = save(host, server, "--kill", "--tcp-established")
    reap(server.pid)
    done = host.run("core", "restore", "-d", str(core), "--tcp-established")
    assert done.ok, done
    assert ask("GET", "key") == b"$5\r\nvalue\r\n"
    assert ask("INCR", "count") == b":1\r\n"


def test_a_process_with_children_is_refused(host: Host) -> None:
    subject = host.python("pid = os.fork()\nif pid:\n    ready()\ntime.sleep(1000)\n")
    done = host.run("core", "save", str(subject.pid), str(host.folder / "core"))
    assert not done.ok
    assert "has 1 children, a core is of one process" in done.errors()
    assert alive(subject.pid)
    assert not list(host.folder.glob("core*"))


@pytest.mark.parametrize("words", [(), ("--kill",)], ids=["goes on", "kill"])
def test_a_core_that_cannot_be_written_leaves_the_process_running(host: Host, words: tuple[str, ...]) -> None:
    subject = host.python("pause_for_dump()\nsay('unharmed')")
    (host.folder / "folder").mkdir()
    for path, says in (("nowhere/core", "no directory that may be written"), ("folder", "Is a directory")):
        done = host.run("core", "save", str(subject.pid), path, *words)
        assert not done.ok
        assert says in done.errors(), done
        assert not [
            one for one in host.folder.iterdir() if one.name.startswith(".pycriu") or one.suffix in (".part", ".side")
        ]
    assert subject.go() == ["unharmed"]


@pytest.mark.parametrize("words", [(), ("--kill",)], ids=["goes on", "kill"])
def test_on_a_small_disk_the_core_of_before_stays_with_its_side_car(host: Host, words: tuple[str, ...]) -> None:
    """The disk has room for the images and for the core, and not for the side-car, too."""
    subject = host.python("os.write(os.memfd_create('large'), os.urandom(24 << 20))\npause_for_dump()\nsay('unharmed')")
    disk = host.folder / "disk"
    disk.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=44m", "none", str(disk)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        (disk / "core").write_text("core of before")
        (disk / "core.side").write_text("what belongs to it")
        saved = host.run("core", "save", str(subject.pid), str(disk / "core"), *words)
        assert not saved.ok
        assert "No space left on device" in saved.errors()
        assert sorted(os.listdir(disk)) == ["core", "core.side"]
        assert (disk / "core").read_text() == "core of before"
        assert (disk / "core.side").read_text() == "what belongs to it"
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert subject.go() == ["unharmed"]


def test_nothing_but_a_file_is_replaced(host: Host) -> None:
    """Least of all a device: root could."""
    subject = host.python("pause_for_dump()\nsay('unharmed')")
    os.mkfifo(host.folder / "fifo")
    (host.folder / "link").symlink_to("fifo")
    os.mkfifo(host.folder / "core.side")
    for name, refused in (("fifo", "fifo"), ("link", "link"), ("core", "core.side")):
        done = host.run("core", "save", str(subject.pid), name, "--kill")
        assert not done.ok
        assert f"{refused}: not a regular file" in done.errors()
    assert (host.folder / "fifo").is_fifo()
    assert subject.go() == ["unharmed"]


def test_a_side_car_of_another_process_is_refused(host: Host, compiled: Callable[..., str]) -> None:
    program = compiled("numbers")
    subject = host.start(program, "numbers", "30", "5", "20")
    core = save(host, subject)
    other = host.folder / "core.other"
    os.rename(core, other)
    second = host.start(program, "numbers", "30", "5", "20")
    save(host, second)
    done = host.run("core", "import", str(other), "-D", str(host.images), "--side", str(core) + ".side")
    assert not done.ok
    assert f"is of process {second.pid}" in done.errors()
    (host.folder / "bad").write_bytes(b"no archive")
    done = host.run("core", "import", str(other), "-D", str(host.images), "--side", "bad")
    assert not done.ok
    assert "is no side-car of a core" in done.errors()
