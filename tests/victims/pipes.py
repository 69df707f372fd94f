# SPDX-License-Identifier: GPL-2.0-only
"""Pipes between parent and child: bytes in flight, their order, the capacity, O_NONBLOCK, end of file.

Kept: pipes: data in flight, capacity, ends
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator

import victim

CAPACITY = 16384
IN_FLIGHT = bytes(range(256)) * 20


def scenario() -> Iterator[victim.Damage]:
    down, to_child = os.pipe()
    from_child, up = os.pipe()
    full, filled = os.pipe()
    fcntl.fcntl(filled, fcntl.F_SETPIPE_SZ, CAPACITY)
    os.write(filled, IN_FLIGHT)
    os.set_blocking(filled, False)
    echo = victim.child(lambda: echo_upper(down, up, (to_child, from_child, full, filled)))
    os.close(down)
    os.close(up)
    victim.wait_until(lambda: victim.sleeping(echo), "the child reads")
    yield lambda: os.read(full, 1)
    os.write(to_child, b"hello")
    victim.equal(os.read(from_child, 100), b"HELLO", "what the child answers")
    victim.equal(fcntl.fcntl(filled, fcntl.F_GETPIPE_SZ), CAPACITY, "the pipe's capacity")
    victim.check(not os.get_blocking(filled), "O_NONBLOCK was lost")
    with contextlib.suppress(BlockingIOError):
        while os.write(filled, b"z" * 4096):
            pass
    victim.equal(os.read(full, len(IN_FLIGHT)), IN_FLIGHT, "the bytes in flight")
    os.close(to_child)
    victim.join(echo, "the child, at the end of its input")
    victim.equal(os.read(from_child, 1), b"", "the end of the child's output")


def echo_upper(down: int, up: int, foreign: tuple[int, ...]) -> None:
    for fd in foreign:
        os.close(fd)
    while text := os.read(down, 100):
        os.write(up, text.upper())


victim.play(scenario)
