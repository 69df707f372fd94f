# SPDX-License-Identifier: GPL-2.0-only
"""Probes of what concerns descriptors: what fdinfo tells, what can be set, sockets and what lists them."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pycriu.errors import KernelError
from pycriu.kernel import libc
from pycriu.probes.subject import CLONE_NEWIPC, Absent, Subject, called, in_child

F_GETOWNER_UIDS = 17
TFD_IOC_SET_TICKS = 0x40085400  # _IOW('T', 0, u64)
CLOCK_MONOTONIC = 1
IN_MODIFY = 2
INOTIFY_IOC_SETNEXTWD = 0x40044900  # _IOW('I', 0, s32)
FAN_CLOEXEC = 1
IPC_PRIVATE, IPC_RMID = 0, 0
TCP_REPAIR = 19
NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY = 4, 20
NLM_F_REQUEST, NLM_F_DUMP, NLMSG_ERROR, NLMSG_DONE = 1, 0x300, 2, 3
NETLINK_HEADER = struct.Struct("=IHHII")
AT_FDCWD, RESOLVE_NO_SYMLINKS = -100, 4


def eventfd(_subject: Subject) -> None:
    """eventfd(2), its counter in fdinfo."""
    with _closing(os.eventfd(7)) as fd:
        _demand(fd, "eventfd-count")


def epoll(_subject: Subject) -> None:
    """epoll(7), its members in fdinfo."""
    reader, writer = os.pipe()
    with _closing(reader), _closing(writer), select.epoll() as poll:
        poll.register(reader)
        _demand(poll.fileno(), "tfd")


def signalfd(_subject: Subject) -> None:
    """signalfd(2), its mask in fdinfo."""
    mask = ctypes.create_string_buffer(128)
    with _closing(called("signalfd", -1, mask, os.O_CLOEXEC)) as fd:
        _demand(fd, "sigmask")


def timerfd(_subject: Subject) -> None:
    """timerfd_create(2), its clock in fdinfo."""
    with _closing(called("timerfd_create", CLOCK_MONOTONIC, os.O_CLOEXEC)) as fd:
        _demand(fd, "clockid")


def timerfd_ticks(_subject: Subject) -> None:
    """The TFD_IOC_SET_TICKS ioctl."""
    with _closing(called("timerfd_create", CLOCK_MONOTONIC, os.O_CLOEXEC)) as fd:
        fcntl.ioctl(fd, TFD_IOC_SET_TICKS, struct.pack("Q", 1))


def inotify(_subject: Subject) -> None:
    """inotify(7), its watches with file handles in fdinfo."""
    with _closing(called("inotify_init1", os.O_CLOEXEC)) as fd:
        called("inotify_add_watch", fd, b"/", IN_MODIFY)
        _demand(fd, "inotify wd")


def inotify_numbers(_subject: Subject) -> None:
    """The INOTIFY_IOC_SETNEXTWD ioctl."""
    with _closing(called("inotify_init1", os.O_CLOEXEC)) as fd:
        fcntl.ioctl(fd, INOTIFY_IOC_SETNEXTWD, 5)


def fanotify(_subject: Subject) -> None:
    """fanotify(7), how a group was made in fdinfo."""
    with _closing(called("fanotify_init", FAN_CLOEXEC, os.O_RDONLY)) as fd:
        _demand(fd, "fanotify flags")


def kcmp_epoll(_subject: Subject) -> None:
    """kcmp(2) of a file with one that an epoll set watches."""
    reader, writer = os.pipe()
    with _closing(reader), _closing(writer), select.epoll() as poll:
        poll.register(reader)
        if libc.kcmp_epoll(os.getpid(), reader, os.getpid(), poll.fileno(), reader, 0):
            raise Absent("kcmp says that a watched file is another")


def owner_uids(_subject: Subject) -> None:
    """fcntl(F_GETOWNER_UIDS)."""
    reader, writer = os.pipe()
    with _closing(reader), _closing(writer):
        fcntl.fcntl(reader, F_GETOWNER_UIDS, bytes(8))


def file_handle(_subject: Subject) -> None:
    """name_to_handle_at(2) tells how long the handle would be."""
    handle, mount = ctypes.create_string_buffer(8), ctypes.create_string_buffer(4)
    try:
        called("name_to_handle_at", AT_FDCWD, b"/", handle, mount, 0)
    except KernelError as error:
        if error.errno not in (errno.EOVERFLOW, errno.EOPNOTSUPP):  # EOPNOTSUPP: this file system has none
            raise


def file_lock(_subject: Subject) -> None:
    """flock(2) and /proc/locks."""
    with open("/proc/self/status", "rb", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_SH)
    os.stat("/proc/locks")


def lock_in_fdinfo(_subject: Subject) -> None:
    """A lock in the fdinfo of the descriptor that holds it."""
    with open("/proc/self/status", "rb", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        _demand(file.fileno(), "lock:")


def mount_in_fdinfo(_subject: Subject) -> None:
    """The number of a file's mount in fdinfo."""
    with open("/proc/self/status", "rb", buffering=0) as file:
        _demand(file.fileno(), "mnt_id:")


