# SPDX-License-Identifier: GPL-2.0-only
"""Options of IPv4 and IPv6 sockets, of TCP, UDP and raw ones, and the multicast groups that they have joined.

What CRIU's messages have fields for goes there (ip_opts_entry, tcp_opts_entry). Everything that can be read back goes
into notes, too, under the name that it has in the manual page. A value is set only where a fresh socket has
another one. Interfaces are kept by name. Sources: ip(7), ipv6(7), tcp(7), udp(7), raw(7), linux/in.h, in6.h, tcp.h.
"""

from __future__ import annotations

import _socket
import ctypes
import struct

from pycriu.errors import ImageError, KernelError, UserError
from pycriu.fds import sockets
from pycriu.images import messages as m
from pycriu.kernel import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

IP, IPV6, TCP, UDP, UDPLITE, RAW, ICMPV6 = 0, 41, 6, 17, 136, 255, 58
AF_INET, AF_INET6 = 2, 10
EADDRNOTAVAIL, ENODEV, EINVAL = 99, 19, 22

_MOST_OF_PYTHON = 1024  # bytes that socket.getsockopt asks for; IPv6 headers are longer in theory

_NUMBER, _BYTES, _INDEX, _INDEX_BE = "number", "bytes", "index", "index_be"

# name: level, option, kind of value, most bytes. In the order in which they are set.
_IP = {
    "ip_tos": (IP, 1, _NUMBER, 4), "ip_ttl": (IP, 2, _NUMBER, 4), "ip_options": (IP, 4, _BYTES, 40),
    "ip_recvopts": (IP, 6, _NUMBER, 4), "ip_retopts": (IP, 7, _NUMBER, 4), "ip_pktinfo": (IP, 8, _NUMBER, 4),
    "ip_mtu_discover": (IP, 10, _NUMBER, 4), "ip_recverr": (IP, 11, _NUMBER, 4), "ip_recvttl": (IP, 12, _NUMBER, 4),
    "ip_recvtos": (IP, 13, _NUMBER, 4), "ip_freebind": (IP, 15, _NUMBER, 4), "ip_passsec": (IP, 18, _NUMBER, 4),
    "ip_transparent": (IP, 19, _NUMBER, 4), "ip_recvorigdstaddr": (IP, 20, _NUMBER, 4),
    "ip_minttl": (IP, 21, _NUMBER, 4), "ip_checksum": (IP, 23, _NUMBER, 4),
    "ip_bind_address_no_port": (IP, 24, _NUMBER, 4), "ip_recvfragsize": (IP, 25, _NUMBER, 4),
    "ip_recverr_rfc4884": (IP, 26, _NUMBER, 4), "ip_multicast_if": (IP, 32, _BYTES, 4),
    "ip_multicast_ttl": (IP, 33, _NUMBER, 4), "ip_multicast_loop": (IP, 34, _NUMBER, 4),
    "ip_multicast_all": (IP, 49, _NUMBER, 4), "ip_unicast_if": (IP, 50, _INDEX_BE, 16),
    "ip_local_port_range": (IP, 51, _NUMBER, 4),
}  # fmt: skip
_IPV6 = {
    "ipv6_2292pktinfo": (IPV6, 2, _NUMBER, 4), "ipv6_2292hopopts": (IPV6, 3, _NUMBER, 4),
    "ipv6_2292dstopts": (IPV6, 4, _NUMBER, 4), "ipv6_2292rthdr": (IPV6, 5, _NUMBER, 4),
    "ipv6_2292hoplimit": (IPV6, 8, _NUMBER, 4), "ipv6_unicast_hops": (IPV6, 16, _NUMBER, 4),
    "ipv6_multicast_if": (IPV6, 17, _INDEX, 16), "ipv6_multicast_hops": (IPV6, 18, _NUMBER, 4),
    "ipv6_multicast_loop": (IPV6, 19, _NUMBER, 4), "ipv6_mtu_discover": (IPV6, 23, _NUMBER, 4),
    "ipv6_recverr": (IPV6, 25, _NUMBER, 4), "ipv6_v6only": (IPV6, 26, _NUMBER, 4),
    "ipv6_multicast_all": (IPV6, 29, _NUMBER, 4), "ipv6_recverr_rfc4884": (IPV6, 31, _NUMBER, 4),
    "ipv6_flowinfo_send": (IPV6, 33, _NUMBER, 4), "ipv6_recvpktinfo": (IPV6, 49, _NUMBER, 4),
    "ipv6_recvhoplimit": (IPV6, 51, _NUMBER, 4), "ipv6_recvhopopts": (IPV6, 53, _NUMBER, 4),
    "ipv6_hopopts": (IPV6, 54, _BYTES, 2048), "ipv6_rthdrdstopts": (IPV6, 55, _BYTES, 2048),
    "ipv6_recvrthdr": (IPV6, 56, _NUMBER, 4), "ipv6_rthdr": (IPV6, 57, _BYTES, 2048),
    "ipv6_recvdstopts": (IPV6, 58, _NUMBER, 4), "ipv6_dstopts": (IPV6, 59, _BYTES, 2048),
    "ipv6_recvpathmtu": (IPV6, 60, _NUMBER, 4), "ipv6_dontfrag": (IPV6, 62, _NUMBER, 4),
    "ipv6_recvtclass": (IPV6, 66, _NUMBER, 4), "ipv6_tclass": (IPV6, 67, _NUMBER, 4),
    "ipv6_autoflowlabel": (IPV6, 70, _NUMBER, 4), "ipv6_addr_preferences": (IPV6, 72, _NUMBER, 4),
    "ipv6_minhopcount": (IPV6, 73, _NUMBER, 4), "ipv6_recvorigdstaddr": (IPV6, 74, _NUMBER, 4),
    "ipv6_transparent": (IPV6, 75, _NUMBER, 4), "ipv6_unicast_if": (IPV6, 76, _INDEX_BE, 16),
    "ipv6_recvfragsize": (IPV6, 77, _NUMBER, 4), "ipv6_freebind": (IPV6, 78, _NUMBER, 4),
}  # fmt: skip
_TCP = {
    "tcp_nodelay": (TCP, 1, _NUMBER, 4), "tcp_maxseg": (TCP, 2, _NUMBER, 4), "tcp_cork": (TCP, 3, _NUMBER, 4),
    "tcp_keepidle": (TCP, 4, _NUMBER, 4), "tcp_keepintvl": (TCP, 5, _NUMBER, 4), "tcp_keepcnt": (TCP, 6, _NUMBER, 4),
    "tcp_syncnt": (TCP, 7, _NUMBER, 4), "tcp_linger2": (TCP, 8, _NUMBER, 4),
    "tcp_defer_accept": (TCP, 9, _NUMBER, 4), "tcp_window_clamp": (TCP, 10, _NUMBER, 4),
    "tcp_congestion": (TCP, 13, _BYTES, 16), "tcp_thin_linear_timeouts": (TCP, 16, _NUMBER, 4),
    "tcp_thin_dupack": (TCP, 17, _NUMBER, 4), "tcp_user_timeout": (TCP, 18, _NUMBER, 4),
    "tcp_fastopen": (TCP, 23, _NUMBER, 4), "tcp_notsent_lowat": (TCP, 25, _NUMBER, 4),
    "tcp_save_syn": (TCP, 27, _NUMBER, 4), "tcp_fastopen_connect": (TCP, 30, _NUMBER, 4),
    "tcp_fastopen_key": (TCP, 33, _BYTES, 32), "tcp_fastopen_no_cookie": (TCP, 34, _NUMBER, 4),
    "tcp_inq": (TCP, 36, _NUMBER, 4), "tcp_tx_delay": (TCP, 37, _NUMBER, 4),
    "tcp_rto_max_ms": (TCP, 44, _NUMBER, 4), "tcp_rto_min_us": (TCP, 45, _NUMBER, 4),
    "tcp_delack_max_us": (TCP, 46, _NUMBER, 4),
}  # fmt: skip
_UDP = {
    "udp_cork": (UDP, 1, _NUMBER, 4), "udp_encap": (UDP, 100, _NUMBER, 4), "udp_no_check6_tx": (UDP, 101, _NUMBER, 4),
    "udp_no_check6_rx": (UDP, 102, _NUMBER, 4), "udp_segment": (UDP, 103, _NUMBER, 4),
    "udp_gro": (UDP, 104, _NUMBER, 4),
}  # fmt: skip
_UDPLITE = {"udplite_send_cscov": (UDPLITE, 10, _NUMBER, 4), "udplite_recv_cscov": (UDPLITE, 11, _NUMBER, 4)}
_RAW = {
    "ip_hdrincl": (IP, 3, _NUMBER, 4), "ip_nodefrag": (IP, 22, _NUMBER, 4), "icmp_filter": (RAW, 1, _BYTES, 4),
}  # fmt: skip
_RAW6 = {
    "ipv6_checksum": (RAW, 7, _NUMBER, 4), "ipv6_hdrincl": (IPV6, 36, _NUMBER, 4),
    "icmpv6_filter": (ICMPV6, 1, _BYTES, 32),
}  # fmt: skip

