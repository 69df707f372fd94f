# SPDX-License-Identifier: GPL-2.0-only
"""Deleted files, hard links, FIFOs, locks and owners in the format that CRIU writes and reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.host import test_peer
from tests.host.conftest import wait_until

if TYPE_CHECKING:
    from tests.host.conftest import Host, Subject

criu = test_peer.criu

# What a restore has to put back, checked by the process itself.
STATE = """
def left(): return sorted(set(os.listdir(".")) - {"out", "go", "images", "subject.py"})
def lock(kind, start, length): return struct.pack("=hh4xqqi4x", kind, 0, start, length, 0)
ghost = open("ghost", "w+b", buffering=0)
ghost.write(b"hello")
ghost.seek(1 << 18)
ghost.write(b"world")
os.unlink("ghost")
os.mkdir("folder")
folder = os.open("folder", os.O_RDONLY)
os.rmdir("folder")
plain = open("plain", "w+b", buffering=0)
plain.write(b"0123456789" * 10)
again = os.open("/proc/self/fd/%d" % plain.fileno(), os.O_RDONLY)
os.unlink("plain")
open("one", "w").write("linked")
linked = os.open("one", os.O_RDWR)
os.link("one", "two")
os.unlink("one")
os.mkfifo("fifo")
fifo = os.open("fifo", os.O_RDWR | os.O_NONBLOCK)
os.write(fifo, b"in the fifo")
files = [open(name, "w+b", buffering=0) for name in ("flock", "posix", "ofd", "lease")]
fcntl.flock(files[0], fcntl.LOCK_SH)
fcntl.lockf(files[1], fcntl.LOCK_EX, 10, 5)
fcntl.lockf(files[1], fcntl.LOCK_SH, 0, 50)
fcntl.fcntl(files[2], 37, lock(1, 3, 4))
files[3].close()
lease = os.open("lease", os.O_RDONLY)
fcntl.fcntl(lease, fcntl.F_SETLEASE, fcntl.F_RDLCK)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO, 40})
reader, writer = os.pipe()
fcntl.fcntl(reader, fcntl.F_SETOWN, os.getpid())
fcntl.fcntl(reader, 10, 40)
path = os.open("link", os.O_PATH | os.O_NOFOLLOW) if not os.symlink("nowhere", "link") else -1
everybody = (ghost.fileno(), folder, plain.fileno(), again, linked)
def links(): return [os.readlink("/proc/self/fd/%d" % fd) for fd in everybody]
before = links()
names = left()
pause_for_dump()
say("ghost", os.pread(ghost.fileno(), 5, 0), os.pread(ghost.fileno(), 9, 1 << 18), ghost.tell() == (1 << 18) + 5)
say("sparse", os.fstat(ghost.fileno()).st_blocks * 512 < 1 << 18, os.fstat(ghost.fileno()).st_nlink)
say("folder", os.listdir(folder), os.fstat(folder).st_nlink)
say("plain", os.read(again, 12), os.path.sameopenfile(again, plain.fileno()), plain.tell())
say("linked", os.path.samestat(os.fstat(linked), os.stat("two")), os.read(linked, 9))
say("names", before == links())
say("fifo", os.read(fifo, 99), bool(fcntl.fcntl(fifo, fcntl.F_GETFL) & os.O_NONBLOCK))
say("path", os.readlink("", dir_fd=path))
say("lease", fcntl.fcntl(lease, fcntl.F_GETLEASE))
say("owner", fcntl.fcntl(reader, fcntl.F_GETOWN) == os.getpid(), fcntl.fcntl(reader, 11))
other = open("flock", "rb")
try:
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    say("flock lost")
except BlockingIOError:
    say("flock")
def held(name, at): return struct.unpack("=hh4xqqi4x", fcntl.fcntl(os.open(name, os.O_RDWR), 36, lock(1, at, 1)))
say("posix", [held("posix", at)[4] == os.getpid() for at in (4, 5, 14, 15, 49, 50, 999)])
say("ofd", [held("ofd", at)[0] for at in (2, 3, 6, 7)])
say("left", sorted(set(left()) ^ set(names)))
"""

EXPECTED = [
    "ghost b'hello' b'world' True",
    "sparse True 0",
    "folder [] 0",
    "plain b'012345678901' True 100",
    "linked True b'linked'",
    "names True",
    "fifo b'in the fifo' True",
    "path nowhere",
    "lease 0",
    "owner True 40",
    "flock",
    "posix [False, True, True, False, False, True, True]",
    "ofd [2, 1, 1, 2]",
    "left []",
]
WORDS = ("--file-locks", "--link-remap")


def from_pycriu(host: Host, criu: tuple[str, ...], subject: Subject) -> None:
    dumped = host.dump(subject, *WORDS)
    assert dumped.ok, dumped
    restored = test_peer.run(criu, host, "restore", "-d", *WORDS)
    assert restored.ok, restored


def from_criu(host: Host, criu: tuple[str, ...], subject: Subject) -> None:
    dumped = test_peer.run(criu, host, "dump", "-t", str(subject.pid), *WORDS)
    assert dumped.ok, dumped
    wait_until(lambda: not test_peer.reaped(subject.pid), "all of the session is gone")
    restored = host.restore(*WORDS)
    assert restored.ok, restored


@pytest.mark.parametrize("way", [from_pycriu, from_criu])
def test_files_without_a_path_and_locks(host: Host, criu: tuple[str, ...], way: object) -> None:
    subject = host.python(STATE)
    way(host, criu, subject)  # type: ignore[operator]
    assert subject.go() == EXPECTED
