# SPDX-License-Identifier: GPL-2.0-only
"""What tests of the RPC have in common: a service that packets are sent to, and upstream's bindings as a client."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pycriu import rpc
from pycriu.images import messages as m
from tests import clients
from tests.host.conftest import DEADLINE, Host, wait_until

SUBJECT = """
memory = bytearray(os.urandom(1 << 20))
copy = bytes(memory)
pause_for_dump()
say("memory", memory == copy)
"""
LARGE = """
memory = mmap.mmap(-1, 256 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for at in range(0, len(memory), 1 << 20): memory[at : at + (1 << 20)] = os.urandom(1 << 12) * 256
pause_for_dump()
say("memory", len(memory))
"""


class Service:
    """A service that runs in the foreground, below this test."""

    def __init__(self, host: Host) -> None:
        self.host, self.path = host, host.folder / "service.socket"
        words = ["service", "--address", str(self.path), "-v4", "-o", "service.log", "-W", str(host.folder)]
        self.process = subprocess.Popen([clients.criu(host.folder), *words], stdin=subprocess.DEVNULL)
        wait_until(lambda: "Waiting for a connection" in self.log(), "the service listens")

    def log(self) -> str:
        path = self.host.folder / "service.log"
        return path.read_text() if path.exists() else ""

    def workers(self) -> list[int]:
        return [
            int(pid) for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        ]

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.settimeout(DEADLINE)
        connection.connect(str(self.path))
        return connection

    def idle(self) -> None:
        """Every worker is gone, and the service still serves."""
        wait_until(lambda: not self.workers(), f"the workers are gone: {self.workers()}")
        with self.connect() as connection:
            assert ask(connection, m.criu_req(type=rpc.VERSION)).success


@pytest.fixture
def service(host: Host) -> Iterator[Service]:
    """A service that still serves when the test is through, and leaves nothing."""
    served = Service(host)
    yield served
    served.idle()
    assert "bug of pycriu" not in served.log()
    served.process.terminate()
    assert served.process.wait(DEADLINE) == 0
    assert not served.path.exists()


def ask(connection: socket.socket, request: m.criu_req) -> m.criu_resp:
    """Send a request; the answer."""
    connection.send(request.SerializeToString())
    return m.criu_resp.FromString(connection.recv(1 << 16))


def request(kind: int, images: int, pid: int = 0, **more: object) -> m.criu_req:
    """A request of that type, with the descriptor of a directory of images."""
    opts = m.criu_opts(images_dir_fd=images, log_level=4, **more)  # type: ignore[arg-type]
    if pid:
        opts.pid = pid
    return m.criu_req(type=kind, opts=opts)


@pytest.fixture
def images(host: Host) -> Iterator[int]:
    """A descriptor of the directory of images."""
    fd = os.open(host.images, os.O_DIRECTORY)
    yield fd
    os.close(fd)


# What each script of a client begins with: `ask` is upstream's object, on the way that the test wants to try.
HEAD = """
import errno, json, os, socket, sys, time
import pycriu
assert "dist-packages" in pycriu.__file__
from pycriu import rpc
def client():
    ask = pycriu.criu()
    way, where = sys.argv[1:3]
    if way == "fd":
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        child = os.fork()
        if not child:
            its.set_inheritable(True)
            if os.fork():
                os._exit(0)
            os.setsid()  # not below us: nobody can dump its own parent
            os.execv(where, [where, "swrk", str(its.fileno())])
        its.close()
        os.waitpid(child, 0)
        ask.use_fd(ours.detach())
    else:
        (ask.use_sk if way == "socket" else ask.use_binary)(where)
    ask.opts.images_dir_fd = images
    ask.opts.log_level = 4
    return ask
images = os.open("images", os.O_DIRECTORY)
def attempt(call):
    try:
        return call()
    except pycriu.CRIUExceptionExternal as error:
        return [error.typ, error.errno]
def tell(*what):
    print(json.dumps(what), flush=True)
"""


class Client:
    """Runs scripts that use upstream's bindings, all on one way to pycriu."""

    def __init__(self, host: Host, found: clients.Clients, way: str, where: Path) -> None:
        self.host, self.found, self.way, self.where = host, found, way, where

    def start(self, code: str) -> subprocess.Popen[str]:
        script = self.host.folder / "client.py"
        script.write_text(HEAD + code)
        with open(self.host.folder / "said", "w") as said:
            return subprocess.Popen(
                [*self.found.python(script), self.way, str(self.where)],
                cwd=self.host.folder, env=self.found.environment(), stdin=subprocess.DEVNULL, stdout=said, stderr=said,
                text=True, start_new_session=True,
            )  # fmt: skip

    def run(self, code: str) -> str:
        process = self.start(code)
        status = process.wait(DEADLINE)
        assert status == 0, self.said()
        return self.said()

    def said(self) -> str:
        return (self.host.folder / "said").read_text()

    def log(self, name: str) -> str:
        return (self.host.images / name).read_text()


@pytest.fixture(scope="module")
def found() -> clients.Clients:
    """Upstream's clients."""
    try:
        return clients.find()
    except clients.NotHadError as reason:
        pytest.skip(str(reason))


@pytest.fixture
def daemon(host: Host) -> Iterator[Path]:
    """A service in the background; its socket."""
    program, socket = clients.criu(host.folder), host.folder / "service.socket"
    words = ["service", "--address", str(socket), "--pidfile", "service.pid", "--daemon", "-v4", "-o", "service.log"]
    subprocess.run([program, *words, "-W", str(host.folder)], check=True, timeout=DEADLINE, cwd=host.folder)
    yield socket
    os.kill(int((host.folder / "service.pid").read_text()), 15)
    wait_until(lambda: not socket.exists() and not (host.folder / "service.pid").exists(), "the service has ended")


@pytest.fixture(params=["binary", "socket", "fd"])
def client(host: Host, found: clients.Clients, request: pytest.FixtureRequest) -> Client:
    """The client, once for each way that the bindings know."""
    where = request.getfixturevalue("daemon") if request.param == "socket" else clients.criu(host.folder)
    return Client(host, found, request.param, where)


@pytest.fixture
def worker(host: Host, found: clients.Clients) -> Client:
    """A client that starts `pycriu swrk` for itself."""
    return Client(host, found, "binary", clients.criu(host.folder))
