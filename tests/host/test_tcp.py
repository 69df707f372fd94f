# SPDX-License-Identifier: GPL-2.0-only
"""A live TCP connection whose peer is this test: through failed dumps, and dumps and restores that are killed outright.

Before each call that touches a connection or the rules that hold it, in turn, whoever makes it is killed. The peer must
never be able to tell, no socket may stay in repair mode, and no rule may stay but for a checkpoint that waits.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pycriu.dump import dump
from pycriu.fds.inet import connections, endpoints, locks
from pycriu.fds.inet import kind as inet
from pycriu.images import store
from pycriu.images.store import NewCheckpoint
from pycriu.kernel import nftables, ptrace, segment, tcp
from pycriu.log import Log
from pycriu.options import DumpOptions, RestoreOptions
from pycriu.restore import restore
from pycriu.tracing import pstree
from tests import rules
from tests.host.conftest import Host, Subject, alive, below, reap, wait_until
from tests.images import framed

SERVER = """
import socket
listener = socket.create_server(("127.0.0.1", 0))
say("port", listener.getsockname()[1])
ready()
sock, _ = listener.accept()
listener.close()
say("options", sock.getsockopt(1, 2), sock.getsockopt(6, 19))
while data := sock.recv(1000):
    sock.sendall(data.upper())
    say("options", sock.getsockopt(1, 2), sock.getsockopt(6, 19))
say("ended")
"""

KILL = os.kill  # which the tests replace


@pytest.fixture
def talk(host: Host) -> Iterator[Talk]:
    """A server and a connection to it; no rules are left afterwards."""
    if nftables.available() is not None:
        pytest.skip(f"no nf_tables here: {nftables.available()}")
    one = Talk(host)
    try:
        yield one
    finally:
        one.sock.close()


class Talk:
    """A server under test, and our connection to it."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.subject: Subject = host.python(SERVER)
        port = int(next(line.split()[1] for line in self.subject.said() if line.startswith("port")))
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.settimeout(20)
        self.subject.wait_for("options")
        self.count = 0

    def exchange(self) -> None:
        """Something there and back."""
        self.count += 1
        word = f"<word {self.count}>"
        self.sock.sendall(word.encode())
        got = b""
        while len(got) < len(word):
            more = self.sock.recv(100)
            assert more, f"the connection has ended after {self.count} words"
            got += more
        assert got == word.upper().encode()

    def goes_on(self) -> None:
        """The server answers, its socket is as it was, and nothing holds it."""
        wait_until(lambda: not self.tables(), "the rules are gone")
        self.exchange()
        wait_until(lambda: self.options()[-1:] and len(self.options()) > self.count, "the options")
        assert set(self.options()) == {self.options()[0]}, "options have changed"
        assert self.options()[0].endswith(" 0")

    def tables(self) -> set[str]:
        """The tables of rules that hold connections of the subject."""
        return rules.of_trees({self.subject.pid})

    def options(self) -> list[str]:
        """What the server has said of its socket."""
        return [line for line in self.subject.said() if line.startswith("options")]


@pytest.mark.parametrize("method", [locks.NFTABLES, locks.IPTABLES])
def test_what_criu_has_left_to_hold_a_connection_goes(talk: Talk, method: int) -> None:
    """A checkpoint without rules of ours, made to look like one of CRIU's, with rules like those that it makes."""
    run_id = "01234567-89ab-cdef-0123-456789abcdef"
    tools = [path for name in ("iptables", "iptables-legacy") if (path := shutil.which(name))]
    if method == locks.IPTABLES and not tools:
        pytest.skip("no iptables on this machine: apt-get install iptables")
    host, ends = talk.host, talk.sock.getsockname()
    dumped = host.dump(talk.subject, "--tcp-established", "--network-lock", "skip")
    assert dumped.ok, dumped
    with store.ImagesDir(str(host.images)) as images:
        inventory: Any = images.inventory()
    assert inventory.network_lock_method == locks.SKIP
    inventory.network_lock_method, inventory.dump_criu_run_id = method, run_id
    (host.images / "inventory.img").write_bytes(framed("inventory.img", [inventory]))
    connection = endpoints.connection(talk.sock.getpeername(), ends)
    rules = locks.rules(connection) if method == locks.IPTABLES else []
    table = f"CRIU-{run_id}"[:26]
    try:
        nftables.hold(table, [connection]) if method == locks.NFTABLES else None
        for rule in rules:
            subprocess.run([tools[0], "-w", "-A", *rule], check=True)
        restored = host.restore("--tcp-established")
        assert restored.ok, restored
        talk.goes_on()
        assert not [rule for rule in rules if not subprocess.run([tools[0], "-w", "-C", *rule], check=False).returncode]
    finally:
        nftables.let_go(table)


