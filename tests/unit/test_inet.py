# SPDX-License-Identifier: GPL-2.0-only
"""Sockets of IPv4 and IPv6: what the kernel says, parsed; what images say, checked; rules and packets by the byte."""

from __future__ import annotations

import _socket
import struct
from typing import Any

import pytest

from pycriu.errors import ImageError, PycriuError
from pycriu.fds import sockets
from pycriu.fds.inet import connections, datagrams, endpoints, locks, settings, states
from pycriu.fds.inet import kind as inet
from pycriu.images import messages as m
from pycriu.images import own
from pycriu.kernel import netlink, nftables, segment, tcp
from pycriu.log import Log
from pycriu.options import RestoreOptions
from tests.images import InMemory

TCP4 = sockets.About(2, _socket.SOCK_STREAM, 6)

# getsockopt(TCP_INFO) of an established connection with window scales 7 and 10, and of a listening socket (Linux 6.18)
ESTABLISHED = bytes.fromhex("010000000007a700404b0300409c0000d8830000180200000000000000000000")
LISTENING = bytes.fromhex("0a0000000000000040420f000000000018020000000000000300000080000000")

IGMP = """Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter
1\tlo        :     2      V3
\t\t\t\t0301EFEF     1 0:00000000\t\t0
\t\t\t\t010000E0     1 0:00000000\t\t0
4\teth0      :     1      V3
\t\t\t\t010000E0     1 0:00000000\t\t0
"""
IGMP6 = "1    lo              ff020000000000000000000000001234     1 00000004 0\n"
RAW = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
 253: 0100007F:00FD 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 51234 2 00000000a0b0c0d0 0
 253: 0100007F:00FD 0200007F:0000 01 00000000:00000000 00:00000000 00000000     0        0 51235 2 00000000a0b0c0d1 0
"""  # noqa: E501 - as the kernel has it
RAW6 = """  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
 253: 00000000000000000000000001000000:00FD 000080FE000000000000000002000000:0000 01 00000000:00000000 00:00000000 00000000     0        0 77 2 0000000000000000 0
