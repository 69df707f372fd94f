# SPDX-License-Identifier: GPL-2.0-only
"""UNIX sockets of tasks that are not root, owners that are signalled, and writers that are told apart."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.host.conftest import Host

NOT_ROOT = """
import socket
listener = socket.socket(socket.AF_UNIX)
listener.bind("\\0user-" + str(os.getpid()))
listener.listen(5)
ours, theirs = socket.socketpair()
def peer(one): return struct.unpack("=iII", one.getsockopt(1, 17, 12))
def groups(one):
    got = one.getsockopt(1, 59, 256)
    return list(struct.unpack(f"={len(got) // 4}I", got))
pid = os.fork()
if not pid:
    os.setgroups([4711, 4712])
    os.setresgid(3000, 3001, 3002)
    os.setresuid(2000, 2001, 2002)
    pair = socket.socketpair()
    client = socket.socket(socket.AF_UNIX)
    client.connect(listener.getsockname())
    KEYS = ("Uid", "Gid", "Groups", "CapEff", "CapPrm")
    def told():
        lines = [line for line in open("/proc/self/status") if line.split(":")[0] in KEYS]
        maker, host = peer(pair[0]), peer(client)
        return [maker[1:], maker[0] == os.getpid(), groups(pair[0]), host[0] == os.getppid(), lines]
    before = told()
    theirs.send(b"x")
    theirs.recv(1)
    now = told()
    say("child", now == before, now[:4], "" if now == before else (before, now))
    os._exit(0)
end, _ = listener.accept()
ours.recv(1)
pause_for_dump()
ours.send(b"y")
os.waitpid(pid, 0)
say("server", peer(end)[0] == pid, peer(end)[1:], groups(end))
"""


def test_credentials_of_a_member_that_is_not_root(host: Host) -> None:
    subject = host.python(NOT_ROOT)
    host.round_trip(subject)
    host.round_trip(subject)
    assert subject.go() == [
        "child True [(2001, 3001), True, [4711, 4712], True] ",
        "server True (2001, 3001) [4711, 4712]",
    ]


OWNER = """
import socket
caught = []
signal.signal(signal.SIGUSR1, lambda *_: caught.append("USR1"))
a, b = socket.socketpair()
fcntl.fcntl(a, fcntl.F_SETOWN, os.getpid())
fcntl.fcntl(a, 10, signal.SIGUSR1)
fcntl.fcntl(a, fcntl.F_SETFL, fcntl.fcntl(a, fcntl.F_GETFL) | os.O_ASYNC)
pause_for_dump()
say(caught)
b.send(b"x")
time.sleep(0.05)
say(caught, a.recv(9))
"""


def test_the_owner_of_a_socket_is_signalled(host: Host) -> None:
    subject = host.python(OWNER)
    host.round_trip(subject)
    assert subject.go() == ["[]", "['USR1'] b'x'"]


WRITERS = """
import socket
a, b = socket.socketpair()
b.setsockopt(1, 16, 1)
a.send(b"mine")
pid = os.fork()
if not pid:
    a.send(b"my child's")
    os._exit(0)
os.waitpid(pid, 0)
a.send(b"mine again")
pause_for_dump()
for _ in range(3):
    data, control, _, _ = b.recvmsg(99, 999)
    say(data, [struct.unpack("=iII", value)[0] - os.getpid() for _, kind, value in control if kind == 2])
"""


def test_bytes_of_two_writers_are_not_glued(host: Host) -> None:
    subject = host.python(WRITERS)
    host.round_trip(subject)
    said = subject.go()
    assert [line.split(" [")[0] for line in said] == ["b'mine'", 'b"my child\'s"', "b'mine again'"]
    assert said[0].endswith("[0]")
    assert said[2].endswith("[0]")
    assert not said[1].endswith("[0]")


MANY = """
import socket
pairs = [socket.socketpair(socket.AF_UNIX, kind) for kind in (1, 2, 5) for _ in range(100)]
for number, (a, b) in enumerate(pairs): a.send(b"%d" % number)
pause_for_dump()
say(all(b.recv(9) == b"%d" % number for number, (a, b) in enumerate(pairs)))
"""


def test_hundreds_of_pairs(host: Host) -> None:
    subject = host.python(MANY)
    before = set(os.listdir("/tmp"))
    host.round_trip(subject)
    assert subject.go() == ["True"]
    assert not [name for name in set(os.listdir("/tmp")) - before if name.startswith(".pycriu")]
