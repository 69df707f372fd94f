# SPDX-License-Identifier: GPL-2.0-only
"""Deleted files have a name for a moment of a restore: no restore that fails or is killed then leaves one behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.host.conftest import alive, reap, wait_until

if TYPE_CHECKING:
    from tests.host.conftest import Host

SILENT = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
SUBJECT = """
os.makedirs("place/above/folder")
folder = os.open("place/above/folder", os.O_RDONLY)
inner = open("place/above/folder/inner", "w+")
inner.write("inner")
inner.flush()
os.unlink("place/above/folder/inner")
os.rmdir("place/above/folder")
os.rmdir("place/above")
x = open("place/gone", "w+")
x.write("content")
x.flush()
os.unlink("place/gone")
pause_for_dump()
for file in (x, inner):
    fd = file.fileno()
    say(os.pread(fd, 9, 0), os.fstat(fd).st_nlink, os.readlink(f"/proc/self/fd/{fd}"))
say(os.listdir("place"))
"""

# The child that makes deleted files kills its parent before or after the step named, and goes on.
KILLED = """
import os, sys, time
from pycriu import cli
from pycriu.fds import deleted
name, when, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
holder, _, method = name.rpartition(".")
holder = getattr(deleted, holder) if holder else deleted
step, calls = getattr(holder, method), []
def killing(*args):
    calls.append(1)
    if when == "before" and len(calls) == count: os.kill(os.getppid(), 9)
    result = step(*args)
    if when == "after" and len(calls) == count: os.kill(os.getppid(), 9)
    time.sleep(0.002)
    return result
