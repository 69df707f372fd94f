# SPDX-License-Identifier: GPL-2.0-only
"""Answers of netlink and sock_diag, recorded on Linux 6.18, and what is cut short."""

from __future__ import annotations

import struct

import pytest

from pycriu.kernel import netlink, sockdiag

PAIR = (
    "01020100b4000400150000000000000008000200b30004000c00040002000000000000000500060000000000"
    "0800070000000000"
)  # fmt: skip
LISTENING = (
    "01010a00b1000400160000000000000008000000737276000c00010071e920000000e00f08000300b2000400"
    "0c000400010000000300000005000600000000000800070000000000"
)
NOT_ACCEPTED = (
    "01010100b2000400180000000000000008000200000000000c00040000000000000300000500060000000000"
    "0800070000000000"
)  # fmt: skip
ABSTRACT = (
    "01020700b5000400190000000000000008000000006162630c00040000000000000000000500060000000000"
    "0800070000000000"
)  # fmt: skip
NETLINK = (
    "10030f078a4200000000000000000000b70004001b000000000000000c000100120000000000000028000000"
    "0000000040030000000000004003000000000000000000000000000000000000000000000800040002000000"
)
PACKET = (
    "11020008b90004001c000000000000001c000000010000000000000004000000000000000000000003000000"
    "0800050000000000300001000100000001000000000006000102030405060000000000000000000000000000"
    "0000000000000000000000002000020000100000020000000008000004000000000000000000000000000000"
    "0800040007000100280006000000000000400300000000000040030000000000000000000000000000000000"
    "00000000"
)
TCP_LISTENING = (
    "020a0000126700007f0000010000000000000000000000000000000000000000000000000000000000000000"
    "1d0000000000000000000000010000000700000000000000bb000400050008000000000008000f0000000000"
    "0c00150001000000000000000600160052000000"
)
TCP_CONNECTED = (
    "02010000cbcc12677f0000010000000000000000000000007f00000100000000000000000000000000000000"
    "1e0000000000000000000000000000000000000000000000bc000400050008000000000008000f0000000000"
    "0c00150001000000000000000600160052000000"
)


def test_a_pair_has_data_and_a_peer() -> None:
    one = sockdiag.parse_unix(bytes.fromhex(PAIR))
    assert (one.inode, one.peer, one.queued, one.name, one.pending) == (262324, 262323, 2, None, ())


def test_a_listening_socket_has_a_file_and_those_who_wait() -> None:
    one = sockdiag.parse_unix(bytes.fromhex(LISTENING))
    assert one.name == b"srv"
    assert one.file == (2156913, 0x0FE00000)
    assert (one.state, one.pending, one.queued, one.sent) == (sockdiag.LISTEN, (262322,), 1, 3)
    assert one.peer is None


def test_who_is_not_accepted_yet_has_a_peer_without_a_number() -> None:
    assert sockdiag.parse_unix(bytes.fromhex(NOT_ACCEPTED)).peer == 0


def test_an_abstract_name_keeps_its_zero() -> None:
    assert sockdiag.parse_unix(bytes.fromhex(ABSTRACT)).name == b"\0abc"


def test_a_netlink_socket_has_groups_and_flags() -> None:
    one = sockdiag.parse_netlink(bytes.fromhex(NETLINK))
    assert (one.protocol, one.port, one.groups, one.flags) == (15, 17034, (0x12, 0), sockdiag.PKTINFO)


def test_a_packet_socket_has_memberships_a_ring_and_a_fanout() -> None:
    one = sockdiag.parse_packet(bytes.fromhex(PACKET))
    assert (one.type, one.protocol, one.interface, one.reserve) == (2, 0x0800, 1, 4)
    assert one.memberships == ((1, 1, 0, b"\1\2\3\4\5\6"),)
    assert one.receive_ring == (4096, 2, 2048, 4, 0, 0, 0)
    assert one.fanout == 0x10007
    assert one.flags & sockdiag.AUXDATA


def test_a_listening_tcp_socket() -> None:
    one = sockdiag.parse_inet(bytes.fromhex(TCP_LISTENING), sockdiag.TCP)
    assert (one.state, one.source, one.source_port) == (sockdiag.LISTEN, b"\x7f\0\0\1", 4711)
    assert (one.queued, one.sent, one.inode) == (1, 7, 262331)


def test_a_connected_tcp_socket() -> None:
    one = sockdiag.parse_inet(bytes.fromhex(TCP_CONNECTED), sockdiag.TCP)
    assert (one.state, one.source_port, one.destination, one.destination_port) == (1, 52172, b"\x7f\0\0\1", 4711)


def test_a_raw_socket_says_its_own_protocol() -> None:
    icmp = bytes.fromhex(TCP_CONNECTED)[:72] + netlink.attribute(sockdiag.INET_DIAG_PROTOCOL, b"\x01")
    assert sockdiag.parse_inet(icmp, sockdiag.RAW).protocol == 1


def test_attributes_may_be_nested_repeated_or_cut_short() -> None:
    data = netlink.attribute(3 | 0x8000, b"abc") + netlink.attribute(3, b"de") + struct.pack("=HH", 40, 7) + b"x"
    assert netlink.attribute_list(data) == [(3, b"abc"), (3, b"de")]
    assert netlink.attributes(data) == {3: b"de"}
    assert netlink.attributes(struct.pack("=HH", 2, 1)) == {}


def test_messages_may_be_cut_short() -> None:
    two = netlink.message(20, 5, 9, b"abcde") + bytes(3) + netlink.message(3, 0, 9, b"")
    assert list(netlink.messages(two)) == [(20, 5, 9, b"abcde"), (3, 0, 9, b"")]
    assert list(netlink.messages(two[:20])) == []
    assert list(netlink.messages(bytes(16))) == []


@pytest.mark.parametrize(
    ("kind", "body", "errno"), [(2, b"\xfe\xff\xff\xff", 2), (3, bytes(4), 0), (20, b"\xff" * 4, 0)]
)
def test_errors_and_ends_carry_an_errno(kind: int, body: bytes, errno: int) -> None:
    assert netlink.error_of(kind, body) == errno


def test_this_very_kernel_is_understood() -> None:
    import os
    import socket

    left, right = socket.socketpair()
    with left, right:
        left.send(b"hello")
        all_of_them = sockdiag.unix()
        one = all_of_them[os.fstat(right.fileno()).st_ino]
        assert (one.peer, one.queued) == (os.fstat(left.fileno()).st_ino, 5)
