# SPDX-License-Identifier: GPL-2.0-only
"""Servers with clients that stay connected: web servers under load, PostgreSQL in the middle of a transaction.

The clients are these tests. They notice a byte that is lost, doubled or late by more than their patience.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.conftest import DEADLINE, Host, alive, reap, wait_until
from tests.host.programs import Cycle, connect, cycle, free_port, need, start  # noqa: F401 - a fixture

TCP = "--tcp-established"


class Client:
    """A connection, read by lines or by lengths."""

    def __init__(self, port: int) -> None:
        self.socket = connect(port)
        self.socket.settimeout(3 * DEADLINE)
        self._file = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def line(self) -> bytes:
        found = self._file.readline()
        assert found.endswith(b"\n"), f"the connection has ended after {found!r}"
        return found.rstrip(b"\r\n")

    def read(self, size: int) -> bytes:
        found = self._file.read(size)
        assert len(found) == size, "the connection has ended"
        return found

    def close(self) -> None:
        self._file.close()
        self.socket.close()


class Load(threading.Thread):
    """Requests over one connection that is kept alive, one after the other, each answer compared."""

    def __init__(self, port: int, path: str, wanted: bytes) -> None:
        super().__init__(daemon=True)
        self._client, self._path, self._wanted = Client(port), path, wanted
        self.answers, self.wrong, self._over = 0, "", False

    def run(self) -> None:
        """Until `finish`, or until something is wrong."""
        try:
            while not self._over:
                self._ask()
                self.answers += 1
        except (OSError, AssertionError) as error:
            self.wrong = f"after {self.answers} answers: {error}"

    def _ask(self) -> None:
        self._client.send(f"GET {self._path} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
        status, length = self._client.line(), 0
        while header := self._client.line():
            name, _, value = header.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        assert status == b"HTTP/1.1 200 OK", status
        body = self._client.read(length)
        assert body == self._wanted, f"{len(body)} bytes, {body[:100]!r}"

    def finish(self) -> int:
        """How many answers there were; none may have been wrong."""
        self._over = True
        self.join(3 * DEADLINE)
        assert not self.is_alive(), "a request without an answer"
        assert not self.wrong, self.wrong
        self._client.close()
        return self.answers


def under_load(cycle: Cycle, pid: int, loads: list[Load]) -> None:  # noqa: F811
    """Two cycles while clients ask as fast as they can."""
    for load in loads:
        load.start()
    for _ in range(2):
        before = [load.answers for load in loads]
        wait_until(
            lambda before=before: all(
                load.answers > n + 20 or load.wrong for load, n in zip(loads, before, strict=True)
            ),  # type: ignore[misc]
            f"answers: {before}, {[load.wrong for load in loads]}",
        )
        cycle(pid, TCP)
    before = [load.answers for load in loads]
    wait_until(lambda: all(load.answers > n + 20 for load, n in zip(loads, before, strict=True)), f"answers: {before}")
    for load in loads:
        load.finish()


def end(pid: int, number: int = signal.SIGTERM) -> None:
    """It was good; it may go."""
    os.kill(pid, number)
    wait_until(lambda: not alive(pid), "its end")
    reap(pid)


PAGE = bytes(range(32, 127)) * 700


def test_a_python_web_server(host: Host, cycle: Cycle) -> None:  # noqa: F811
    (host.folder / "page").write_bytes(PAGE)
    port = free_port()
    (host.folder / "web.py").write_text(
        "import http.server, sys\nclass H(http.server.SimpleHTTPRequestHandler):\n    protocol_version = 'HTTP/1.1'\n"
        "    def log_message(self, *words): pass\n"
        f"http.server.ThreadingHTTPServer(('127.0.0.1', {port}), H).serve_forever()\n"
    )
    pid = start(host, sys.executable, "-I", "web.py")
    under_load(cycle, pid, [Load(port, "/page", PAGE) for _ in range(3)])
    end(pid)


NGINX = """
daemon off; error_log error.log; pid pid; user root; worker_processes 2;
events { worker_connections 64; }
http {
    access_log off; keepalive_requests 1000000; default_type text/plain;
    client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;
    server { listen 127.0.0.1:PORT; root .; sendfile on; }
}
"""


def test_nginx(host: Host, cycle: Cycle) -> None:  # noqa: F811
    nginx, port = need("nginx"), free_port()
    (host.folder / "page").write_bytes(PAGE)
    (host.folder / "conf").write_text(NGINX.replace("PORT", str(port)).replace("root .", f"root {host.folder}"))
    pid = start(host, nginx, "-p", str(host.folder), "-c", "conf", "-e", "stderr")
    under_load(cycle, pid, [Load(port, "/page", PAGE) for _ in range(3)])
    end(pid)


def test_node_as_a_web_server(host: Host, cycle: Cycle) -> None:  # noqa: F811
    node, port = need("node"), free_port()
    (host.folder / "web.js").write_text(
        "const page = require('fs').readFileSync('page');\n"
        "require('http').createServer((q, a) => { a.setHeader('Content-Length', page.length); a.end(page); })"
        f".listen({port}, '127.0.0.1');\n"
    )
    (host.folder / "page").write_bytes(PAGE)
    pid = start(host, node, "web.js")
    under_load(cycle, pid, [Load(port, "/page", PAGE) for _ in range(3)])
    end(pid)


class Postgres(Client):
    """The protocol of PostgreSQL, version 3, simple queries, no password."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        words = b"user\0postgres\0database\0postgres\0\0"
        self.send(struct.pack("!II", len(words) + 8, 3 << 16) + words)
        self.status = self._until_ready()[1]

    def query(self, text: str) -> list[str]:
        """The first column of every row."""
        self.query_later(text)
        return self.rows()

    def query_later(self, text: str) -> None:
        data = text.encode() + b"\0"
        self.send(b"Q" + struct.pack("!I", len(data) + 4) + data)

    def rows(self) -> list[str]:
        found, self.status = self._until_ready()
        return found

    def _until_ready(self) -> tuple[list[str], str]:
        rows = []
        while True:
            kind, size = struct.unpack("!cI", self.read(5))
            data = self.read(size - 4)
            if kind == b"E":
                raise AssertionError(data.replace(b"\0", b" ").decode())
            if kind == b"D":
                length = struct.unpack("!i", data[2:6])[0]
                rows.append(data[6 : 6 + length].decode())
            if kind == b"Z":
                return rows, data.decode()