setattr(holder, method, killing)
sys.exit(cli.main(sys.argv[4:]))
"""


def check_place(host: Host) -> None:
    """Nothing is left, at the latest when the child has ended."""
    wait_until(lambda: not os.listdir(host.folder / "place"), "names of deleted files are gone", 10)


def restored(host: Host, said: list[str]) -> None:
    place = host.folder / "place"
    assert said == [
        f"b'content' 0 {place}/gone (deleted)",
        f"b'inner' 0 {place}/above/folder/inner (deleted)",
        "[]",
    ]


def test_killed_at_each_step(host: Host) -> None:
    subject = host.python(SUBJECT)
    assert host.dump(subject).ok
    for name, count in (("_make_one", 3), ("_create", 3), ("_Undo.run", 1)):
        for when in ("before", "after"):
            for number in range(1, count + 1):
                words = [name, when, str(number), "restore", "-d", "-D", str(host.images), "-o", "-"]
                argv = [sys.executable, "-c", KILLED, *words]
                done = subprocess.run(argv, cwd=host.folder, capture_output=True, check=False)
                assert done.returncode == -9, (name, when, number, done)
                check_place(host)
    outcome = host.restore()
    assert outcome.ok, outcome
    restored(host, subject.go())


def test_killed_at_any_time(host: Host) -> None:
    subject = host.python(SUBJECT)
    assert host.dump(subject).ok
    for turn in range(20):
        words = ("restore", "-D", str(host.images), "-o", "-", "-v0")
        process = subprocess.Popen(host.command(*words), cwd=host.folder, stdin=subprocess.DEVNULL, **SILENT)  # type: ignore[call-overload]
        time.sleep(0.05 + turn * 0.003)
        process.kill()
        process.wait()
        check_place(host)
        time.sleep(0.1)  # whoever is not complete dies with his tracer, if not at once
        if alive(subject.pid):
            break
        reap(subject.pid)
    else:
        assert host.restore().ok
    restored(host, subject.go())


def test_directory_that_is_gone_for_good(host: Host) -> None:
    """What was deleted with the directories above it needs their names for a moment; who has taken them is named."""
    subject = host.python(SUBJECT)
    assert host.dump(subject).ok
    (host.folder / "place" / "above").write_text("in the way")
    refused = host.restore()
    assert not refused.ok
    assert "place/above/folder" in refused.errors(), refused
    assert os.listdir(host.folder / "place") == ["above"]
    (host.folder / "place" / "above").unlink()
    assert host.restore().ok
    restored(host, subject.go())


def test_working_directory(host: Host) -> None:
    subject = host.python(
        "go = os.path.abspath('go')\nos.mkdir('d')\nos.chdir('d')\nos.rmdir('../d')\n"
        "def wait_for_go():\n    while not os.path.exists(go): time.sleep(0.002)\n"
        "def where(): return os.readlink('/proc/self/cwd'), os.stat('..').st_ino, os.stat('.').st_nlink\n"
        "before = where()\npause_for_dump()\nsay(where() == before)"
    )
    host.round_trip(subject)
    assert not (host.folder / "d").exists()
    assert subject.go() == ["True"]


def test_program(host: Host) -> None:
    """The file that a process runs from, which it has mapped as well."""
    program = host.folder / "program"
    shutil.copy("/bin/sh", program)
    subject = host.start(str(program), "-c", "echo ready; while [ ! -e go ]; do sleep 0.01; done; echo ok")
    program.unlink()
    host.round_trip(subject)
    assert os.readlink(f"/proc/{subject.pid}/exe") == f"{program} (deleted)"
    assert not program.exists()
    assert subject.go() == ["ok"]


@pytest.mark.parametrize("option", [(), ("--leave-running",)])
def test_large_ones_need_a_word(host: Host, option: tuple[str, ...]) -> None:
    code = (
        "x = open('big', 'w+b', buffering=0)\nx.write(b'0123456789abcdef' * (3 << 16))\nos.unlink('big')\n"
        "pause_for_dump()\nsay(os.pread(x.fileno(), 1 << 23, 0) == b'0123456789abcdef' * (3 << 16))"
    )
    subject = host.python(code)
    host.refused(subject, "--ghost-limit 3M")
    dumped = host.dump(subject, "--ghost-limit", "3M", *option)
    assert dumped.ok, dumped
    if not option:
        outcome = host.restore()
        assert outcome.ok, outcome
    assert subject.go() == ["True"]


def test_link_goes_with_a_dump_that_fails(host: Host) -> None:
    """--link-remap makes a hard link; after a dump that cannot be finished it is gone."""
    code = "x = open('one', 'w')\nos.link('one', 'two')\nos.unlink('one')\npause_for_dump()\nsay('ok')"
    subject = host.python(code)
    failing = (
        "import sys\nfrom pycriu import cli\nfrom pycriu.images import commit\n"
        "def publish(place): raise OSError(28, 'no')\ncommit.publish = publish\nsys.exit(cli.main(sys.argv[1:]))"
    )
    words = ["dump", "-t", str(subject.pid), "-D", str(host.images), "-o", "-", "--link-remap"]
    done = subprocess.run([sys.executable, "-c", failing, *words], cwd=host.folder, capture_output=True, check=False)
    assert done.returncode == 1, done
    assert not links(host)
    assert subject.go() == ["ok"]


def links(host: Host) -> list[str]:
    return [name for name in os.listdir(host.folder) if name.startswith("link_remap")]


@pytest.mark.parametrize("where", ["sync_together", "commit.publish"])
def test_link_of_a_dump_that_is_killed(host: Host, where: str) -> None:
    """Before the images are on the disk it goes away; at the very last moment it stays, and harms nobody."""
    code = "x = open('one', 'w')\nos.link('one', 'two')\nos.unlink('one')\npause_for_dump()\nsay('ok')"
    subject = host.python(code)
    killed = (
        "import os, sys\nfrom pycriu import cli\nfrom pycriu.images import store\n"
        f"def die(*words): os.kill(os.getpid(), 9)\nstore.{where} = die\nsys.exit(cli.main(sys.argv[1:]))"
    )
    words = ["dump", "-t", str(subject.pid), "-D", str(host.images), "-o", "-", "--link-remap"]
    done = subprocess.run([sys.executable, "-c", killed, *words], cwd=host.folder, capture_output=True, check=False)
    assert done.returncode == -9, done
    wait_until(lambda: len(links(host)) == (where == "commit.publish"), f"the link: {links(host)}", 5)
    wait_until(lambda: subject.status("TracerPid") == "0", "the dumper is gone")
    host.round_trip(subject, "--link-remap")
    assert len(links(host)) == (where == "commit.publish")
    assert subject.go() == ["ok"]


def test_in_flight(host: Host) -> None:
    """Files that nobody has open but a socket, in which they wait: a deleted one, a pipe, a FIFO."""
    subject = host.python(
        "import socket\na, b = socket.socketpair()\n"
        "def send(fd):\n    socket.send_fds(a, [b'x'], [fd])\n    os.close(fd)\n"
        "def take(): return socket.recv_fds(b, 1, 9)[1][0]\n"
        "gone = os.open('gone', os.O_RDWR | os.O_CREAT)\nos.write(gone, b'ghost')\nos.unlink('gone')\nsend(gone)\n"
        "reader, writer = os.pipe()\nos.write(writer, b'pipe')\nsend(reader)\n"
        "os.mkfifo('fifo')\nfifo = os.open('fifo', os.O_RDWR)\nos.write(fifo, b'fifo')\nsend(fifo)\n"
        "pause_for_dump()\nsay(os.pread(take(), 9, 0), os.read(take(), 9), os.read(take(), 9))"
    )
    host.round_trip(subject)
    assert subject.go() == ["b'ghost' b'pipe' b'fifo'"]