# Set on a connection only when it stands; elsewhere before it is bound.
WITH_CONNECTION = ("tcp_window_clamp", "tcp_cork")
# What a connection tells as something else than what was set.
_NOT_OF_CONNECTIONS = ("tcp_maxseg", "tcp_fastopen", "tcp_fastopen_key", "tcp_fastopen_connect", "tcp_defer_accept")
NOTES = frozenset(
    name for group in (_IP, _IPV6, _TCP, _UDP, _UDPLITE, _RAW, _RAW6) for name in group
) | {"groups"}  # fmt: skip


def _table(about: sockets.About) -> dict[str, tuple[int, int, str, int]]:
    """The options that a socket may have."""
    found = _IP | (_IPV6 if about.family == AF_INET6 else {})
    if about.type == _socket.SOCK_STREAM:
        found = {name: how for name, how in found.items() if "multicast" not in name}  # the kernel refuses them
    if about.type == _socket.SOCK_RAW:
        found.update(_RAW if about.family == AF_INET else _RAW6)
    else:
        found.update({TCP: _TCP, UDP: _UDP, UDPLITE: _UDP | _UDPLITE}.get(about.protocol, {}))
    return found


# ------------------------------------------------------------------------------------------------------------ dump


def look(sock: _socket.socket, about: sockets.About, *, connected: bool = False) -> dict[str, bytes]:
    """Every option that can be read, by name. The tasks wait meanwhile, so the quickest call is right."""
    found, ask = {}, sock.getsockopt
    for name, (level, option, kind, size) in _table(about).items():
        if connected and name in _NOT_OF_CONNECTIONS:
            continue
        try:
            found[name] = _named(ask(level, option, min(size, _MOST_OF_PYTHON)), kind)
        except OSError as error:
            if error.errno not in sockets.NO_SUCH_OPTION:
                raise KernelError("getsockopt", error.errno or 0, name.upper()) from None
    if about.protocol != TCP and (groups := _memberships(sock.fileno(), about)):
        found["groups"] = groups
    return found