def openat2(_subject: Subject) -> None:
    """openat2(2) opens a file, and refuses one behind a symbolic link when told to."""
    how = ctypes.create_string_buffer(struct.pack("=QQQ", os.O_RDONLY | os.O_CLOEXEC, 0, RESOLVE_NO_SYMLINKS))
    path = ctypes.create_string_buffer(b"/proc/self")  # which is one
    try:
        os.close(libc.call("openat2", AT_FDCWD, ctypes.addressof(path), ctypes.addressof(how), 24))
    except KernelError as error:
        if error.errno == errno.ELOOP:
            return
        raise
    raise Absent("openat2 has followed a symbolic link that it was told not to")


def next_ids(_subject: Subject) -> None:
    """The ids that System V objects get next can be chosen."""
    for name in ("shm", "sem", "msg"):
        if not os.access(f"/proc/sys/kernel/{name}_next_id", os.R_OK | os.W_OK):
            raise Absent(f"/proc/sys/kernel/{name}_next_id cannot be written")


def pseudo_terminal(_subject: Subject) -> None:
    """A pair from /dev/ptmx."""
    try:
        master, slave = os.openpty()
    except OSError as error:
        raise OSError(error.errno, "openpty: is devpts mounted on /dev/pts?") from None
    os.close(master)
    os.close(slave)


def tun(_subject: Subject) -> None:
    """/dev/net/tun."""
    with _closing(os.open("/dev/net/tun", os.O_RDWR)):
        pass


def system_v(_subject: Subject) -> None:
    """shmget(2), msgget(2), semget(2), in a namespace of their own where there can be one: it takes them along."""

    def work() -> None:
        with suppress(KernelError):  # no CONFIG_IPC_NS
            called("unshare", CLONE_NEWIPC)
        called("shmctl", called("shmget", IPC_PRIVATE, 4096, 0o600), IPC_RMID, None)
        called("msgctl", called("msgget", IPC_PRIVATE, 0o600), IPC_RMID, None)
        called("semctl", called("semget", IPC_PRIVATE, 1, 0o600), 0, IPC_RMID)

    in_child(work, "shmget, msgget, semget")


def unix_socket(_subject: Subject) -> None:
    """socket(AF_UNIX)."""
    _socket(socket.AF_UNIX)


def inet_socket(_subject: Subject) -> None:
    """socket(AF_INET)."""
    _socket(socket.AF_INET)


def tcp_repair(_subject: Subject) -> None:
    """The TCP_REPAIR option."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp:
        tcp.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        tcp.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 0)


def unix_diag(_subject: Subject) -> None:
    """sock_diag(7) lists UNIX sockets."""
    _diag(struct.pack("=BBHIIIII", socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, 1, 0, 0))


def inet_diag(protocol: int, _subject: Subject) -> None:
    """sock_diag(7) lists the sockets of an internet protocol."""
    _diag(struct.pack("=BBBBI48x", socket.AF_INET, protocol, 0, 0, 0xFFFFFFFF))


def packet_diag(_subject: Subject) -> None:
    """sock_diag(7) lists packet sockets."""
    _diag(struct.pack("=BBHIIII", socket.AF_PACKET, 0, 0, 0, 1, 0, 0))


def netlink_diag(_subject: Subject) -> None:
    """sock_diag(7) lists netlink sockets of all protocols."""
    _diag(struct.pack("=BBHIIII", socket.AF_NETLINK, 255, 0, 0, 1, 0, 0))


def _diag(request: bytes) -> None:
    """Ask for a dump; the kernel answers with sockets or the end of the list, or with an error.

    A family or protocol that nobody lists is ENOENT, in the end of an empty list on kernels that begin one first.
    """
    header = NETLINK_HEADER.pack(
        NETLINK_HEADER.size + len(request), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, 1, 0
    )
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as link:
        link.send(header + request)
        answer = link.recv(1 << 16)
    size, kind, _, _, _ = NETLINK_HEADER.unpack_from(answer)
    if kind in (NLMSG_ERROR, NLMSG_DONE) and size >= NETLINK_HEADER.size + 4:  # both carry an error or 0
        code: int = -struct.unpack_from("=i", answer, NETLINK_HEADER.size)[0]
        if code > 0:
            raise KernelError("sock_diag", code)


def _socket(family: int) -> None:
    with socket.socket(family, socket.SOCK_STREAM):
        pass


def _demand(fd: int, key: str) -> None:
    """The key must be among what fdinfo tells of a descriptor."""
    with open(f"/proc/self/fdinfo/{fd}") as file:
        found = any(line.startswith(key) for line in file)
    if not found:
        raise Absent(f"/proc/PID/fdinfo has no line {key!r}")


@contextmanager
def _closing(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)


def cuda_checkpoint(_subject: Subject) -> None:
    """NVIDIA's driver, of 570 or later: it is not the kernel that has it."""
    from pycriu.plugins.cuda.driver import Driver

    Driver()
