# SPDX-License-Identifier: GPL-2.0-only
"""Persistent TAP devices stay where they are and are attached to again; a name that is taken is said beforehand."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.host.conftest import Host

TUNSETIFF, TUNSETPERSIST = 0x400454CA, 0x400454CB
TAP, NO_PI, NAME = 2, 0x1000, "pycriutap"

SUBJECT = f"""
fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
request = struct.pack("16sH22x", b"{NAME}", {TAP | NO_PI})
fcntl.ioctl(fd, {TUNSETIFF}, request)
PERSIST
pause_for_dump()
say(struct.unpack("16sH22x", fcntl.ioctl(fd, 0x800454d2, bytes(40)))[0].rstrip(bytes(1)).decode())
"""


def attach() -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", NAME.encode(), TAP | NO_PI))
    return fd


def exists() -> bool:
    return Path("/sys/class/net", NAME).exists()


@pytest.fixture(autouse=True)
def gone() -> Iterator[None]:
    """The device is removed, whatever has happened."""
    if not os.path.exists("/dev/net/tun"):
        pytest.skip("no /dev/net/tun")
    yield
    if exists():
        fd = attach()
        fcntl.ioctl(fd, TUNSETPERSIST, 0)
        os.close(fd)
    assert not exists()


def test_persistent_device_is_attached_to_again(host: Host) -> None:
    subject = host.python(SUBJECT.replace("PERSIST", f"fcntl.ioctl(fd, {TUNSETPERSIST}, 1)"))
    index = Path("/sys/class/net", NAME, "ifindex").read_text()
    host.round_trip(subject)
    assert Path("/sys/class/net", NAME, "ifindex").read_text() == index
    assert subject.go() == [NAME]
    assert exists()


def test_persistent_device_that_was_removed_is_made_again(host: Host) -> None:
    subject = host.python(SUBJECT.replace("PERSIST", f"fcntl.ioctl(fd, {TUNSETPERSIST}, 1)"))
    assert host.dump(subject).ok
    fd = attach()
    fcntl.ioctl(fd, TUNSETPERSIST, 0)
    os.close(fd)
    assert not exists()
    assert host.restore().ok
    assert subject.go() == [NAME]
    assert exists()


def test_name_that_is_taken(host: Host) -> None:
    subject = host.python(SUBJECT.replace("PERSIST", ""))
    assert host.dump(subject).ok
    fd = attach()
    outcome = host.restore()
    assert not outcome.ok
    assert NAME in outcome.errors()
    os.close(fd)
    assert host.restore().ok
    assert subject.go() == [NAME]
    assert not exists()
