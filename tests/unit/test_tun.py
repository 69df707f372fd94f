# SPDX-License-Identifier: GPL-2.0-only
"""TUN and TAP devices: what rtnetlink says of them, and images that say what cannot be."""

from __future__ import annotations

import socket
import struct
from typing import Any

import pytest

from pycriu.errors import ImageError, UserError
from pycriu.fds import tun
from pycriu.images import messages as m
from pycriu.kernel import netlink
from tests.images import InMemory

# ifinfomsg and attributes of a TAP device with a hardware address, in a bridge
LINK = bytes.fromhex("00000100 07000000 02100000 00000000".replace(" ", "")) + b"".join(
    netlink.attribute(kind, value)
    for kind, value in (
        (tun.IFLA_IFNAME, b"vtap0\0"), (tun.IFLA_TXQLEN, b"\xe8\3\0\0"), (tun.IFLA_MTU, b"\x78\5\0\0"),
        (tun.IFLA_ADDRESS, b"\2\0\0\x12\x34\x56"), (tun.IFLA_MASTER, b"\3\0\0\0"),
    )
)  # fmt: skip
DEVICE: dict[str, Any] = {"index": 7, "flags": 1, "mtu": 1500, "queue": 500, "sndbuf": 0}


def queue(number: int = 1, **device: Any) -> Any:
    return m.pycriu_tun_entry(id=number, flags=0x1001, device=m.pycriu_tun_device(**DEVICE | device))


def images(own: list[Any]) -> InMemory:
    return InMemory({"pycriu-tun.img": own})


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
    ("name", "own", "words"),
    [
        ("vic0", [], "too little is said"),
        ("vic0", [queue(2)], "too little is said"),
        ("a" * 16, [queue()], "too little is said"),
        ("../x", [queue()], "too little is said"),
        ("vic0", [m.pycriu_tun_entry(id=1, flags=1)], "nothing is said"),
        ("vic0", [queue(index=1 << 31)], "impossible index"),
        ("vic0", [queue(master="a\0b")], "impossible index or master"),
        ("vic0", [queue(routes=[b"cut"])], "cut short"),
        ("vic0", [queue(addresses=[b"cut"])], "cut short"),
    ],
)
def test_devices_that_cannot_be(name: str, own: list[Any], words: str) -> None:
    with pytest.raises(ImageError, match=words):
        tun.Tun(None, None).read(images(own), [entry(name)])  # type: ignore[arg-type]


def test_name_that_is_taken() -> None:
    with pytest.raises(UserError, match="network device lo already"):
        tun.Tun(None, None).read(images([queue()]), [entry("lo")])  # type: ignore[arg-type]
