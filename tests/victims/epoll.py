# SPDX-License-Identifier: GPL-2.0-only
"""Sets of watches: level, edge, one-shot (armed and disarmed) and exclusive ones, their data, watches of closed and of
reused numbers, nested sets, a set that two processes fill from different tables, and one that is being waited for.

Missing: an edge is told once more; a disarmed one-shot watch may still tell of errors and of the end of the other side.
"""

import ctypes
import os
import select
import signal
import struct
from collections.abc import Iterator

import victim

ADD = 1
IN, OUT, ET, ONESHOT, EXCLUSIVE = (
    select.EPOLLIN, select.EPOLLOUT, select.EPOLLET, 1 << 30, 1 << 28,
)  # fmt: skip
EVENT = struct.Struct("=IQ" if os.uname().machine == "x86_64" else "=IxxxxQ")
WANTED = signal.SIGRTMIN + 1
libc = ctypes.CDLL(None, use_errno=True)


def scenario() -> Iterator[victim.Damage]:
    many, inner, outer = make(), make(), make()
    of, checks = watch_many(many)
    inside = os.eventfd(0, os.EFD_NONBLOCK)
    watch(inner, inside, IN, 11)
    watch(outer, inner, IN, 12)
    signals = read_signals(many)
    go_r, go_w = os.pipe()
    heard_r, heard_w = os.pipe()
    waiting = victim.child(lambda: wait_and_tell(outer, inner, inside, heard_w))
    filling = victim.child(lambda: fill(many, go_r, heard_w))
    victim.equal(os.read(heard_r, 2), b"ok", "what the child that fills says")
    victim.wait_until(lambda: victim.sleeping(waiting), "the child waits for events")
    before = {fd: watches(fd) for fd in (many, inner, outer)}
    yield lambda: libc.epoll_ctl(many, 2, of["edge"], None)
    for fd, lines in before.items():
        victim.equal(watches(fd), lines, "the watches")
    victim.equal(wait(many), [(IN, 0xFEDCBA9876543210)], "what is there at once")
    victim.equal(os.read(of["reader"], 100), b"in the pipe", "the pipe")
    for name, events in checks.items():
        os.eventfd_write(of[name], 1)
        victim.equal(wait(many), events, f"the events of the counter {name}")
        again = [] if name in ("edge", "armed") else events
        victim.equal(wait(many), again, f"the events of the counter {name}, again")
        os.eventfd_read(of[name])
    os.write(of["held"], b"y")
    victim.equal(wait(many), [], "events of the watch that is disarmed")
    os.kill(os.getpid(), WANTED)
    victim.equal(wait(many), [(IN, 13)], "the event of a signal")
    os.read(signals, 128)
    os.write(go_w, b"!")
    victim.equal(os.read(heard_r, 2), b"ok", "what the child that fills says")
    victim.equal(wait(many), [(IN, 14)], "the event of a counter that only the child has")
    os.write(go_w, b"!")
    os.eventfd_write(inside, 1)
    victim.equal(os.read(heard_r, 2), b"12", "what the child that waits says")
    for child in (waiting, filling):
        victim.join(child, "a child")


def watch_many(many: int) -> tuple[dict[str, int], dict[str, list[tuple[int, int]]]]:
    """Descriptors by name, and the events that each counter makes."""
    names = ("level", "edge", "armed", "disarmed", "exclusive", "closed", "reused")
    of = {name: os.eventfd(0, os.EFD_NONBLOCK) for name in names}
    of["reader"], writer = os.pipe()
    of["silent"], of["held"] = os.pipe()
    watch(many, of["reader"], IN, 0xFEDCBA9876543210)
    watch(many, of["level"], IN, 2)
    watch(many, of["edge"], IN | ET, 3)
    watch(many, of["armed"], IN | ONESHOT, 4)
    watch(many, of["disarmed"], IN | ONESHOT, 5)
    watch(many, of["silent"], IN | ONESHOT, 6)
    os.eventfd_write(of["disarmed"], 1)
    os.write(of["held"], b"x")
    victim.equal(wait(many), [(IN, 5), (IN, 6)], "the watches that are disarmed now")
    os.read(of["silent"], 1)
    watch(many, of["exclusive"], IN | EXCLUSIVE, 7)
    kept = os.dup(of["closed"])
    watch(many, of["closed"], IN, 8)
    os.close(of["closed"])
    of["closed"] = kept
    elsewhere = os.dup(of["reused"])
    watch(many, of["reused"], IN, 9)
    os.dup2(of["level"], of["reused"])
    watch(many, of["reused"], IN, 10)
    of["reused"] = elsewhere
    os.write(writer, b"in the pipe")
    checks = {
        "level": [2, 10],
        "edge": [3],
        "armed": [4],
        "disarmed": [],
        "exclusive": [7],
        "closed": [8],
        "reused": [9],
    }
    return of, {name: [(IN, data) for data in found] for name, found in checks.items()}


def wait_and_tell(outer: int, inner: int, inside: int, tell: int) -> None:
    """Block in epoll_pwait until something happens in the nested set."""
    victim.equal(wait(outer, -1), [(IN, 12)], "the events of the outer set")
    victim.equal(wait(inner), [(IN, 11)], "the events of the inner set")
    os.eventfd_read(inside)
    os.write(tell, b"12")


def fill(many: int, go: int, tell: int) -> None:
    """Watch a counter that the parent does not have, then count."""
    mine = os.eventfd(0)
    watch(many, mine, IN, 14)
    os.write(tell, b"ok")
    os.read(go, 1)
    os.eventfd_write(mine, 1)
    os.write(tell, b"ok")
    os.read(go, 1)


def read_signals(many: int) -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, {WANTED})
    fd = libc.signalfd(-1, struct.pack("=Q", 1 << WANTED - 1), os.O_NONBLOCK)
    watch(many, fd, IN, 13)
    return fd


def make() -> int:
    return libc.epoll_create1(0)


def watch(fd: int, target: int, events: int, data: int) -> None:
    event = ctypes.create_string_buffer(EVENT.pack(events & 0xFFFFFFFF, data))
    victim.equal(libc.epoll_ctl(fd, ADD, target, event), 0, f"epoll_ctl({target})")


def wait(fd: int, milliseconds: int = 0) -> list[tuple[int, int]]:
    """Events and data of all that are ready, by data."""
    room = ctypes.create_string_buffer(EVENT.size * 20)
    count = libc.epoll_wait(fd, room, 20, milliseconds)
    victim.check(count >= 0, f"epoll_wait: {os.strerror(ctypes.get_errno())}")
    return sorted(EVENT.iter_unpack(room.raw[: count * EVENT.size]), key=lambda event: event[1])


def watches(fd: int) -> list[tuple[int, int, str]]:
    """Number, events and data of every watch, in an order that does not depend on addresses in the kernel.

    EPOLLERR and EPOLLHUP do not count: nobody can leave them out, and only the kernel takes them away.
    """
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as info:
        lines = [line.split() for line in info if line.startswith("tfd:")]
    return sorted((int(line[1]), int(line[3], 16) & ~(select.EPOLLERR | select.EPOLLHUP), line[5]) for line in lines)


victim.play(scenario)
