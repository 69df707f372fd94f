# SPDX-License-Identifier: GPL-2.0-only
"""What is not saved because the user has said so, and what takes its place at the restore."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.host.conftest import Host, Outcome


def restore(host: Host, fds: tuple[int, ...], *words: str) -> Outcome:
    """A restore to which descriptors are left."""
    from tests.host.conftest import Outcome

    done = subprocess.run(
        host.command("restore", "-d", "-v4", "-o", "-", "-D", str(host.images), *words),
        cwd=host.folder, pass_fds=fds, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "bug of pycriu" not in done.stdout
    return Outcome(done.returncode, done.stdout + done.stderr, 0)


def mount_and_inode(pid: int, fd: int) -> str:
    """file[…] as --external wants it."""
    with open(f"/proc/{pid}/fdinfo/{fd}") as file:
        mount = re.search(r"mnt_id:\s*(\d+)", file.read())
    assert mount
    return f"file[{int(mount[1]):x}:{os.stat(f'/proc/{pid}/fd/{fd}').st_ino:x}]"


def test_a_pipe_to_outside(host: Host) -> None:
    """Its other end belongs to somebody else: refused, unless it is named; another pipe takes its place."""
    reader, writer = os.pipe()
    subject = host.python(
        f"pause_for_dump()\nos.write({writer}, b'back')\nsay(len(os.listdir('/proc/self/fd')))", pass_fds=(writer,)
    )
    inode = os.fstat(writer).st_ino
    host.refused(subject, f"pipe:[{inode}]", "outside the tree")
    dumped = host.dump(subject, "--external", f"pipe[{inode}]", "--external", "pipe[1]")
    assert dumped.ok, dumped
    assert "--external pipe:[1]: nobody in the tree has it open" in dumped.log
    os.close(writer)
    os.close(reader)
    refused = host.restore()
    assert not refused.ok
    assert f"pipe:[{inode}] is external to the tree" in refused.errors()
    assert f"--inherit-fd fd[N]:pipe:[{inode}]" in refused.errors()
    reader, writer = os.pipe()
    for spelled in (f"pipe[{inode}]", f"pipe:[{inode}]"):
        restored = restore(host, (writer,), "--inherit-fd", f"fd[{writer}]:{spelled}")
        assert restored.ok, restored
        if spelled.startswith("pipe["):
            os.kill(subject.pid, 9)
            os.waitpid(subject.pid, 0)
    os.close(writer)
    assert subject.go() == ["5"]
    assert os.read(reader, 100) == b"back"
    assert os.read(reader, 100) == b"", "nobody else has the pipe open"
    os.close(reader)


def test_a_file_by_mount_and_inode(host: Host) -> None:
    (host.folder / "log").write_text("old\n")
    subject = host.python("f = open('log', 'a', buffering=1)\npause_for_dump()\nf.write('new\\n')\nsay(f.tell() > 0)")
    name = mount_and_inode(subject.pid, 3)
    assert host.dump(subject, "--external", name).ok
    (host.folder / "log").unlink()
    with open(host.folder / "other", "a") as other:
        restored = restore(host, (other.fileno(),), "--inherit-fd", f"fd[{other.fileno()}]:{name}")
    assert restored.ok, restored
    assert subject.go() == ["True"]
    assert (host.folder / "other").read_text() == "new\n"


def test_a_file_of_the_images_by_its_path(host: Host) -> None:
    """Neither its absence nor its change matters: another takes its place."""
    (host.folder / "log").write_text("old\n")
    subject = host.python("f = open('log', 'a', buffering=1)\npause_for_dump()\nf.write('new\\n')\nsay('ok')")
    assert host.dump(subject).ok
    (host.folder / "log").unlink()
    path = str(host.folder / "log")
    assert not host.restore().ok
    with open(host.folder / "other", "a") as other:
        number = other.fileno()
        words = ("--inherit-fd", f"fd[{number}]:{path}", "--inherit-fd", f"fd[{number}]:none")
        rehearsed = restore(host, (number,), "--dry-run", *words)
        assert rehearsed.ok, rehearsed
        restored = restore(host, (number,), *words)
    assert restored.ok, restored
    assert f"--inherit-fd fd[{number}]:none: no file of the images has this name" in restored.log
    assert subject.go() == ["ok"]
    assert (host.folder / "other").read_text() == "new\n"


def test_a_device_that_cannot_be_saved(host: Host) -> None:
    master, slave = pty.openpty()
    os.close(slave)
    path = f"/dev/pts/{_number(master)}"
    subject = host.python(f"t = os.open({path!r}, os.O_RDWR | os.O_NOCTTY)\npause_for_dump()\nos.write(t, b'hello')")
    host.refused(subject, "whose other end is outside the tree")
    status = os.stat(path)
    name = f"tty[{status.st_rdev:x}:{status.st_dev:x}]"
    assert host.dump(subject, "--external", name).ok
    os.close(master)
    master, slave = pty.openpty()
    restored = restore(host, (slave,), "--inherit-fd", f"fd[{slave}]:{name}")
    assert restored.ok, restored
    os.close(slave)
    assert subject.go() == []
    assert os.read(master, 100) == b"hello"
    os.close(master)


def _number(master: int) -> int:
    import fcntl
    import struct

    return int(struct.unpack("I", fcntl.ioctl(master, 0x80045430, bytes(4)))[0])  # TIOCGPTN


def test_memory_and_sockets(host: Host) -> None:
    subject = host.python(
        "import socket\nfd = os.memfd_create('scratch')\nos.write(fd, b'old')\ns = socket.socket(socket.AF_UNIX)\n"
        "pause_for_dump()\nsay(os.pread(fd, 9, 0), s.getsockopt(1, 3))"
    )
    inode = next(
        os.stat(f"/proc/{subject.pid}/fd/{fd}").st_ino
        for fd in os.listdir(f"/proc/{subject.pid}/fd")
        if os.readlink(f"/proc/{subject.pid}/fd/{fd}").startswith("socket:")
    )
    assert host.dump(subject).ok
    import socket

    other = os.memfd_create("other")
    os.write(other, b"new")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as given:
        words = ("--inherit-fd", f"fd[{other}]:/memfd:scratch", "--inherit-fd", f"fd[{given.fileno()}]:socket[{inode}]")
        restored = restore(host, (other, given.fileno()), *words)
    assert restored.ok, restored
    os.close(other)
    assert subject.go() == [f"b'new' {int(socket.SOCK_DGRAM)}"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--external", "mnt[/data]:key"], "mounts are neither saved nor restored"),
        (["--external", "mnt[]:ms"], "mounts are neither saved nor restored"),
        (["--external", "net[4026531840]:x"], "the network namespace of the restore"),
        (["--external", "pid[4026531836]:x"], "the PID namespace of the restore"),
        (["--external", "dev[8/1]:disk"], "mounts are neither saved nor restored"),
        (["--external", "file[x:1]"], "not a resource that can be external"),
        (["--external", "file[1]"], "not a resource that can be external"),
        (["--external", "cheese[1]"], "not a resource that can be external"),
        (["--external", "pipe[-1]"], "not a resource that can be external"),
    ],
)
def test_what_cannot_be_external(host: Host, words: list[str], said: str) -> None:
    outcome = host.run("dump", "-t", "1", *words)
    assert outcome.status == 1
    assert said in outcome.errors()
    assert f"--external {words[1]}" in outcome.errors()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("fd[0]", "not fd[N]:NAME"),
        ("0:x", "not fd[N]:NAME"),
        ("fd[x]:y", "not fd[N]:NAME"),
        ("fd[0]:", "not fd[N]:NAME"),
        ("fd[777]:y", "descriptor 777 is not open"),
        ("fd[99999999999]:y", "descriptor 99999999999 is not open"),
    ],
)
def test_what_cannot_be_inherited(host: Host, given: str, said: str) -> None:
    outcome = host.restore("--inherit-fd", given)
    assert outcome.status == 1
    assert said in outcome.errors()
    outcome = host.restore("--external", "veth[eth0]:out@br0")
    assert "pycriu makes no network namespaces" in outcome.errors()
    outcome = host.restore("--inherit-fd", "fd[0]:x", "--inherit-fd", "fd[1]:/x")
    assert "/x is given twice" in outcome.errors()
