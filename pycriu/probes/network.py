# SPDX-License-Identifier: GPL-2.0-only
"""Probes of what concerns the network. Whatever they make is in a network namespace of a child's, and goes with it."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from pycriu.errors import KernelError
from pycriu.kernel import nftables
from pycriu.kernel.netlink import Netlink, attribute, attributes
from pycriu.probes.subject import CLONE_NEWNET, CLONE_NEWNS, Absent, Subject, apart

ROUTE = 0  # NETLINK_ROUTE
RTM_NEWLINK, RTM_GETLINK, RTM_NEWNSID, RTM_GETNSID = 16, 18, 88, 90
NETNSA_NSID, NETNSA_FD = 1, 3
IFLA_TARGET_NETNSID, IFLA_NEW_IFINDEX = 46, 49
LOOPBACK, IFF_UP = 1, 1
SIOCGSKNS, SIOCUNIXFILE = 0x894C, 0x89E0
TCP_REPAIR, TCP_REPAIR_WINDOW = 19, 29
SO_ATTACH_FILTER, SO_BINDTODEVICE, SO_PEEK_OFF, SO_BUF_LOCK = 26, 25, 42, 72
IPV6_FREEBIND = 78


def lock_by_nftables(_subject: Subject) -> None:
    """The very table that holds the packets of a connection is made, and removed."""

    def work() -> None:
        end = socket.inet_aton("127.0.0.1")
        nftables.hold("pycriu-probe", [nftables.Connection(end, 1, end, 2)])
        nftables.let_go("pycriu-probe")

    apart(CLONE_NEWNET, work, "nf_tables")


def nftables_answers(_subject: Subject) -> None:
    """nf_tables is there."""
    why = nftables.available()
    if why is not None:
        raise Absent(why)


def legacy_iptables(_subject: Subject) -> None:
    """A program that speaks to the old iptables."""
    for program in ("iptables-legacy", "iptables"):
        path = shutil.which(program)
        done = subprocess.run([path, "-V"], capture_output=True, check=False) if path else None
        if done is not None and b"legacy" in done.stdout:
            return
    raise Absent("there is no iptables here that uses the old interface")


def half_closed(_subject: Subject) -> None:
    """TCP_REPAIR of a connection of which one side is finished."""

    def work() -> None:
        with _connection() as (one, other):
            one.shutdown(socket.SHUT_WR)
            for end in (one, other):
                end.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)

    apart(CLONE_NEWNET, work, "setsockopt(TCP_REPAIR)")


def window(_subject: Subject) -> None:
    """TCP_REPAIR_WINDOW of a connection."""

    def work() -> None:
        with _connection() as (one, _):
            one.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
            one.getsockopt(socket.IPPROTO_TCP, TCP_REPAIR_WINDOW, 20)

    apart(CLONE_NEWNET, work, "getsockopt(TCP_REPAIR_WINDOW)")


def nsid(_subject: Subject) -> None:
    """RTM_GETNSID answers with the number of a network namespace."""
    with open("/proc/self/ns/net") as ours, Netlink(ROUTE, "rtnetlink") as link:
        answers = link.request(RTM_GETNSID, 0, bytes(4) + attribute(NETNSA_FD, struct.pack("=i", ours.fileno())))
    if not any(NETNSA_NSID in attributes(answer[4:]) for answer in answers):
        raise Absent("rtnetlink does not tell the number of a network namespace")


def link_nsid(_subject: Subject) -> None:
    """A link of another network namespace, by the number of that."""
    with open("/proc/self/ns/net") as ours:
        number = attribute(NETNSA_NSID, struct.pack("=i", 7))

        def work() -> None:
            with Netlink(ROUTE, "rtnetlink") as link:
                link.request(RTM_NEWNSID, 0, bytes(4) + number + attribute(NETNSA_FD, struct.pack("=i", ours.fileno())))
                target = attribute(IFLA_TARGET_NETNSID, struct.pack("=i", 7))
                answers = link.request(RTM_GETLINK, 0, _link() + target)
            if not any(IFLA_TARGET_NETNSID in attributes(answer[16:]) for answer in answers):
                raise Absent("rtnetlink does not look into the namespace that it is told")

        apart(CLONE_NEWNET, work, "rtnetlink")


def new_index(_subject: Subject) -> None:
    """The index that a link is to get is looked at: one that cannot be is refused."""

    def work() -> None:
        try:
            with Netlink(ROUTE, "rtnetlink") as link:
                link.request(RTM_NEWLINK, 0, _link() + attribute(IFLA_NEW_IFINDEX, struct.pack("=i", 0)))
        except KernelError as error:
            if error.errno == errno.ERANGE:
                return
            raise
        raise Absent("rtnetlink takes no notice of the index that a link is to get")

    apart(CLONE_NEWNET, work, "rtnetlink")


def namespace_of_socket(_subject: Subject) -> None:
    """SIOCGSKNS of a socket leads to its network namespace."""
    with socket.socket(socket.AF_UNIX) as sock:
        _demand_own_namespace(sock.fileno())


def namespace_of_tun(_subject: Subject) -> None:
    """The same of /dev/net/tun."""
    fd = os.open("/dev/net/tun", os.O_RDWR)
    try:
        _demand_own_namespace(fd)
    finally:
        os.close(fd)


def file_of_unix_socket(_subject: Subject) -> None:
    """SIOCUNIXFILE of a bound socket leads to its file, on a file system that goes with the child."""
    from pycriu.probes.mounts import own_folder

    def work() -> None:
        folder = own_folder()
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(f"{folder}/socket")
            fd = fcntl.ioctl(sock, SIOCUNIXFILE)
            if os.readlink(f"/proc/self/fd/{fd}") != f"{folder}/socket":
                raise Absent("SIOCUNIXFILE leads elsewhere")

    apart(CLONE_NEWNS, work, "ioctl(SIOCUNIXFILE)")


def buffer_lock(_subject: Subject) -> None:
    """SO_BUF_LOCK is set and read."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setsockopt(socket.SOL_SOCKET, SO_BUF_LOCK, 1)
        if sock.getsockopt(socket.SOL_SOCKET, SO_BUF_LOCK) != 1:
            raise Absent("SO_BUF_LOCK does not stay set")


