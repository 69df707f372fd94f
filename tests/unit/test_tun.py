# SPDX-License-Identifier: GPL-2.0-only
"""TUN and TAP devices: what rtnetlink says of them, and images that say what cannot be."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import Any

import pytest

from pycriu.errors import ImageError, UserError
from pycriu.fds import tun
from pycriu.images import messages as m
from pycriu.kernel import netlink

# ifinfomsg and attributes of a TAP device with a hardware address, in a bridge
LINK = bytes.fromhex("00000100 07000000 02100000 00000000".replace(" ", "")) + b"".join(
    netlink.attribute(kind, value)
    for kind, value in (
        (tun.IFLA_IFNAME, b"vtap0\0"), (tun.IFLA_TXQLEN, b"\xe8\3\0\0"), (tun.IFLA_MTU, b"\x78\5\0\0"),
        (tun.IFLA_ADDRESS, b"\2\0\0\x12\x34\x56"), (tun.IFLA_MASTER, b"\3\0\0\0"),
    )
)  # fmt: skip
GOOD = {"flags": b"\1\x10\0\0", "sndbuf": bytes(4), "link": struct.pack("<iIII", 7, 1, 1500, 500)}


class Images:
    """The images directory of one image of notes."""

    def __init__(self, folder: Path, notes: dict[int, dict[str, bytes]]) -> None:
        self.path = folder / "image"
        lines = [f"{number} {key} {value.hex()}\n" for number, one in notes.items() for key, value in one.items()]
        self.path.write_text("".join(lines))

    def exists(self, name: str) -> bool:
        return name == "pycriu-tun.img"

    def raw(self, name: str) -> Any:
        return open(self.path, "rb", buffering=0)


def entry(name: str = "vic0") -> Any:
    return m.file_entry(type=15, id=1, tunf=m.tunfile_entry(id=1, netdev=name, ns_id=2))


def test_link_as_rtnetlink_lists_it() -> None:
    assert tun.parse_link(LINK) == tun.Link(7, 0x1002, "vtap0", 1400, 1000, b"\2\0\0\x12\x34\x56", 3)


def route(table: int, protocol: int, index: int) -> bytes:
    head = struct.pack("=8BI", socket.AF_INET, 24, 0, 0, table, protocol, 0, 1, 0)
    return head + netlink.attribute(1, b"\xcb\0\x71\0") + netlink.attribute(tun.RTA_OIF, index.to_bytes(4, "little"))


def test_routes_that_are_kept() -> None:
    assert tun._is_route(route(254, 4, 7), 7)
    assert not tun._is_route(route(254, 4, 8), 7)
    assert not tun._is_route(route(254, tun.RTPROT_KERNEL, 7), 7)
    assert not tun._is_route(route(tun.RT_TABLE_LOCAL, 4, 7), 7)


def test_routes_follow_the_index_of_the_device() -> None:
    rest = tun._without(route(254, 4, 7)[12:], {tun.RTA_OIF: b"\x09\0\0\0", 1: None})
    assert netlink.attribute_list(rest) == [(tun.RTA_OIF, b"\x09\0\0\0")]


@pytest.mark.parametrize(
    ("name", "notes", "words"),
    [
        ("vic0", {}, "too little is said"),
        ("vic0", {1: {"flags": b"\1"}}, "too little is said"),
        ("a" * 16, {1: GOOD}, "too little is said"),
        ("../x", {1: GOOD}, "too little is said"),
        ("vic0", {1: {"flags": b"\1\0\0\0"}}, "nothing is said"),
        ("vic0", {1: GOOD | {"link": b"short"}}, "wrong size"),
        ("vic0", {1: GOOD | {"owner": b"12345"}}, "wrong size"),
        ("vic0", {1: GOOD | {"routes": netlink.message(24, 0, 0, b"cut")}}, "cut short"),
    ],
)
def test_devices_that_cannot_be(tmp_path: Path, name: str, notes: dict[int, dict[str, bytes]], words: str) -> None:
    with pytest.raises(ImageError, match=words):
        tun.Tun(None, None).read(Images(tmp_path, notes), [entry(name)])  # type: ignore[arg-type]


def test_name_that_is_taken(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="network device lo already"):
        tun.Tun(None, None).read(Images(tmp_path, {1: GOOD}), [entry("lo")])  # type: ignore[arg-type]