def _named(value: bytes, kind: str) -> bytes:
    """Interfaces by name: their numbers are another's after a reboot."""
    if kind not in (_INDEX, _INDEX_BE):
        return value
    index = int.from_bytes(value[:4], "big" if kind == _INDEX_BE else "little")
    return _interface_name(index)


def _interface_name(index: int) -> bytes:
    try:
        return _socket.if_indextoname(index).encode() if index else b""
    except OSError:
        return b""  # the interface is gone, and so is what it was set for


def _numbered(value: bytes, kind: str) -> bytes:
    if kind not in (_INDEX, _INDEX_BE):
        return value
    return interface_index(value).to_bytes(4, "big" if kind == _INDEX_BE else "little")


def interface_index(name: bytes) -> int:
    """The number of an interface; UserError where there is none of this name."""
    if not name:
        return 0
    try:
        return _socket.if_nametoindex(name.decode())
    except (OSError, UnicodeDecodeError, ValueError):
        raise UserError(f"there is no interface {name[:16]!r} here, which a socket used", "make it first") from None


def ip_entry(found: dict[str, bytes], about: sockets.About) -> Any:
    """ip_opts_entry."""
    prefix = "ip" if about.family == AF_INET else "ipv6"
    entry = m.ip_opts_entry()
    if _number(found, f"{prefix}_freebind"):
        entry.freebind = True
    if _number(found, "ip_pktinfo" if about.family == AF_INET else "ipv6_recvpktinfo"):
        entry.pktinfo = True
    if (tos := _number(found, "ip_tos")) and about.family == AF_INET:
        entry.tos = tos
    if (ttl := _number(found, "ip_ttl")) and about.family == AF_INET:
        entry.ttl = ttl
    if about.type == _socket.SOCK_RAW:
        entry.raw.CopyFrom(_raw_entry(found))
    return entry


def _raw_entry(found: dict[str, bytes]) -> Any:
    raw = m.ip_opts_raw_entry()
    for field, name in (("hdrincl", "ip_hdrincl"), ("nodefrag", "ip_nodefrag"), ("checksum", "ip_checksum")):
        if _number(found, name):
            setattr(raw, field, True)
    mask = found.get("icmp_filter") or found.get("icmpv6_filter") or b""
    if any(mask):
        raw.icmpv_filter.extend(struct.unpack(f"={len(mask) // 4}I", mask))
    return raw