def peek_offset(_subject: Subject) -> None:
    """SO_PEEK_OFF: what is peeked at next comes later in the queue."""
    one, other = socket.socketpair()
    with one, other:
        one.send(b"ab")
        other.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, 1)
        if other.recv(2, socket.MSG_PEEK) != b"b":
            raise Absent("SO_PEEK_OFF does not move the point from which messages are peeked at")


def options_readable(_subject: Subject) -> None:
    """The filter of a socket and the device that it is bound to are told."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.getsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, 0)
        sock.getsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, 16)


def ipv6_freebind(_subject: Subject) -> None:
    """IPV6_FREEBIND is set."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)


def _link() -> bytes:
    return struct.pack("=BxHiII", 0, 0, LOOPBACK, 0, 0)  # struct ifinfomsg


@contextmanager
def _connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends over loopback, of a namespace in which that is not up yet."""
    with Netlink(ROUTE, "rtnetlink") as link:
        link.request(RTM_NEWLINK, 0, struct.pack("=BxHiII", 0, 0, LOOPBACK, IFF_UP, IFF_UP))
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.socket()  # create_connection looks names up, for which a small Python has no codecs
        one.connect(server.getsockname())
        other, _ = server.accept()
    with one, other:
        yield one, other


def _demand_own_namespace(fd: int) -> None:
    found = fcntl.ioctl(fd, SIOCGSKNS)
    try:
        if os.fstat(found).st_ino != os.stat("/proc/self/ns/net").st_ino:
            raise Absent("SIOCGSKNS leads to another namespace")
    finally:
        os.close(found)