@pytest.fixture
def cluster() -> Iterator[Path]:
    """A data folder of PostgreSQL, which insists on another user than root."""
    initdb = need("postgres").removesuffix("postgres") + "initdb"
    if not Path(initdb).exists():
        initdb = str(Path(need("postgres")).resolve().with_name("initdb"))
    try:
        user = pwd.getpwnam("postgres").pw_uid
    except KeyError:
        pytest.skip("there is no user postgres: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="pycriu-postgres-"))
    shutil.chown(folder, user, user)
    try:
        subprocess.run(
            [initdb, "-D", str(folder / "data"), "-A", "trust", "-U", "postgres", "-N", "--no-instructions"],
            user=user, cwd="/", check=True, stdin=subprocess.DEVNULL, capture_output=True, env={},
        )  # fmt: skip
        yield folder
    finally:
        shutil.rmtree(folder)


def test_postgres(host: Host, cycle: Cycle, cluster: Path) -> None:  # noqa: F811
    """Transactions that are open, a lock that is waited for, rows that only one of two clients may see."""
    port = free_port()
    pid = start(
        host, str(Path(need("postgres")).resolve()), "-D", str(cluster / "data"), "-p", str(port), "-k", str(cluster),
        "-c", "listen_addresses=127.0.0.1", "-c", "shared_buffers=16MB", "-c", "dynamic_shared_memory_type=posix",
        user=pwd.getpwnam("postgres").pw_uid,
    )  # fmt: skip
    wait_until(lambda: "ready to accept" in (host.folder / "said").read_text(), (host.folder / "said").read_text(), 60)
    writer, reader, waiting = (Postgres(port) for _ in range(3))
    writer.query("create table entry (n integer primary key, text text)")
    writer.query("insert into entry select n, repeat('x', n) from generate_series(1, 1000) n")
    for turn in range(2):
        new = 2000 + turn
        writer.query(
            f"begin; insert into entry values ({new}, 'new'); update entry set text = 'changed' where n = {turn + 1}"
        )
        assert writer.status == "T"
        waiting.query_later(f"update entry set text = 'after' where n = {turn + 1} returning text")
        reader.query("begin isolation level repeatable read")
        assert reader.query("select count(*) from entry") == [str(1000 + turn)]
        wait_until(
            lambda: Postgres(port).query("select count(*) from pg_locks where not granted") != ["0"],
            "a lock is waited for",
        )
        cycle(pid, TCP)
        assert reader.query(f"select count(*) from entry where n = {new}") == ["0"]
        assert writer.query(f"select text from entry where n in ({new}, {turn + 1}) order by n desc") == [
            "new",
            "changed",
        ]
        writer.query("commit")
        assert waiting.rows() == ["after"]
        assert reader.query(f"select count(*) from entry where n = {new}") == ["0"], "it may see only what it saw"
        reader.query("commit")
        assert reader.query(f"select count(*) from entry where n = {new}") == ["1"]
    assert reader.query("select sum(length(text)) from entry where n between 3 and 1000") == [str(1000 * 1001 // 2 - 3)]
    assert Postgres(port).query("select count(*) from entry") == ["1002"]
    end(pid, signal.SIGINT)
