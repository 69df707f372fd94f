# SPDX-License-Identifier: GPL-2.0-only
"""Named pipes: bytes in flight, capacity, O_NONBLOCK, both ends in different tasks, an end of file still to come, a
deleted one, one with its other end outside the tree.
"""

import fcntl
import os
from collections.abc import Iterator

import victim

CAPACITY = 16384
IN_FLIGHT = bytes(range(256)) * 10


def scenario() -> Iterator[victim.Damage]:
    victim.outsider(lambda: talk_back("outer", "outer-back"))  # before there is anything that it could inherit
    victim.wait_until(lambda: os.path.exists("outer-back"), "the outsider has come")
    for name in ("named", "gone", "shared", "answers"):
        os.mkfifo(name)
    both = os.open("named", os.O_RDWR | os.O_NONBLOCK)
    fcntl.fcntl(both, fcntl.F_SETPIPE_SZ, CAPACITY)
    os.write(both, IN_FLIGHT)
    reader = os.open("named", os.O_RDONLY)
    gone = os.open("gone", os.O_RDONLY | os.O_NONBLOCK)
    last = os.open("gone", os.O_WRONLY)
    os.unlink("gone")
    os.write(last, b"last words")
    child = victim.child(lambda: echo(both, reader, gone, last))
    question, answer = os.open("shared", os.O_WRONLY), os.open("answers", os.O_RDONLY)
    outer, outer_back = os.open("outer", os.O_RDWR), os.open("outer-back", os.O_RDWR | os.O_NONBLOCK)
    before = [fcntl.fcntl(fd, fcntl.F_GETFL) for fd in (both, reader, gone, last, question, answer)]
    yield lambda: os.read(reader, 1)
    now = [fcntl.fcntl(fd, fcntl.F_GETFL) for fd in (both, reader, gone, last, question, answer)]
    victim.equal(now, before, "the flags")
    victim.equal(fcntl.fcntl(both, fcntl.F_GETPIPE_SZ), CAPACITY, "the capacity")
    victim.equal(os.read(reader, 100000), IN_FLIGHT, "the bytes in flight")
    os.write(both, b"more")
    victim.equal(os.read(reader, 100), b"more", "what is written now")
    victim.equal(os.read(gone, 100), b"last words", "the bytes in flight in a deleted FIFO")
    os.close(last)
    victim.equal(os.read(gone, 100), b"", "the end of the deleted FIFO")
    os.write(question, b"hello")
    victim.equal(os.read(answer, 100), b"HELLO", "what the child answers")
    os.close(question)
    victim.join(child, "the child, at the end of its input")
    os.write(outer, b"outside")
    victim.wait_until(lambda: heard(outer_back) == b"OUTSIDE", "the outsider's answer")


def echo(*foreign: int) -> None:
    for fd in foreign:
        os.close(fd)
    question, answer = os.open("shared", os.O_RDONLY), os.open("answers", os.O_WRONLY)
    while text := os.read(question, 100):
        os.write(answer, text.upper())


def talk_back(name: str, back: str) -> None:
    os.mkfifo(name)
    os.mkfifo("wait")
    os.rename("wait", back)
    question, answer = os.open(name, os.O_RDWR), os.open(back, os.O_RDWR)
    while text := os.read(question, 100):
        os.write(answer, text.upper())


def heard(fd: int) -> bytes:
    try:
        return os.read(fd, 100)
    except BlockingIOError:
        return b""


victim.play(scenario)
