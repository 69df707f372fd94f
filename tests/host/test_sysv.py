# SPDX-License-Identifier: GPL-2.0-only
"""System V segments are the system's: what a restore does with one that is there, has gone, or is another by now."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.host.conftest import Host, Subject

SUBJECT = """
libc.shmat.restype = ctypes.c_void_p
libc.shmat.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
shmid = libc.shmget(%d, 8192, 0o1640)
assert shmid >= 0, ctypes.get_errno()
at = libc.shmat(shmid, None, 0)
ctypes.memmove(at, b"as it was", 9)
say(shmid)
pause_for_dump()
say(ctypes.string_at(at, 9))
"""


@pytest.fixture
def key() -> Iterator[int]:
    number = 0x60000000 | os.getpid()
    yield number
    subprocess.run(["ipcrm", "-M", str(number)], check=False, stderr=subprocess.DEVNULL)


def segments() -> dict[int, list[str]]:
    """shmid → the words of its line in /proc/sysvipc/shm."""
    with open("/proc/sysvipc/shm", encoding="ascii") as file:
        return {int(line.split()[1]): line.split() for line in file.readlines()[1:]}


def away(host: Host, key: int) -> tuple[Subject, int]:
    subject = host.python(SUBJECT % key)
    shmid = int(subject.said()[0])
    assert host.dump(subject).ok
    return subject, shmid


def test_gone_and_made_again(host: Host, key: int) -> None:
    subject, shmid = away(host, key)
    before = segments()[shmid]
    subprocess.run(["ipcrm", "-m", str(shmid)], check=True)
    restored = host.restore()
    assert restored.ok, restored
    after = segments()[shmid]
    assert [after[at] for at in (0, 1, 2, 3, 7, 8, 9, 10)] == [before[at] for at in (0, 1, 2, 3, 7, 8, 9, 10)]
    assert subject.go() == ["b'as it was'"]


def test_there_and_unused_gets_the_content_of_the_dump(host: Host, key: int) -> None:
    subject, shmid = away(host, key)
    write(shmid, b"different")
    assert host.restore().ok
    assert subject.go() == ["b'as it was'"]


def test_there_and_used_by_others_keeps_its_content(host: Host, key: int) -> None:
    subject, shmid = away(host, key)
    write(shmid, b"different", leave=True)
    try:
        assert host.restore().ok
        assert subject.go() == ["b'different'"]
    finally:
        detach()


def test_another_by_now(host: Host, key: int) -> None:
    _, shmid = away(host, key)
    subprocess.run(["ipcrm", "-m", str(shmid)], check=True)
    libc = ctypes.CDLL(None, use_errno=True)
    other = libc.shmget(key, 4096, 0o1600)
    refused = host.restore()
    assert not refused.ok
    assert "has come to another" in refused.errors(), refused
    assert shmid not in segments()
    libc.shmctl(other, 0, None)
    with open("/proc/sys/kernel/shm_next_id", "w", encoding="ascii") as file:
        file.write(str(shmid))
    assert libc.shmget(key, 4096, 0o1600) == shmid
    refused = host.restore()
    assert not refused.ok
    assert "is another by now" in refused.errors(), refused
    assert shmid in segments()


def test_a_restore_that_fails_leaves_no_segment(host: Host, key: int) -> None:
    subject, shmid = away(host, key)
    subprocess.run(["ipcrm", "-m", str(shmid)], check=True)
    pidfile = host.folder / "there"
    pidfile.touch()
    refused = host.restore("--pidfile", str(pidfile))
    assert not refused.ok
    assert shmid not in segments()
    pidfile.unlink()
    assert host.restore().ok
    assert subject.go() == ["b'as it was'"]


_attached: list[int] = []


def write(shmid: int, content: bytes, *, leave: bool = False) -> None:
    """Write to a segment, and stay attached if asked to."""
    libc = ctypes.CDLL(None)
    libc.shmat.restype = ctypes.c_void_p
    libc.shmat.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
    at = libc.shmat(shmid, None, 0)
    ctypes.memmove(at, content, len(content))
    _attached.append(at)
    if not leave:
        detach()


def detach() -> None:
    """Let go of what `write` has attached."""
    while _attached:
        ctypes.CDLL(None).shmdt(ctypes.c_void_p(_attached.pop()))
