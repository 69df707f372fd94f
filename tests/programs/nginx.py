# SPDX-License-Identifier: GPL-2.0-only
"""nginx with two workers: connections that are kept alive, one in the middle of a request, one in that of an answer."""

import os

import program
from victim import equal

PAGE = bytes(range(32, 127)) * 700
LARGE = 8 << 20  # bytes: more than fits into the buffers of a connection
CONFIGURATION = """
daemon off; error_log error.log; pid pid; user root; worker_processes 2;
events { worker_connections 64; }
http {
    access_log off; keepalive_requests 1000000; default_type text/plain;
    client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;
    server { listen 127.0.0.1:PORT; root FOLDER; sendfile on; }
}
"""


def ask(client: program.Client, path: str) -> None:
    """A request."""
    client.send(f"GET {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode())


def head(client: program.Client) -> int:
    """The head of an answer: how long the rest is."""
    equal(client.line(), b"HTTP/1.1 200 OK", "the status")
    length = 0
    while line := client.line():
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return length


def answer(client: program.Client, wanted: bytes) -> None:
    """The answer to a request."""
    equal(client.read(head(client)), wanted, "the page")


def turn(pid: int, idle: program.Client, half: program.Client, slow: program.Client, large: bytes) -> None:
    """One cycle while something of each client is under way."""
    half.send(b"GET /page HT")
    ask(slow, "/large")
    equal(head(slow), LARGE, "the length of the large page")
    begun = slow.read(LARGE // 8)
    program.cycle(pid, "--tcp-established")
    half.send(b"TP/1.1\r\nHost: here\r\n\r\n")
    answer(half, PAGE)
    equal(begun + slow.read(LARGE - len(begun)), large, "the large page")
    for client in (idle, half, slow):
        for _ in range(5):
            ask(client, "/page")
            answer(client, PAGE)


def scenario() -> None:
    """Two cycles, with the same connections; then a new one."""
    large = os.urandom(1 << 16) * (LARGE >> 16)
    port = program.free_port()
    for name, content in (("page", PAGE), ("large", large)):
        with open(name, "wb") as file:
            file.write(content)
    with open("conf", "w", encoding="utf-8") as file:
        file.write(CONFIGURATION.replace("PORT", str(port)).replace("FOLDER", os.getcwd()))
    pid = program.start("nginx", "-p", os.getcwd(), "-c", "conf", "-e", "stderr")
    idle, half, slow = (program.Client(port) for _ in range(3))
    ask(idle, "/page")
    answer(idle, PAGE)
    for _ in range(2):
        turn(pid, idle, half, slow, large)
    fresh = program.Client(port)
    ask(fresh, "/page")
    answer(fresh, PAGE)
    program.end(pid)


program.play(scenario)