def killed_before(number: int, work: Callable[[], object]) -> int:
    """Do `work` in a process that is killed before call `number` of those that matter; its wait status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    status = 1
    try:
        os.setsid()
        left = [number]
        for place, name in (
            (tcp, "repair"), (tcp, "select"), (tcp, "read"), (tcp, "fill"), (tcp, "agree"), (nftables, "hold"),
            (nftables, "let_go"), (segment, "inject"), (NewCheckpoint, "commit"), (os, "fork"), (os, "kill"),
            (connections.Held, "undo"), (connections.Hold, "order"), (connections, "_message"),
            (inet.Inet, "dump"), (pstree.Freeze, "kill"),
            (ptrace, "interrupt"),
        ):  # fmt: skip
            setattr(place, name, counting(getattr(place, name), left))
        work()
        status = 0
    finally:
        os._exit(status)


def counting(real: Callable[..., object], left: list[int]) -> Callable[..., object]:
    us = os.getpid()

    def call(*arguments: object, **named: object) -> object:
        if os.getpid() == us:  # not the guards that it makes
            left[0] -= 1
            if not left[0]:
                KILL(us, signal.SIGKILL)
        return real(*arguments, **named)

    return call


def dump_work(pid: int, images: Path, **options: bool) -> Callable[[], object]:
    def work() -> None:
        with open(os.devnull, "w") as nowhere:
            given = DumpOptions(pid=pid, images_dir=str(images), work_dir=str(images), tcp_established=True, **options)
            dump(given, Log(1, nowhere.fileno()))

    return work


def restore_work(images: Path) -> Callable[[], object]:
    def work() -> None:
        with open(os.devnull, "w") as nowhere:
            given = RestoreOptions(images_dir=str(images), work_dir=str(images), detached=True, tcp_established=True)
            restore(given, Log(1, nowhere.fileno()))

    return work


def test_dump_that_leaves_it_running_is_killed_at_any_moment(talk: Talk) -> None:
    number = 0
    while True:
        number += 1
        status = killed_before(number, dump_work(talk.subject.pid, talk.host.images, leave_running=True))
        talk.goes_on()
        if os.WIFEXITED(status):
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
    assert os.WEXITSTATUS(status) == 0
    assert number > 10, f"only {number - 1} moments were tried"


def test_dump_is_killed_at_any_moment(talk: Talk) -> None:
    """It goes on, or all of it is in the images."""
    number, restored = 0, 0
    while True:
        number += 1
        status = killed_before(number, dump_work(talk.subject.pid, talk.host.images))
        ended = os.WIFEXITED(status)
        if not ended and not (talk.host.images / "inventory.img").exists() and not list(talk.host.images.iterdir()):
            talk.goes_on()
            continue
        wait_until(lambda: not alive(talk.subject.pid) or not talk.tables(), "one or the other")
        if alive(talk.subject.pid):
            talk.goes_on()
        else:
            reap(talk.subject.pid)
            wait_until(lambda: nobody_is_left(talk.subject.pid), "the guard has ended")
            come_back(talk)
            restored += 1
        if ended:
            break
    assert restored > 1, "no dump was killed between the checkpoint and the end of the tree"


def nobody_is_left(server: int) -> bool:
    """Whether all processes of this test have ended but the server; guards whose maker was killed are our children."""
    others = [pid for pid in below(os.getpid()) if pid != server]
    for pid in others:
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
    return not others


def come_back(talk: Talk) -> None:
    """What we send while it is away arrives."""
    talk.sock.sendall(b"while you were away ")
    outcome = talk.host.restore("--tcp-established")
    assert outcome.ok, outcome
    assert talk.sock.recv(100) == b"WHILE YOU WERE AWAY "
    talk.count += 1
    talk.goes_on()


def test_restore_is_killed_at_any_moment(talk: Talk) -> None:
    assert talk.host.dump(talk.subject, "--tcp-established").ok
    held = talk.tables()
    assert len(held) == 1
    number = 0
    while True:
        number += 1
        status = killed_before(number, restore_work(talk.host.images))
        if os.WIFEXITED(status):
            break
        wait_until(lambda: not alive(talk.subject.pid) or not talk.tables(), "the guard has done one or the other")
        if alive(talk.subject.pid):
            break  # it has finished what had begun
        reap(talk.subject.pid)
        assert talk.tables() == held, "a restore that was killed let the packets through"
    talk.goes_on()
    assert number > 10, f"only {number - 1} moments were tried"


def test_restore_that_fails_late_can_be_done_again(talk: Talk) -> None:
    assert talk.host.dump(talk.subject, "--tcp-established").ok
    (talk.host.folder / "pid").touch()
    failed = talk.host.restore("--tcp-established", "--pidfile", str(talk.host.folder / "pid"))
    assert not failed.ok
    assert "pidfile" in failed.errors()
    come_back(talk)


def test_dump_that_fails_leaves_the_connection(talk: Talk) -> None:
    (talk.host.folder / "file").write_text("no directory")
    for _ in range(3):
        assert not talk.host.dump(talk.subject, "--tcp-established", images=talk.host.folder / "file").ok
        talk.goes_on()


def test_dump_with_the_connection_left_running(talk: Talk) -> None:
    for _ in range(3):
        left = talk.host.dump(talk.subject, "--tcp-established", "-R")
        assert left.ok, left
        talk.goes_on()


def test_without_an_option_it_is_refused(talk: Talk) -> None:
    talk.host.refused(talk.subject, "TCP connection (ESTABLISHED)", "--tcp-established", "--tcp-close")
    talk.goes_on()
    assert talk.host.dump(talk.subject, "--tcp-established").ok
    refused = talk.host.restore()
    assert not refused.ok
    assert "--tcp-established" in refused.errors()
    come_back(talk)


def test_closed_connection(talk: Talk) -> None:
    """--tcp-close: the peer sees the end, and the restored task has a socket that is closed."""
    dumped = talk.host.dump(talk.subject, "--tcp-close")
    assert dumped.ok, dumped
    assert not talk.tables()
    assert talk.sock.recv(10) == b""
    restored = talk.host.restore("--tcp-close")
    assert restored.ok, restored
    wait_until(lambda: any("not connected" in line for line in talk.subject.said()), f"{talk.subject.said()}")


def test_without_a_lock(talk: Talk) -> None:
    """--network-lock skip: works as long as the peer is quiet."""
    dumped = talk.host.dump(talk.subject, "--tcp-established", "--network-lock", "skip")
    assert dumped.ok, dumped
    assert not talk.tables()
    assert talk.host.restore("--tcp-established").ok
    talk.goes_on()


def test_peer_notices_nothing_while_it_is_away(talk: Talk) -> None:
    for _ in range(3):
        assert talk.host.dump(talk.subject, "--tcp-established").ok
        time.sleep(0.3)
        come_back(talk)
    talk.sock.shutdown(socket.SHUT_WR)
    talk.subject.wait_for("ended")