def tcp_entry(found: dict[str, bytes]) -> Any:
    """tcp_opts_entry."""
    return m.tcp_opts_entry(
        cork=bool(_number(found, "tcp_cork")), nodelay=bool(_number(found, "tcp_nodelay")),
        keepcnt=_number(found, "tcp_keepcnt"), keepidle=_number(found, "tcp_keepidle"),
        keepintvl=_number(found, "tcp_keepintvl"),
    )  # fmt: skip


def _number(found: dict[str, bytes], name: str) -> int:
    return int.from_bytes(found.get(name, b""), "little")


# --------------------------------------------------------------------------------------------------------- restore


def from_entry(entry: Any) -> dict[str, bytes]:
    """The options in the fields of CRIU's messages, as notes; for images without notes."""
    found = _from_ip(entry) | _from_tcp(entry)
    if entry.family == AF_INET6 and entry.HasField("v6only"):
        found["ipv6_v6only"] = entry.v6only
    notes = {name: int(value).to_bytes(4, "little") for name, value in found.items()}
    if mask := entry.ip_opts.raw.icmpv_filter:
        notes["icmp_filter" if entry.family == AF_INET else "icmpv6_filter"] = struct.pack(f"={len(mask)}I", *mask)
    return notes


ANY_ADDRESS = ("ip_freebind", "ip_transparent", "ipv6_freebind", "ipv6_transparent")
"""Options with which a socket is bound to addresses that this machine does not have."""


def _from_ip(entry: Any) -> dict[str, int]:
    opts, four = entry.ip_opts, entry.family == AF_INET
    names = {
        "ip_freebind" if four else "ipv6_freebind": "freebind",
        "ip_pktinfo" if four else "ipv6_recvpktinfo": "pktinfo",
    }
    if four:
        names |= {"ip_tos": "tos", "ip_ttl": "ttl"}
    found: dict[str, int] = {name: getattr(opts, field) for name, field in names.items() if opts.HasField(field)}
    if opts.HasField("raw") and four:
        found.update(ip_hdrincl=opts.raw.hdrincl, ip_nodefrag=opts.raw.nodefrag)
    return found


def _from_tcp(entry: Any) -> dict[str, int]:
    if entry.proto != TCP:
        return {}
    keep = ("keepcnt", "keepidle", "keepintvl")
    found = {f"tcp_{n}": getattr(entry.opts, f"tcp_{n}") for n in keep if entry.opts.HasField(f"tcp_{n}")}
    opts = entry.tcp_opts
    return found | {f"tcp_{n}": getattr(opts, n) for n in (*keep, "cork", "nodelay") if opts.HasField(n)}


def check(found: dict[str, bytes], about: sockets.About, name: str) -> None:
    """ImageError for an option that such a socket cannot have, or a value too long; `name` is the socket's."""
    table = _table(about)
    for key, value in found.items():
        if key == "groups":
            _split(value, name)
        elif key not in table or len(value) > table[key][3]:
            raise ImageError(f"{name} cannot have the option {key} with {len(value)} bytes")


def restore(fd: int, found: dict[str, bytes], about: sockets.About, wanted: Callable[[str], bool]) -> None:
    """Set the options whose names are `wanted`, where a fresh socket has another value."""
    for name, (level, option, kind, size) in _table(about).items():
        if name not in found or not wanted(name):
            continue
        value = _numbered(found[name], kind)
        now = sockets.try_get(fd, option, max(size, 4), level)
        if now is not None and now.rstrip(b"\0") == value.rstrip(b"\0"):
            continue
        try:
            sockets.set_bytes(fd, option, value, level)
        except KernelError as error:
            raise KernelError("setsockopt", error.errno, f"{name.upper()} of a socket", error.hint) from None


# ------------------------------------------------------------------------------------------------ multicast groups

# Nobody lists the groups of a socket. But the groups of each interface are known, and a socket can be asked for its
# filter in a group, which it has only if it has joined.
MCAST_JOIN_GROUP, MCAST_MSFILTER = 42, 48
_ADDRESS = 128  # struct sockaddr_storage
_MOST_SOURCES = 64
_HEAD = struct.Struct("=I4x128sII")  # struct group_filter: interface, group, mode, number of sources
_ONE = struct.Struct("=16s16sII")  # in the note: interface, group, mode, number of sources; the sources follow
_INCLUDE, _EXCLUDE = 1, 0


def candidates(family: int) -> list[tuple[int, bytes]]:
    """Interfaces and groups that anybody here has joined."""
    try:
        with open("/proc/net/igmp" if family == AF_INET else "/proc/net/igmp6") as file:
            text = file.read()
    except FileNotFoundError:
        return []
    return parse_igmp(text) if family == AF_INET else parse_igmp6(text)