"""  # noqa: E501 - as the kernel has it


def test_state_options_and_scales() -> None:
    info = tcp.parse_info(ESTABLISHED)
    assert (info.state, info.options, info.send_scale, info.receive_scale) == (tcp.ESTABLISHED, 7, 7, 10)


def test_queue_and_backlog_of_a_listener() -> None:
    info = tcp.parse_info(LISTENING)
    assert (info.state, info.waiting, info.backlog) == (tcp.LISTEN, 3, 128)


def test_short_answers_of_old_kernels() -> None:
    assert tcp.parse_info(b"\x07").backlog == 0


def test_groups_of_interfaces() -> None:
    assert settings.parse_igmp(IGMP) == [
        (1, bytes([0xEF, 0xEF, 1, 3])), (1, bytes([224, 0, 0, 1])), (4, bytes([224, 0, 0, 1])),
    ]  # fmt: skip
    assert settings.parse_igmp6(IGMP6) == [(1, bytes.fromhex("ff020000000000000000000000001234"))]


def test_peers_of_raw_sockets() -> None:
    assert states.parse_proc(RAW, 2) == {51235: ("127.0.0.2", 0)}
    assert states.parse_proc(RAW6, 10) == {77: ("fe80::2", 0)}


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "fe80::1:2"])
def test_addresses_there_and_back(address: str) -> None:
    family = 10 if ":" in address else 2
    words = endpoints.words(address, family)
    entry = m.inet_sk_entry(family=family, src_addr=words)
    assert endpoints.address(entry, entry.src_addr, 80)[:2] == (address, 80)


def test_words_are_bytes_in_network_order() -> None:
    assert endpoints.words("127.0.0.1", 2) == [0x0100007F]


def test_mapped_address_is_one_of_ipv4() -> None:
    assert endpoints.packed("::ffff:10.1.2.3") == bytes([10, 1, 2, 3])


def test_checksum_of_a_segment() -> None:
    data = segment.segment(b"\x7f\0\0\1", b"\x7f\0\0\2", (80, 40000), (1, 2), segment.FIN | segment.ACK, 70000)
    pseudo = b"\x7f\0\0\1\x7f\0\0\2" + struct.pack(">BBH", 0, 6, len(data))
    assert segment.checksum(pseudo + data) == 0
    assert struct.unpack_from(">HHIIBBH", data) == (80, 40000, 1, 2, 0x50, 0x11, 0xFFFF)


def test_udp_and_udplite_differ_in_the_length() -> None:
    ends = bytes(15) + b"\1", bytes(15) + b"\2"
    lengths = [segment.datagram(*ends, (1, 2), b"four", protocol)[4:6] for protocol in (17, 136)]
    assert lengths == [b"\0\x0c", b"\0\0"]


def test_each_connection_is_held_both_ways() -> None:
    one = nftables.Connection(bytes([1, 2, 3, 4]), 80, bytes([5, 6, 7, 8]), 443)
    there, back = nftables._keys(one)
    assert there == bytes([1, 2, 3, 4, 5, 6, 7, 8, 0, 80, 0, 0, 1, 0xBB, 0, 0])
    assert back == there[4:8] + there[:4] + there[12:] + there[8:12]


def test_rules_are_lists_of_named_expressions() -> None:
    for version in nftables._VERSIONS:
        listed = netlink.attribute_list(nftables._expressions(version, 1))
        names = [netlink.attributes(value)[1].rstrip(b"\0").decode() for _, value in listed]
        assert names == ["meta", "cmp"] * 3 + ["payload"] * 4 + ["lookup", "immediate"]


def test_datagrams_there_and_back() -> None:
    some = [datagrams.Datagram(bytes([127, 0, 0, 1]), 9, b"abc"), datagrams.Datagram(bytes(15) + b"\1", 10, b"")]
    assert datagrams.parse(datagrams.pack(some), "x") == some


@pytest.mark.parametrize("note", [b"short", bytes(24), struct.pack("=16sBHI", b"", 4, 1, 9) + b"few"])
def test_damaged_datagrams(note: bytes) -> None:
    with pytest.raises(ImageError):
        datagrams.parse(note, "the socket 1")


def options_entry() -> Any:
    return m.sk_opts_entry(
        so_sndbuf=1, so_rcvbuf=1, so_snd_tmo_sec=0, so_snd_tmo_usec=0, so_rcv_tmo_sec=0, so_rcv_tmo_usec=0
    )


def entry(**changes: Any) -> Any:
    values: dict[str, Any] = {
        "id": 1, "ino": 2, "family": 2, "type": 1, "proto": 6, "state": 7, "src_port": 0, "dst_port": 0, "flags": 2,
        "backlog": 0, "src_addr": [0], "dst_addr": [0], "opts": options_entry(),
        "fown": m.fown_entry(uid=0, euid=0, signum=0, pid_type=0, pid=0),
    }  # fmt: skip
    return m.inet_sk_entry(**(values | changes))


def images(stream: tuple[Any, bytes] | None = None, number: int = 0, **notes: bytes) -> InMemory:
    """One tcp-stream image, and what is noted of a socket."""
    found: dict[str, Any] = {"tcp-stream-2.img": [stream]} if stream else {}
    found["inventory.img"] = [m.inventory_entry(img_version=2, network_lock_method=locks.SKIP)]
    return InMemory(found | {"pycriu-sockets-inet.img": own.socket_entries({number: notes})})


def read(isk: Any, made: InMemory, **options: bool) -> inet.Inet:
    kind = inet.Inet(RestoreOptions(images_dir="/", work_dir="/", **options), Log(1, 2))
    kind.read(made, [m.file_entry(type=4, id=1, isk=isk)])  # type: ignore[arg-type]
    return kind


HOSTILE = {
    "family": {"family": 1}, "type": {"type": 9}, "protocol": {"proto": 132}, "addresses": {"src_addr": [1, 2]},
    "no address": {"src_addr": []}, "peer": {"dst_addr": [1, 2, 3]}, "port": {"src_port": 70000},
    "peer's port": {"dst_port": 1 << 31}, "state": {"state": 77}, "half open": {"state": tcp.SYN_RECV},
    "nobody's": {"state": tcp.TIME_WAIT}, "raw protocol": {"type": 3, "proto": 300},
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_entries(what: str) -> None:
    with pytest.raises(ImageError):
        read(entry(**HOSTILE[what]), images())


def stream(**changes: int) -> Any:
    values = {
        "inq_len": 3, "inq_seq": 10, "outq_len": 2, "outq_seq": 20, "opt_mask": 7, "snd_wscale": 7, "mss_clamp": 1460,
        "rcv_wscale": 7, "timestamp": 5, "unsq_len": 1, "snd_wl1": 1, "snd_wnd": 2, "max_window": 3, "rcv_wnd": 4,
        "rcv_wup": 5,
    }  # fmt: skip
    return m.tcp_stream_entry(**(values | changes))


def test_stream_is_cut_where_its_lengths_say() -> None:
    kind = read(entry(state=1), images((stream(), b"abcde")), tcp_established=True)
    found = kind._streams[2]
    assert (found.received, found.sent, found.unsent, found.window) == (b"abc", b"de", 1, tcp.Window(1, 2, 3, 4, 5))


@pytest.mark.parametrize("changes", [{"unsq_len": 3}, {"snd_wscale": 15}, {"rcv_wscale": 200}])
def test_hostile_streams(changes: dict[str, int]) -> None:
    with pytest.raises(ImageError):
        read(entry(state=1), images((stream(**changes), b"abcde")), tcp_established=True)


def test_stream_image_without_an_entry() -> None:
    with pytest.raises(ImageError):
        read(entry(state=1), images(), tcp_established=True)


def test_connection_needs_an_option() -> None:
    with pytest.raises(PycriuError, match="TCP connections"):
        read(entry(state=1), images((stream(), b"abcde")))


HOSTILE_NOTES: tuple[tuple[int, dict[str, bytes]], ...] = (
    (0, {"table": b"filter\n"}), (0, {"table": b"CRIU-1-..\n"}), (2, {"nonsense": b"\0"}), (2, {"ip_ttl": bytes(5)}),
    (2, {"groups": b"\0"}), (2, {"udp_cork": b"\1\0\0\0"}),
)  # fmt: skip


@pytest.mark.parametrize("note", HOSTILE_NOTES)
def test_hostile_notes(note: tuple[int, dict[str, bytes]]) -> None:
    """Tables that are not ours, options that no such socket has, values that are too long."""
    with pytest.raises(ImageError):
        read(entry(), images(None, *note[:1], **note[1]))


def test_table_of_ours() -> None:
    run_id = locks.fresh_id(4_194_303)
    for number in (0, 1):
        name = locks.table(run_id, number)
        assert locks.table_of(name.encode()) == name
    assert len(f"inet {locks.table(run_id, 0)}") < 32, "CRIU before 4.2 has no room for more"


def foreign(**inventory: Any) -> locks.Foreign:
    """CRIU's locks by the words of its inventory."""
    made = {"inventory.img": [m.inventory_entry(img_version=2, **inventory)], "pstree.img": [PROCESS]}
    return locks.Foreign(InMemory(made), Log(1, 2))  # type: ignore[arg-type]


