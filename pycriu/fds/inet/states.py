# SPDX-License-Identifier: GPL-2.0-only
"""What a socket of IPv4 or IPv6 is doing: events, peer, directions that are shut. Some only sock_diag(7) tells."""

from __future__ import annotations

import _socket
import errno
import os

from pycriu.errors import KernelError, Unsupported
from pycriu.fds import sockets
from pycriu.fds.inet import settings
from pycriu.fds.openfile import OpenFile
from pycriu.kernel import libc, sockdiag, tcp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

AF_INET, AF_INET6 = 2, 10
STREAM, RAW = _socket.SOCK_STREAM, _socket.SOCK_RAW
TCP, UDP, UDPLITE = 6, 17, 136
POLLIN, POLLPRI, POLLERR, POLLRDHUP = 1, 2, 8, 0x2000
INFO, SHUTDOWN, MD5 = 2, 8, 18  # INET_DIAG_*; the last comes by itself with the first
_ENOTCONN = 107
TCP_AO_INFO, _AO_INFO_SIZE = 40, 48  # struct tcp_ao_info_opt
_SO_MEMINFO, IPV6 = 55, 41
_IPV6_HEADERS = (54, 55, 57, 59)  # IPV6_HOPOPTS, IPV6_RTHDRDSTOPTS, IPV6_RTHDR, IPV6_DSTOPTS
_MD5 = "MD5 (TCP_MD5SIG)"


def poll(sock: _socket.socket) -> int:
    """What poll(2) says at once."""
    return libc.poll(sock.fileno(), POLLIN | POLLPRI | POLLRDHUP)


def diag(files: list[OpenFile]) -> dict[int, sockdiag.Inet]:
    """What only sock_diag tells; a kernel without it leaves that out."""
    wanted = set()
    for file in files:
        about = sockets.about(file)
        if about is not None:
            kind = sockdiag.RAW if about.type == RAW else about.protocol
            if kind in (TCP, UDP, UDPLITE, sockdiag.RAW):
                wanted.add((about.family, kind))
    found = {}
    for family, kind in sorted(wanted):
        try:
            listed = sockdiag.inet(family, kind, extensions=1 << SHUTDOWN - 1 | 1 << INFO - 1)
        except Unsupported:
            continue
        found.update({one.inode: one for one in listed if one.inode})
    return found


def keys(sock: _socket.socket, state: int, name: str) -> str | None:
    """How the segments of a TCP socket, called `name`, are signed, by keys that it has; None: they are not.

    sock_diag tells of MD5 keys of those that listen or are connected. Of others, it is the memory that they take.
    """
    fd = sock.fileno()
    try:
        settings.get_in_place(fd, TCP, TCP_AO_INFO, bytes(_AO_INFO_SIZE))
    except KernelError as error:
        if error.errno not in (*sockets.NO_SUCH_OPTION, errno.ENOENT):
            raise
    else:
        return "TCP-AO (TCP_AO_ADD_KEY)"
    if state != tcp.CLOSE or not _option_memory(sock):
        return None
    others = [sockets.filter_of(fd, name), *(sockets.try_get(fd, option, 2048, IPV6) for option in _IPV6_HEADERS)]
    return None if any(others) else _MD5


def keys_of(diag: sockdiag.Inet | None) -> str | None:
    """The same, as far as sock_diag tells."""
    return _MD5 if diag is not None and MD5 in diag.attributes else None


def _option_memory(sock: _socket.socket) -> int:
    """Bytes of memory that options take: keys, filters, headers of IPv6."""
    return int.from_bytes(sock.getsockopt(sockets.SOL_SOCKET, _SO_MEMINFO, 36)[24:28], "little")


def shutdown(sock: _socket.socket, diag: sockdiag.Inet | None, info: tcp.Info | None) -> int:
    """sk_shutdown of what is not told by the state of a TCP connection."""
    if diag is not None and SHUTDOWN in diag.attributes:
        how = diag.attributes[SHUTDOWN][0]
    else:
        how = 1 if poll(sock) & POLLRDHUP else 0
    if info is None:
        return how
    return how & 1 if info.state in (tcp.ESTABLISHED, tcp.FIN_WAIT1, tcp.FIN_WAIT2) else 0


def parse_proc(text: str, family: int) -> dict[int, tuple[str, int]]:
    """/proc/net/{raw,icmp,raw6,icmp6}: by inode, the address and port of the peer of those that have one."""
    found = {}
    for line in text.splitlines()[1:]:
        words = line.split()
        address, _, port = words[2].partition(":")
        value = bytes.fromhex(address)
        value = b"".join(value[at : at + 4][::-1] for at in range(0, len(value), 4))
        if any(value):
            found[int(words[9])] = _socket.inet_ntop(family, value), int(port, 16)
    return found


def _proc_peer(inode: int, family: int) -> tuple[Any, ...] | None:
    """The peer of a raw or ICMP socket: sock_diag need not know it, and getpeername(2) tells none without a port."""
    for name in ("raw", "icmp") if family == AF_INET else ("raw6", "icmp6"):
        try:
            with open(f"/proc/net/{name}") as file:
                known = parse_proc(file.read(), family)
        except FileNotFoundError:
            continue
        if inode in known:
            return known[inode] if family == AF_INET else (*known[inode], 0, 0)
    return None


def peer(sock: _socket.socket, *, connecting: bool, diag: sockdiag.Inet | None) -> tuple[Any, ...] | None:
    """The address of the peer. A name that only sock_diag tells: of who is still calling, and of a raw socket."""
    try:
        return tuple(sock.getpeername())
    except OSError as error:
        if error.errno != _ENOTCONN:
            raise
    about = sockets.about_fd(sock.fileno())
    if about.type == RAW or about.protocol not in (TCP, UDP, UDPLITE):
        return _proc_peer(os.fstat(sock.fileno()).st_ino, about.family)
    if diag is None or not any(diag.destination) or not (connecting or sock.type != STREAM):
        return None
    address = _socket.inet_ntop(diag.family, diag.destination)
    return (address, diag.destination_port, 0, diag.interface)[: 2 if diag.family == AF_INET else 4]
