# SPDX-License-Identifier: GPL-2.0-only
"""Pages over the network: between pycriu and itself, and between pycriu and CRIU both ways; and when it breaks."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pycriu.pageserver import wire
from tests.host.conftest import alive, below, reap, state, wait_until
from tests.host.test_peer import criu  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from tests.host.conftest import Host, Subject

SUBJECT = """
area = mmap.mmap(-1, 8 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
shared = mmap.mmap(-1, 1 << 20)
for at in range(0, 8 << 20, 8192):
    area[at : at + 8] = at.to_bytes(8, "little")
for at in range(0, 1 << 20, 12288):
    shared[at : at + 8] = at.to_bytes(8, "little")
pid = os.fork()
if not pid:
    wait_for_go()
    os._exit(0 if all(area[at : at + 8] == at.to_bytes(8, "little") for at in range(0, 8 << 20, 8192)) else 1)
pause_for_dump()
say(os.waitpid(pid, 0)[1], all(area[at : at + 8] == at.to_bytes(8, "little") for at in range(0, 8 << 20, 8192)),
    all(shared[at : at + 8] == at.to_bytes(8, "little") for at in range(0, 1 << 20, 12288)))
"""
GOOD = ["0 True True"]
OURS, CRIUS = "pycriu", "criu"


def reserved() -> socket.socket:
    """It has a port that nobody else is given; who asks for that very port, as a server does, can still listen."""
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.bind(("127.0.0.1", 0))
    return found


class Network:
    """A page server, and the command lines of both sides."""

    def __init__(self, host: Host, criu: tuple[str, ...] | None) -> None:  # noqa: F811
        self.host, self.criu = host, criu
        self.reserved = reserved()
        self.port = int(self.reserved.getsockname()[1])
        self.there = host.folder / "there"
        self.there.mkdir(exist_ok=True)
        self.to = ("--page-server", "--address", "127.0.0.1", "--port", str(self.port))

    def command(self, whose: str, *words: str) -> list[str]:
        if whose == OURS:
            return self.host.command(*words)
        assert self.criu is not None
        return [*self.criu, *words]

    @contextmanager
    def server(self, whose: str, *words: str) -> Iterator[subprocess.Popen[str]]:
        """One that is ready."""
        reader, writer = os.pipe()
        command = self.command(
            whose, "page-server", "-D", str(self.there), "--address", "127.0.0.1", "--port", str(self.port), "-v4",
            "-o", str(self.host.folder / "server.log"), "--status-fd", str(writer), *words,
        )  # fmt: skip
        process = subprocess.Popen(
            command, pass_fds=[writer], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, cwd=self.host.folder,
        )  # fmt: skip
        os.close(writer)
        try:
            assert os.read(reader, 1) == b"\0", process.communicate()
            yield process
        finally:
            os.close(reader)
            process.kill()
            process.communicate()

    def log(self) -> str:
        return (self.host.folder / "server.log").read_text(errors="replace")

    def dump(self, whose: str, subject: Subject, *words: str, action: str = "dump") -> subprocess.CompletedProcess[str]:
        tree = [subject.pid, *below(subject.pid)]
        done = subprocess.run(
            self.command(
                whose, action, "-t", str(subject.pid), "-D", str(self.host.images), "-v4", "-o",
                str(self.host.folder / "dump.log"), *self.to, *words,
            ),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, cwd=self.host.folder, timeout=60,
        )  # fmt: skip
        for pid in tree:  # those that live without their parent are our children by now
            if state(pid) == "Z":
                reap(pid)
        return done

    def gather(self) -> None:
        """Bring what the server has to the other images."""
        assert not [name for name in os.listdir(self.host.images) if name.startswith("pages-")]
        for path in self.there.glob("*.img"):
            shutil.copy(path, self.host.images)


PAIRS = [(OURS, OURS), (OURS, CRIUS), (CRIUS, OURS)]


@pytest.fixture
def network(host: Host, request: pytest.FixtureRequest) -> Network:
    pair = request.node.callspec.params.get("pair", ()) if hasattr(request.node, "callspec") else ()
    return Network(host, request.getfixturevalue("criu") if CRIUS in pair else None)


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_a_dump_over_the_network(host: Host, network: Network, pair: tuple[str, str]) -> None:
    subject = host.python(SUBJECT)
    with network.server(pair[1]) as server:
        dumped = network.dump(pair[0], subject)
        assert dumped.returncode == 0, (dumped, network.log())
        assert server.wait(20) == 0, network.log()
    assert not alive(subject.pid)
    network.gather()
    assert (restored := host.restore()).ok, restored
    assert subject.go() == GOOD


def test_criu_restores_what_came_over_the_network(host: Host, criu: tuple[str, ...]) -> None:  # noqa: F811
    network, subject = Network(host, criu), host.python(SUBJECT)
    with network.server(OURS) as server:
        assert network.dump(OURS, subject).returncode == 0, network.log()
        assert server.wait(20) == 0
    network.gather()
    done = subprocess.run(
        [*criu, "restore", "-d", "-D", str(host.images), "-o", "log", "-v4"], check=False, cwd=host.folder,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, (host.images / "log").read_text()[-2000:]
    assert subject.go() == GOOD


@pytest.mark.parametrize("action", [("dump", "-R"), ("pre-dump",)], ids=["dump", "pre-dump"])
def test_a_tree_that_runs_on(host: Host, network: Network, action: tuple[str, ...]) -> None:
    """A pre-dump upon which a dump builds, and a dump that can be restored later."""
    subject = host.python(SUBJECT)
    with network.server(OURS) as server:
        dumped = network.dump(OURS, subject, *action[1:], action=action[0])
        assert dumped.returncode == 0, (dumped, network.log())
        assert server.wait(20) == 0
    assert alive(subject.pid)
    network.gather()
    if action[0] == "dump":
        os.kill(subject.pid, signal.SIGKILL)
        for pid in [*host_children(subject.pid), subject.pid]:
            reap(pid)
        images = host.images
    else:
        images = host.folder / "later"
        images.mkdir()
        done = host.dump(subject, "--prev-images-dir", "../images", images=images)
        assert done.ok, done
        pages = sum(path.stat().st_size for path in images.glob("pages-*"))
        assert pages < 1 << 21, "what had not changed was written again"
    assert (restored := host.restore(images=images)).ok, restored
    assert subject.go() == GOOD


def host_children(pid: int) -> list[int]:
    """Those that it leaves to us."""
    wait_until(lambda: not alive(pid), "killed")
    found = below(os.getpid())
    for child in found:
        os.kill(child, signal.SIGKILL)
    return [child for child in found if child != pid]


def test_pages_that_only_a_page_server_has_are_a_parent(host: Host) -> None:
    """Without an inventory beside them, as CRIU leaves them."""
    network, subject = Network(host, None), host.python(SUBJECT)
    with network.server(OURS):
        assert network.dump(OURS, subject, action="pre-dump").returncode == 0
    later = host.folder / "later"
    later.mkdir()
    done = host.dump(subject, "--prev-images-dir", "../there", images=later)
    assert done.ok, done
    assert (restored := host.restore(images=later)).ok, restored
    assert subject.go() == GOOD


def test_an_open_socket(host: Host) -> None:
    """--ps-socket on both sides."""
    network, subject = Network(host, None), host.python(SUBJECT)
    left, right = socket.socketpair()
    server = subprocess.Popen(
        host.command("page-server", "-D", str(network.there), "--ps-socket", str(left.fileno())),
        pass_fds=[left.fileno()], stdin=subprocess.DEVNULL, cwd=host.folder,
    )  # fmt: skip
    done = subprocess.run(
        host.command(
            "dump", "-t", str(subject.pid), "-D", str(host.images), "--page-server", "--ps-socket", str(right.fileno())
        ),
        pass_fds=[right.fileno()], stdin=subprocess.DEVNULL, check=False, cwd=host.folder, timeout=60,
    )  # fmt: skip
    reap(subject.pid)
    assert (done.returncode, server.wait(20)) == (0, 0)
    network.gather()
    assert host.restore().ok
    assert subject.go() == GOOD


def test_in_the_background(host: Host) -> None:
    network, subject = Network(host, None), host.python(SUBJECT)
    begun = subprocess.run(
        host.command(
            "page-server", "-D", str(network.there), "--address", "127.0.0.1", "--port", str(network.port), "--daemon",
            "--pidfile", "server.pid", "-W", str(host.folder), "-o", "server.log",
        ),
        stdin=subprocess.DEVNULL, check=False, timeout=20,
    )  # fmt: skip
    assert begun.returncode == 0
    pid = int((host.folder / "server.pid").read_text())
    assert alive(pid)
    assert network.dump(OURS, subject).returncode == 0, network.log()
    wait_until(lambda: not alive(pid), "the server ends with its client")
    network.gather()
    assert host.restore().ok
    assert subject.go() == GOOD


@pytest.mark.parametrize("words", [(), ("-R",)], ids=["end", "run on"])
def test_the_server_dies(host: Host, words: tuple[str, ...]) -> None:
    """In the middle of pages: the tree goes on, nothing is left on either side."""
    network, subject = Network(host, None), host.python(SUBJECT)
    waiting = wire.listen("127.0.0.1", network.port)

    def die(after: int) -> None:
        connection, _ = waiting.accept()
        link = wire.Link(connection, "client")
        with link:
            for _ in range(after):
                command = link.command()
                assert command is not None
                if command.what == wire.PARENT:
                    link.send(wire.ANSWER_PARENT.pack(0))
                elif command.what == wire.OPEN2:
                    link.send(wire.ANSWER_OPEN.pack(False))
                elif command.what == wire.ADD_F:
                    link.receive(memoryview(bytearray(command.pages * 4096)))
                elif command.what == wire.CLOSE:
                    link.send(wire.ANSWER_CLOSE.pack(-5))

    for after in (0, 1, 2, 3, 10, 10**6):
        pid = os.fork()
        if not pid:
            try:
                die(after)
            finally:
                os._exit(0)
        done = network.dump(OURS, subject, *words)
        os.kill(pid, signal.SIGKILL)
        reap(pid)
        assert done.returncode == 1, after
        assert "the page server at 127.0.0.1" in done.stderr, done
        assert alive(subject.pid)
        assert not list(host.images.iterdir()), after
    waiting.close()
    assert subject.go() == GOOD


def test_nobody_is_there(host: Host) -> None:
    network, subject = Network(host, None), host.python(SUBJECT)
    done = network.dump(OURS, subject)
    assert done.returncode == 1
    assert "no page server at 127.0.0.1 port" in done.stderr
    assert alive(subject.pid)


def test_the_client_dies(host: Host) -> None:
    """Or says nonsense: the server keeps nothing."""
    network = Network(host, None)
    rng = random.Random(7)
    page = bytes(4096)

    def header(what: int, address: int = 0, pages: int = 0, flags: int = 0, target: int = 0x101) -> bytes:
        return wire.SHORT.pack(flags << 16 | what, pages, address, target)

    start = header(wire.OPEN2)
    whole = start + header(wire.ADD_F, 4096, 1, 4) + page
    close = header(wire.CLOSE, target=0)
    sent = [
        b"", b"\0", start, start[:20], whole, whole[:-1], whole + header(wire.ADD_F, 4096, 1, 4) + page + close,
        start + header(wire.ADD_F, 1, 1, 4) + page + close, start + header(wire.ADD_F, 4096, 0, 4) + close,
        start + header(wire.ADD_F, 4096, 1, 1) + close, start + header(wire.ADD_F, 4096, 1, 2) + close,
        start + start + close, header(wire.GET, 4096, 1), header(99), header(wire.OPEN2, target=0x105),
        start + header(wire.ADD_F, (1 << 64) - 4096, 2, 4) + page * 2 + close,
        start + header(wire.OPEN2, target=1 << 60) + close,
        *(rng.randbytes(rng.randrange(1, 200)) for _ in range(5)),
    ]  # fmt: skip
    for data in sent:
        with network.server(OURS) as server, socket.create_connection(("127.0.0.1", network.port)) as client:
            client.settimeout(5)
            with suppress(OSError):  # it may have hung up before the end
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
            assert server.wait(20) == 1, data
        assert "bug" not in network.log(), network.log()
        assert not list(network.there.iterdir()), data
    with network.server(OURS) as server, socket.create_connection(("127.0.0.1", network.port)) as client:
        client.sendall(whole + close)
        client.shutdown(socket.SHUT_WR)
        assert server.wait(20) == 0
    assert sorted(path.name for path in network.there.iterdir()) == ["pagemap-1.img", "pages-65537.img"]


def test_headers_of_either_form(host: Host) -> None:
    for form in (wire.SHORT, wire.LONG):
        network = Network(host, None)
        with network.server(OURS) as server:
            with wire.Link(wire.connect("127.0.0.1", network.port), "server", form) as link:
                link.send(link.header(wire.PARENT, wire.TASK, 7))
                assert link.answer(wire.ANSWER_PARENT) == 0
                link.send(link.header(wire.OPEN2, wire.TASK, 7))
                assert link.answer(wire.ANSWER_OPEN) == 0
                link.send(link.header(wire.ADD_F, wire.TASK, 7, 4096, 2, 4), bytes(8192))
                link.send(link.header(wire.CLOSE, 0, 0))
                assert link.answer(wire.ANSWER_CLOSE) == 0
            assert server.wait(20) == 0, network.log()


def test_a_server_that_wants_long_headers_is_understood(host: Host) -> None:
    left, right = socket.socketpair()
    pid = os.fork()
    if not pid:
        data = b""
        while len(data) < wire.LONG.size:
            data += left.recv(wire.LONG.size - len(data))
        word, _, _, target = wire.LONG.unpack(data)
        left.sendall(wire.ANSWER_PARENT.pack(word == wire.PARENT and target == 9 << 8 | wire.TASK))
        time.sleep(1)
        os._exit(0)
    with wire.Link(right, "server") as link:
        assert link.agree(9)
        assert link.form == wire.LONG
    os.kill(pid, signal.SIGKILL)
    reap(pid)


def test_a_place_that_holds_a_checkpoint(host: Host) -> None:
    subject = host.python(SUBJECT)
    assert host.dump(subject, "-R").ok
    outcome = host.run("page-server", "-D", str(host.images))
    assert not outcome.ok
    assert "a whole checkpoint is here" in outcome.errors()


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA, a certificate for 127.0.0.1, one of somebody else's CA, and a list of certificates that are revoked."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on this machine: apt-get install openssl")
    folder = tmp_path_factory.mktemp("keys")

    def run(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    (folder / "name").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    for ca, name in (("ca", "good"), ("other", "stranger")):
        subject = ["-subj", f"/CN={ca}", "-days", "2", "-nodes", "-newkey", "rsa:2048"]
        run("req", "-x509", *subject, "-keyout", f"{ca}.key", "-out", f"{ca}.pem")
        run("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        run("x509", "-req", "-in", f"{name}.csr", "-CA", f"{ca}.pem", "-CAkey", f"{ca}.key", "-CAcreateserial",
            "-days", "2", "-out", f"{name}.pem", "-extfile", "name")  # fmt: skip
    return folder


def tls(keys: Path, name: str = "good", ca: str = "ca") -> tuple[str, ...]:
    return (
        "--tls", "--tls-cacert", f"{keys}/{ca}.pem", "--tls-cert", f"{keys}/{name}.pem",
        "--tls-key", f"{keys}/{name}.key",
    )  # fmt: skip


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_in_secret(host: Host, network: Network, keys: Path, pair: tuple[str, str]) -> None:
    subject = host.python(SUBJECT)
    with network.server(pair[1], *tls(keys)) as server:
        dumped = network.dump(pair[0], subject, *tls(keys))
        assert dumped.returncode == 0, (dumped, network.log()[-2000:])
        assert server.wait(20) == 0, network.log()
    network.gather()
    assert (restored := host.restore()).ok, restored
    assert subject.go() == GOOD


@pytest.mark.parametrize(
    ("ours", "said"),
    [
        ((), "the page server at 127.0.0.1"),
        (("stranger", "ca"), "TLS"),
        (("good", "other"), "no TLS with the other side"),
    ],
    ids=["plain", "stranger", "strange server"],
)
def test_strangers_are_refused(host: Host, keys: Path, ours: tuple[str, ...], said: str) -> None:
    network, subject = Network(host, None), host.python(SUBJECT)
    with network.server(OURS, *tls(keys)) as server:
        done = network.dump(OURS, subject, *(tls(keys, *ours) if ours else ()))
        assert done.returncode == 1
        assert said in done.stderr or "page server" in done.stderr, done
        assert server.wait(40) == 1
    assert alive(subject.pid)
    assert not list(network.there.iterdir())
    assert not list(host.images.iterdir())


def test_a_certificate_for_another_name(host: Host, keys: Path) -> None:
    network, subject = Network(host, None), host.python(SUBJECT)
    network.to = ("--page-server", "--address", "127.0.0.2", "--port", str(network.port))
    command = host.command("page-server", "-D", str(network.there), "--port", str(network.port), *tls(keys))
    line = f":{network.port:04X} 00000000:0000 0A "  # TCP_LISTEN: of the server before there may be others
    for words, status in (((), 1), (("--tls-no-cn-verify",), 0)):
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, cwd=host.folder, stderr=subprocess.DEVNULL)
        wait_until(lambda: line in Path("/proc/net/tcp").read_text(), "the server listens")
        done = network.dump(OURS, subject, *tls(keys), *words)
        assert done.returncode == status, done
        assert ("is not for 127.0.0.2" in done.stderr) == bool(status)
        server.wait(20)
