# SPDX-License-Identifier: GPL-2.0-only
"""The common half of every victim: say READY, wait for the word, judge, say PASS or FAIL. See README.md.

It polls with short sleeps, so a victim is mostly dumped inside clock_nanosleep(2); victims that must be caught
elsewhere keep children there.
"""

import contextlib
import fcntl
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

Damage = Callable[[], object]
Scenario = Callable[[], Iterator[Damage]]

SHOWN = 300  # characters of a value in a message
PATIENCE = 600.0  # seconds until a forgotten victim ends by itself
_children: list[int] = []
_outsiders: list[int] = []


class Skipped(Exception):
    """The surroundings lack what it would hold."""


class Failed(Exception):
    """The state is not what it was."""


def skip(reason: str) -> NoReturn:
    """Say that this cannot be tried here, and why; only before READY."""
    raise Skipped(reason)


def undo_by(command: str) -> None:
    """Have whoever runs us take back what we have changed of the machine, when we are gone: a line for sh(1)."""
    with open("undo", "a", encoding="utf-8") as undo:
        undo.write(command + "\n")


def check(right: bool, why: str) -> None:
    """Fail with `why` unless `right`."""
    if not right:
        raise Failed(why)


def equal(now: object, before: object, what: str) -> None:
    """Fail unless `what` is as it was."""
    check(now == before, f"{what}: {shortened(now)}, was {shortened(before)}")


def shortened(value: object) -> str:
    """A value as an error message can bear it."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} … ({len(text)} characters)"


def play(scenario: Scenario) -> None:
    """Run a scenario by the protocol and end the process."""
    status = 1
    try:
        _act(scenario())
        print("PASS", flush=True)
        status = 0
    except Skipped as reason:
        print(f"SKIP {reason}", flush=True)
        status = 0
    except Failed as error:
        print(f"FAIL {error}", flush=True)
    except OSError as error:
        print(f"FAIL unexpected: {error}", flush=True)
    finally:
        _end_children()
    sys.exit(status)


def _act(acts: Iterator[Damage]) -> None:
    damage = next(acts)
    print("READY", flush=True)
    await_file("go")
    if os.path.exists("spoil"):
        damage()
    for _ in acts:
        raise AssertionError("a scenario yields once")


def await_file(name: str) -> None:
    """Return when the file is there."""
    wait_until(lambda: os.path.exists(name), f"file {name}", PATIENCE)


def wait_until(ready: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Return when `ready()`; fail when that takes too long."""
    end = time.monotonic() + seconds
    while not ready():
        check(time.monotonic() < end, f"{what}: not within {seconds:.0f} s")
        time.sleep(0.02)


def child(work: Callable[[], object]) -> int:
    """Fork a child that does `work`; its status is 0, or 1 when the work fails. It is gone when the victim ends."""
    pid = os.fork()
    if pid:
        _children.append(pid)
        return pid
    status = 1
    try:
        _children.clear()
        _outsiders.clear()
        work()
        status = 0
    except (Failed, OSError) as error:
        print(f"child {os.getpid()}: {error}", flush=True)
    finally:
        _end_children()
        os._exit(status)


def outsider(work: Callable[[], object]) -> int:
    """Start a process that is not below the victim and so is not dumped with it: a peer. Its PID.

    It ends when the victim does. What it prints goes to the log and decides nothing: let it tell the victim over
    whatever connects them.
    """
    heard, tell = os.pipe()
    middle = os.fork()
    if not middle:
        peer = os.fork()
        if peer:
            os.write(tell, peer.to_bytes(4, "little"))
            os._exit(0)
        _outside(work, heard, tell)
    os.close(tell)
    os.waitpid(middle, 0)
    pid = int.from_bytes(os.read(heard, 4), "little")
    os.close(heard)
    _outsiders.append(pid)
    return pid


def _outside(work: Callable[[], object], *fds: int) -> None:
    status = 1
    try:
        os.setsid()
        for fd in fds:
            os.close(fd)
        signal.alarm(int(PATIENCE))
        work()
        status = 0
    except (Failed, OSError) as error:
        print(f"outsider {os.getpid()}: {error}", flush=True)
    finally:
        os._exit(status)


def join(pid: int, what: str) -> None:
    """Wait for a child; fail unless it exited with 0."""
    _, status = os.waitpid(pid, 0)
    _children.remove(pid)
    equal(os.waitstatus_to_exitcode(status), 0, f"{what}: its exit status")


def forget(pid: int) -> None:
    """A child was waited for by other means."""
    _children.remove(pid)


def need_loopback() -> None:
    """Let the interface lo be up: where nobody has configured the network it is not."""
    get_flags, set_flags, up = 0x8913, 0x8914, 1  # SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack_from("16xH", fcntl.ioctl(sock, get_flags, request))[0]
        if not flags & up:
            try:
                fcntl.ioctl(sock, set_flags, struct.pack("16sH14x", b"lo", flags | up))
            except PermissionError:
                skip("the interface lo is down")


def connected(address: tuple[object, ...]) -> socket.socket:
    """A TCP connection to a numeric address; socket.create_connection wants codecs that a small Python has not."""
    sock = socket.socket(socket.AF_INET6 if ":" in str(address[0]) else socket.AF_INET)
    sock.connect(address[:2])
    return sock


def dies(work: Callable[[], object]) -> int:
    """The signal that a child dies of when it does that; 0: none."""
    import ctypes

    pid = os.fork()
    if not pid:
        ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # no core dump
        work()
        os._exit(0)
    return os.waitpid(pid, 0)[1] & 0x7F


def call(number: int, *args: object) -> int:
    """A system call by number; OSError where it fails."""
    import ctypes

    result: int = ctypes.CDLL(None, use_errno=True).syscall(number, *args)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"system call {number}: {os.strerror(ctypes.get_errno())}")
    return result


def unread(fd: int) -> int:
    """Bytes that can be read."""
    import termios

    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)


def sleeping(pid: int) -> bool:
    """Whether a process sleeps in the kernel (and so has arrived in its system call)."""
    with open(f"/proc/{pid}/stat", "rb") as stat:
        return stat.read().rpartition(b") ")[2][:1] == b"S"


def status_lines(*names: str, pid: str = "self") -> list[str]:
    """Those lines of /proc/PID/status."""
    with open(f"/proc/{pid}/status", encoding="utf-8") as status:
        return [line.strip() for line in status if line.partition(":")[0] in names]


def _end_children() -> None:
    for pid in _children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    _children.clear()
    for pid in _outsiders:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    _outsiders.clear()
