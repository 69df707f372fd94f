# SPDX-License-Identifier: GPL-2.0-only
"""Netlink and packet sockets: what they are made of, and images that lie. How their lists are read: test_sockdiag."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path
from typing import Any

import pytest

from pycriu.errors import ImageError, PycriuError, UserError
from pycriu.fds import netlink, packet
from pycriu.images import messages as m
from pycriu.images import own
from pycriu.images.store import ImagesDir, NewCheckpoint
from pycriu.log import Log

OPTS: dict[str, Any] = dict.fromkeys(
    ("so_sndbuf", "so_rcvbuf", "so_snd_tmo_sec", "so_snd_tmo_usec", "so_rcv_tmo_sec", "so_rcv_tmo_usec"), 0
)
NOBODY: dict[str, Any] = dict.fromkeys(("uid", "euid", "signum", "pid_type", "pid"), 0)


def netlink_entry(**changes: Any) -> m.file_entry:
    fields = {"ino": 1, "protocol": 2, "state": 7, "flags": 2, "portid": 0, "dst_portid": 0, "dst_group": 0, **changes}
    made = m.netlink_sk_entry(id=5, fown=m.fown_entry(**NOBODY), opts=m.sk_opts_entry(**OPTS), **fields)
    return m.file_entry(type=13, id=5, nlsk=made)


def packet_entry(**changes: Any) -> m.file_entry:
    fields = {
        "type": 3, "protocol": 8, "flags": 2, "ifindex": 1, "version": 0, "reserve": 0, "aux_data": False,
        "orig_dev": False, "vnet_hdr": False, "loss": False, "timestamp": 0, "copy_thresh": 0, **changes,
    }  # fmt: skip
    made = m.packet_sock_entry(id=5, fown=m.fown_entry(**NOBODY), opts=m.sk_opts_entry(**OPTS), **fields)
    return m.file_entry(type=10, id=5, psk=made)


def read(kind: Any, image: str, entry: Any, notes: dict[str, bytes], folder: Path) -> Any:
    with NewCheckpoint(str(folder)) as new:
        new.write_any(image, own.socket_entries({5: notes}))
        new.write("inventory.img", [m.inventory_entry(img_version=2)])
        new.commit()
    made = kind(None, Log())
    with ImagesDir(str(folder)) as images:
        made.read(images, [entry])
    return made


@pytest.mark.parametrize("bad", [{"dst_group": 33}, {"groups": [0] * 5000}])
def test_impossible_netlink_sockets_are_refused(tmp_path: Path, bad: dict[str, Any]) -> None:
    with pytest.raises(ImageError):
        read(netlink.Netlink, netlink.NOTES_IMAGE, netlink_entry(**bad), {}, tmp_path)


@pytest.mark.parametrize("bad", [{"cap_ack": b"\1"}, {"unheard": b"\1\0\0\0"}, {"type": b"\5\0\0\0"}])
def test_impossible_netlink_notes_are_refused(tmp_path: Path, bad: dict[str, bytes]) -> None:
    with pytest.raises(ImageError):
        read(netlink.Netlink, netlink.NOTES_IMAGE, netlink_entry(), bad, tmp_path).open(netlink_entry(), None)


@pytest.mark.parametrize(
    "bad",
    [
        {"type": 1},
        {"protocol": 1 << 16},
        {"version": 3},
        {"ifindex": 1 << 31},
        {"mclist": [m.packet_mclist(index=1, type=0, addr=bytes(33))]},
        {"mclist": [m.packet_mclist(index=1 << 31, type=0, addr=b"")]},
        {"rx_ring": m.packet_ring(
            block_size=1 << 20, block_nr=1 << 20, frame_size=1, frame_nr=1, retire_tmo=0, sizeof_priv=0, features=0
        )},
    ],
)  # fmt: skip
def test_impossible_packet_sockets_are_refused(tmp_path: Path, bad: dict[str, Any]) -> None:
    with pytest.raises(ImageError):
        read(packet.Packet, packet.NOTES_IMAGE, packet_entry(**bad), {}, tmp_path)


def test_a_port_in_use_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 2) as other:
        other.bind((0, 0))
        entry = netlink_entry(portid=other.getsockname()[0])
        with pytest.raises(UserError, match="in use by another socket"):
            read(netlink.Netlink, netlink.NOTES_IMAGE, entry, {}, tmp_path).open(entry, None)


def test_an_interface_that_is_not_there_is_told(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("packet sockets are for root")
    entry = packet_entry(ifindex=123456)
    with pytest.raises(PycriuError, match=r"network interface 123456|socket"):
        read(packet.Packet, packet.NOTES_IMAGE, entry, {}, tmp_path).open(entry, None)


def test_a_netlink_socket_has_its_port_and_groups(tmp_path: Path) -> None:
    entry = netlink_entry(portid=0x7ABCDEF1, groups=[0b101])
    fd = read(netlink.Netlink, netlink.NOTES_IMAGE, entry, {}, tmp_path).open(entry, None)
    with socket.socket(fileno=fd) as one:
        assert one.getsockname() == (0x7ABCDEF1, 0b101)


def test_protocols_are_in_the_order_of_networks() -> None:
    assert struct.pack("=H", packet._swapped(0x0800)) == b"\x08\x00"
