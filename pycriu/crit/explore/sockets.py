# SPDX-License-Identifier: GPL-2.0-only
"""Sockets."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any

from pycriu.crit.explore.view import View, table, word

_PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6", 136: "UDPLITE"}
_FIELDS = {"isk": "inetsk.img", "usk": "unixsk.img", "psk": "packetsk.img", "nlsk": "netlinksk.img"}


def sockets(view: View) -> Iterator[str]:
    """One line per socket: id, kind, state, from where to where, `pid:fd` of those who have it, bytes that wait."""
    rows = []
    queued = _queued(view)
    for field, number, sock in _all(view):
        kind, state, ends = _TEXTS[field](sock)
        waiting = queued.get(number, 0) + (_stream(view, sock) if field == "isk" else 0)
        rows.append((str(number), kind, state, ends, ",".join(view.holders.get(number, [])) or "-", str(waiting)))
    yield from table(("ID", "KIND", "STATE", "ENDS", "HOLDERS", "QUEUED"), rows)


def _all(view: View) -> Iterator[tuple[str, int, Any]]:
    for number, entry in view.files.items():
        for field in _FIELDS:
            if entry.HasField(field):
                yield field, number, getattr(entry, field)
    for field, name in _FIELDS.items():
        for sock in view.read(name):
            yield field, sock.id, sock


def _queued(view: View) -> dict[int, int]:
    found: dict[int, int] = {}
    for packet in view.read("sk-queues.img"):
        found[packet.id_for] = found.get(packet.id_for, 0) + packet.length
    return found


def _stream(view: View, sock: Any) -> int:
    return sum(entry.inq_len + entry.outq_len for entry in view.read(f"tcp-stream-{sock.ino:x}.img"))


def _inet(sock: Any) -> tuple[str, str, str]:
    kind = _PROTOCOLS.get(sock.proto, str(sock.proto)) if sock.type != 3 else f"RAW {sock.proto}"
    ends = _end(sock.src_addr, sock.src_port)
    if sock.dst_port or any(sock.dst_addr):
        ends += f" > {_end(sock.dst_addr, sock.dst_port)}"
    return kind, word("state", sock.state), ends


def _end(words: Any, port: int) -> str:
    packed = b"".join(one.to_bytes(4, "little") for one in words)
    if len(packed) not in (4, 16):
        return f"?:{port}"
    host = ipaddress.ip_address(packed).compressed
    return f"[{host}]:{port}" if len(packed) == 16 else f"{host}:{port}"


def _unix(sock: Any) -> tuple[str, str, str]:
    name = sock.name.rstrip(b"\0") if not sock.name.startswith(b"\0") else b"@" + sock.name[1:]
    ends = name.decode("utf-8", "backslashreplace") or f"inode {sock.ino}"
    if sock.peer:
        ends += f" > inode {sock.peer}"
    return f"UNIX {word('type', sock.type)}", word("state", sock.state), ends


def _packet(sock: Any) -> tuple[str, str, str]:
    return f"PACKET {word('type', sock.type)}", "-", f"protocol {sock.protocol:#06x}, interface {sock.ifindex or 'any'}"


def _netlink(sock: Any) -> tuple[str, str, str]:
    ends = f"port {sock.portid}"
    if sock.dst_portid or sock.dst_group:
        ends += f" > port {sock.dst_portid}, group {sock.dst_group}"
    return f"NETLINK {sock.protocol}", "CONNECTED" if sock.state == 1 else "-", ends


_TEXTS = {"isk": _inet, "usk": _unix, "psk": _packet, "nlsk": _netlink}
