# SPDX-License-Identifier: GPL-2.0-only
"""Options of sockets: read, written, read again; notes and entries that say what they should not."""

from __future__ import annotations

import os
import socket
import struct
from typing import Any

import pytest

from pycriu.errors import ImageError
from pycriu.fds import sockets
from pycriu.fds.openfile import OpenFile
from pycriu.fds.refused import describe
from pycriu.images import messages as m
from pycriu.images import own
from tests.images import InMemory

ODD_NUMBERS = (
    struct.pack("=HBBI", 0x20, 0, 0, 4) + struct.pack("=HBBI", 0x15, 0, 1, 7) + struct.pack("=HBBI", 6, 0, 0, 9)
)
REST = struct.pack("=HBBI", 6, 0, 0, 0)


def test_options_come_back() -> None:
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as two,
    ):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 50000)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 5)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 3)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 7))
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("=qq", 3, 500000))
        one.setsockopt(socket.SOL_SOCKET, sockets.SO_PEEK_OFF, 4)
        one.setsockopt(socket.SOL_SOCKET, 29, 1)
        sockets.attach_filter(one.fileno(), ODD_NUMBERS + REST)
        entry, others = sockets.entry(one.fileno(), "one"), sockets.notes(one.fileno())
        assert (entry.so_sndbuf, entry.so_linger, entry.so_passcred, len(entry.so_filter)) == (100000, 7, True, 4)
        assert not entry.HasField("so_mark")
        sockets.check(entry, "one")
        sockets.check_notes(others, "one", {})
        sockets.restore(two.fileno(), entry)
        sockets.restore_reuse(two.fileno(), entry)
        sockets.restore_notes(two.fileno(), others)
        assert sockets.entry(two.fileno(), "two") == entry
        assert sockets.notes(two.fileno()) == others
        assert sockets.filter_of(two.fileno(), "two") == ODD_NUMBERS + REST


def test_the_filter_is_packed_as_criu_packs_it() -> None:
    with socket.socket() as one:
        sockets.attach_filter(one.fileno(), ODD_NUMBERS + REST)
        assert sockets.entry(one.fileno(), "one").so_filter[0] == 0x20 << 48 | 4


def test_a_descriptor_says_what_socket_it_is() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as one:
        found = sockets.about(OpenFile(os.getpid(), one.fileno()))
        assert found == sockets.About(socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_UDP)
        assert found.words == "IPv6 socket"
    assert sockets.about(OpenFile(os.getpid(), os.open("/dev/null", os.O_RDONLY))) is None
    assert sockets.About(2, 1, 262).words == "MPTCP socket"
    assert sockets.About(99, 1, 0).words == "family 99 socket"


def entry(**changes: object) -> m.sk_opts_entry:
    fields = {
        "so_sndbuf": 1, "so_rcvbuf": 1, "so_snd_tmo_sec": 0, "so_snd_tmo_usec": 0, "so_rcv_tmo_sec": 0,
        "so_rcv_tmo_usec": 0, **changes,
    }  # fmt: skip
    return m.sk_opts_entry(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "bad",
    [
        {"so_sndbuf": 1 << 31},
        {"so_linger": 1 << 31},
        {"so_rcv_tmo_usec": 1_000_000},
        {"so_snd_tmo_sec": 1 << 63},
        {"so_bound_dev": "a-name-that-is-too-long"},
        {"so_bound_dev": "a\0b"},
        {"so_filter": [0] * 4097},
    ],
)
def test_impossible_options_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ImageError):
        sockets.check(entry(**bad), "socket 7")


def test_a_note_is_as_long_as_its_option() -> None:
    with pytest.raises(ImageError, match="peek_off"):
        sockets.check_notes({"peek_off": bytes(5)}, "socket 7", {})
    sockets.check_notes({"owner": bytes(8), "where": b""}, "socket 7", {"owner": 8, "where": None})
    with pytest.raises(ImageError, match="owner is 7 bytes, not 8"):
        sockets.check_notes({"owner": bytes(7)}, "socket 7", {"owner": 8, "where": None})


IMAGE = "pycriu-sockets-unix.img"


def test_notes_are_read_as_written() -> None:
    notes = {7: {"a": b"\1\2", "b": b""}, 8: {"a": b"\xff"}}
    images = InMemory({IMAGE: own.socket_entries(notes | {9: {}})})
    assert own.socket_notes(images, IMAGE, {"a", "b"}) == notes
    assert own.socket_notes(InMemory(), IMAGE, {"a"}) == {}


def _entry(*names: str, number: int = 7) -> Any:
    return m.pycriu_socket_entry(id=number, option=[m.pycriu_option(name=name, value=b"\1") for name in names])


@pytest.mark.parametrize("bad", [[_entry("c")], [_entry("a", "a")], [_entry("a"), _entry("b")]])
def test_notes_that_say_what_they_should_not(bad: list[Any]) -> None:
    with pytest.raises(ImageError, match=f"^{IMAGE}: of 7"):
        own.socket_notes(InMemory({IMAGE: bad}), IMAGE, {"a", "b"})


def test_a_socket_that_nobody_knows_is_named() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as one:
        assert describe(OpenFile(os.getpid(), one.fileno()))[0] == "a UNIX socket"