def parse_igmp(text: str) -> list[tuple[int, bytes]]:
    """/proc/net/igmp: a line for each interface, then one for each of its groups, in memory's order."""
    found, index = [], 0
    for line in text.splitlines()[1:]:
        words = line.split()
        if not line[:1].isspace():
            index = int(words[0])
        else:
            found.append((index, int(words[0], 16).to_bytes(4, "little")))
    return found


def parse_igmp6(text: str) -> list[tuple[int, bytes]]:
    """/proc/net/igmp6: number and name of the interface, group."""
    return [(int(words[0]), bytes.fromhex(words[2])) for words in map(str.split, text.splitlines())]


def _sockaddr(family: int, address: bytes) -> bytes:
    if family == AF_INET:
        return struct.pack("=HH", family, 0) + address
    return struct.pack("=HHI", family, 0, 0) + address


def _memberships(fd: int, about: sockets.About) -> bytes:
    """All groups of a socket, packed."""
    found = b""
    families = {AF_INET: ((AF_INET, IP),), AF_INET6: ((AF_INET6, IPV6), (AF_INET, IP))}[about.family]
    for family, level in families:
        for index, group in sorted(set(candidates(family))):
            found += _membership(fd, family, level, index, group)
    return found


def _membership(fd: int, family: int, level: int, index: int, group: bytes) -> bytes:
    size = _HEAD.size + _MOST_SOURCES * _ADDRESS
    request = _HEAD.pack(index, _sockaddr(family, group), _INCLUDE, _MOST_SOURCES)
    try:
        answer = get_in_place(fd, level, MCAST_MSFILTER, request.ljust(size, b"\0"))
    except KernelError as error:
        if error.errno in (EADDRNOTAVAIL, ENODEV, *sockets.NO_SUCH_OPTION):
            return b""
        raise
    _, _, mode, count = _HEAD.unpack_from(answer)
    if count > _MOST_SOURCES:
        raise KernelError("getsockopt", EINVAL, f"a multicast group with {count} sources, {_MOST_SOURCES} can be kept")
    length, offset = (4, 4) if family == AF_INET else (16, 8)
    sources = b""
    for number in range(count):
        at = _HEAD.size + number * _ADDRESS + offset
        sources += answer[at : at + length].ljust(16, b"\0")
    return _ONE.pack(_interface_name(index), group, mode | family << 8, count) + sources


def get_in_place(fd: int, level: int, option: int, value: bytes) -> bytes:
    """getsockopt(2) of an option that reads its buffer, too."""
    data, length = ctypes.create_string_buffer(value, len(value)), ctypes.c_uint32(len(value))
    libc.call("getsockopt", fd, level, option, ctypes.addressof(data), ctypes.addressof(length), what=f"{option}")
    return data.raw


def _split(value: bytes, name: str) -> list[tuple[int, bytes, bytes, int, list[bytes]]]:
    """Family, interface, group, mode and sources of each membership; ImageError for what is none."""
    found, at = [], 0
    while at < len(value):
        if len(value) - at < _ONE.size:
            raise ImageError(f"{name}: a multicast group is cut short")
        interface, group, mode, count = _ONE.unpack_from(value, at)
        at += _ONE.size
        family = mode >> 8
        if family not in (AF_INET, AF_INET6) or count > _MOST_SOURCES or at + 16 * count > len(value):
            raise ImageError(f"{name}: a multicast group says something impossible")
        length = 4 if family == AF_INET else 16
        sources = [value[at + 16 * n : at + 16 * n + length] for n in range(count)]
        at += 16 * count
        found.append((family, interface.rstrip(b"\0"), group[:length], mode & 0xFF, sources))
    return found


def join(fd: int, value: bytes, name: str) -> None:
    """Join the groups of a note."""
    for family, interface, group, mode, sources in _split(value, name):
        level = IP if family == AF_INET else IPV6
        index = interface_index(interface)
        address = _sockaddr(family, group).ljust(_ADDRESS, b"\0")
        head = _HEAD.pack(index, address, mode, len(sources))
        listed = b"".join(_sockaddr(family, one).ljust(_ADDRESS, b"\0") for one in sources)
        try:
            sockets.set_bytes(fd, MCAST_JOIN_GROUP, struct.pack("=I4x", index) + address, level)
            if mode != _EXCLUDE or sources:
                sockets.set_bytes(fd, MCAST_MSFILTER, head + listed, level)
        except KernelError as error:
            raise KernelError("setsockopt", error.errno, f"a multicast group of {name}") from None
