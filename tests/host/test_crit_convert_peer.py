# SPDX-License-Identifier: GPL-2.0-only
"""CRIU restores what `crit convert` has made for its predecessors, whoever has dumped it, and the victim judges.

CRIU 4.1.1 still reads what CRIU 1.0 has written, but for two things. It wants `--deprecated` for some of it; and where
there is no files.img it dies, as it looks for an image of memfds, too, which has no name: apart.c gives it one.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import interop, peer
from tests.host.conftest import Host, wait_until
from tests.host.test_peer import reaped

# Versions: those between which something of the victim moves.
VICTIMS = {
    "memory": ["1.0", "3"],
    "pipes": ["1.0"],
    "posix_shm": ["1.1"],
    "regular_files": ["1.0", "1.1"],
    "sessions": ["1.0"],
    "signals": ["1.0"],
    "tcp_established": ["1.0", "3"],
}

# A file of each kind that has had images of its own, and CRIU can restore.
KINDS = """
import signal, socket
counter = os.eventfd(7)
reader, writer = os.pipe()
waiting = select.epoll()
waiting.register(reader, select.EPOLLIN)
watch = libc.inotify_init1(0)
assert libc.inotify_add_watch(watch, b"watched", 0x100) == 1
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
told = libc.signalfd(-1, ctypes.byref(ctypes.c_uint64(1 << signal.SIGUSR1 - 1)), 0)
clock = libc.timerfd_create(1, 0)
libc.timerfd_settime(clock, 0, struct.pack("4q", 0, 0, 3600, 0), None)
os.mkfifo("fifo")
fifo = os.open("fifo", os.O_RDWR)
os.write(fifo, b"in the fifo")
one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
one.send(b"in the socket")
listener = socket.create_server(("127.0.0.1", 0))
here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
here.bind(("127.0.0.1", 0))
pause_for_dump()
os.write(writer, b"x")
say("eventfd", int.from_bytes(os.read(counter, 8), "little"))
say("epoll", waiting.poll(5) == [(reader, select.EPOLLIN)])
open("watched/new", "w").close()
say("inotify", os.read(watch, 4096)[16:].rstrip(b"\\0"))
os.kill(os.getpid(), signal.SIGUSR1)
say("signalfd", int.from_bytes(os.read(told, 128)[:4], "little") == signal.SIGUSR1)
left = ctypes.create_string_buffer(32)
libc.timerfd_gettime(clock, left)
say("timerfd", 3500 < struct.unpack("4q", left)[2] < 3600)
say("fifo", os.read(fifo, 100))
say("unix", two.recv(100))
caller = socket.create_connection(listener.getsockname())
say("listener", listener.accept()[1] == caller.getsockname())
caller.close()
there = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
there.sendto(b"udp", here.getsockname())
say("udp", here.recv(100))
"""
EXPECTED = [
    "eventfd 7", "epoll True", "inotify b'new'", "signalfd True", "timerfd True", "fifo b'in the fifo'",
    "unix b'in the socket'", "listener True", "udp b'udp'",
]  # fmt: skip


@pytest.fixture(scope="module")
def criu(compiled: Callable[..., str]) -> interop.Tool:
    """The CRIU that restores."""
    try:
        found = interop.fetched(peer.SUITES[0])
    except peer.NoPeerError as reason:
        pytest.skip(str(reason))
    loader, *words = found.command
    named = compiled("apart", "-shared", "-fPIC", "-fno-builtin")
    return interop.Tool(found.name, (loader, "--preload", named, *words), ("--deprecated",))


def converter(version: str) -> Callable[[Path], None]:
    """What puts another version in the place of images."""

    def convert(images: Path) -> None:
        command = [sys.executable, "-m", "pycriu.crit", "convert", images, "-o", f"{images}~", "--to", version]
        done = subprocess.run([*command, "--lossy"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert (Path(f"{images}~") / "files.img").exists() == (version in ("3", "4"))
        images.rename(f"{images}-before")
        Path(f"{images}~").rename(images)

    return convert


@pytest.fixture(scope="module")
def newest(criu: interop.Tool) -> interop.Tool:
    """The CRIU that dumps: images of 4.2 become those that 4.1 reads, too."""
    try:
        return interop.fetched(peer.SUITES[-1])
    except peer.NoPeerError:
        return criu


@pytest.mark.parametrize(("name", "version"), [(name, one) for name, some in VICTIMS.items() for one in some])
@pytest.mark.parametrize("dumper", ["criu", "pycriu"])
def test_criu_restores_it(criu: interop.Tool, newest: interop.Tool, dumper: str, name: str, version: str) -> None:
    """Where that fails, and the same way without a conversion does, too, it is nothing of the conversion."""
    tool = newest if dumper == "criu" else interop.PYCRIU
    found = interop.judged(
        lambda: interop.tried(name, tool, criu, converter(version)), lambda: interop.tried(name, tool, criu)
    )
    if found.verdict in (interop.NO, interop.NONE):
        pytest.skip(f"{name}, not converted: {found.why}")
    assert found.verdict == interop.YES, found.why


@pytest.mark.parametrize("version", ["1.0", "1.1", "3"])
@pytest.mark.parametrize("dumper", ["criu", "pycriu"])
def test_criu_restores_files_of_each_kind(
    host: Host, criu: interop.Tool, newest: interop.Tool, dumper: str, version: str
) -> None:
    (host.folder / "watched").mkdir()
    subject = host.python(KINDS)
    try:
        (newest if dumper == "criu" else interop.PYCRIU).dump(host.folder, subject.pid)
    except interop.WrongError as error:
        if "Can't get 1:16 opt" not in str(error):
            raise
        pytest.skip("this CRIU asks every socket for SO_PASSCRED, which Linux since 6.16 answers for UNIX sockets only")
    wait_until(lambda: not reaped(subject.pid), "all of the session is gone")
    converter(version)(host.images)
    criu.restore(host.folder)
    assert subject.go() == EXPECTED