PROCESS = m.pstree_entry(pid=812, ppid=0, pgid=812, sid=812, threads=[812])
UUID = "01234567-89ab-cdef-0123-456789abcdef"


def test_tables_of_criu() -> None:
    assert foreign(network_lock_method=locks.NFTABLES).tables == ["CRIU-812"]
    made = foreign(network_lock_method=locks.NFTABLES, dump_criu_run_id=UUID)
    assert made.tables == [f"CRIU-{UUID}", "CRIU-01234567-89ab-cdef-01"]
    assert foreign(network_lock_method=locks.SKIP, dump_criu_run_id=UUID).tables == []
    assert foreign().method == locks.IPTABLES
    for hostile in ("x;y", "1" * 37, "filter x"):
        with pytest.raises(ImageError):
            foreign(network_lock_method=locks.NFTABLES, dump_criu_run_id=hostile)


def test_rules_of_criu() -> None:
    ends = endpoints.connection(("10.0.0.1", 80), ("10.0.0.2", 4000))
    assert [" ".join(rule) for rule in locks.rules(ends)] == [
        "INPUT --protocol tcp -m mark ! --mark 0xc114 --source 10.0.0.2 --sport 4000 "
        "--destination 10.0.0.1 --dport 80 -j DROP",
        "OUTPUT --protocol tcp -m mark ! --mark 0xc114 --source 10.0.0.1 --sport 80 "
        "--destination 10.0.0.2 --dport 4000 -j DROP",
    ]


def test_connections_that_were_to_be_closed_at_the_dump() -> None:
    made = images()
    made.images["inventory.img"] = [m.inventory_entry(img_version=2, tcp_close=True)]
    assert read(entry(state=1), made)._streams == {}


def test_options_from_fields_of_criu() -> None:
    isk = entry(ip_opts=m.ip_opts_entry(ttl=9, freebind=True), tcp_opts=m.tcp_opts_entry(keepcnt=4, nodelay=True))
    found = {name: int.from_bytes(value, "little") for name, value in settings.from_entry(isk).items()}
    assert found == {"ip_freebind": 1, "ip_ttl": 9, "tcp_keepcnt": 4, "tcp_nodelay": 1}
    settings.check(settings.from_entry(isk), TCP4, "x")


def test_stream_entry_there_and_back() -> None:
    before = tcp.Stream(1, 7, 5, 6, 1400, 99, b"in", 100, b"out!", 200, 2, True, tcp.Window(1, 2, 3, 4, 5))
    made = connections.entry_of(before, {"tcp_nodelay": b"\1\0\0\0"})
    assert made.nodelay
    assert connections.stream_of(1, made, before.received + before.sent) == before
