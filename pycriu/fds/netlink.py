# SPDX-License-Identifier: GPL-2.0-only
"""Netlink sockets: protocol, port, groups, destination, options.

Refused: messages that wait (only the kernel could send them again), an answer that is half given. What the kernel tells
while the task is away, it tells others. Sources: netlink(7), net/netlink/{af_netlink,diag}.c.
"""

from __future__ import annotations

import _socket
import ctypes
import os
import select
import struct

from pycriu.errors import About, ImageError, KernelError, Unsupported, UserError
from pycriu.fds import sockets
from pycriu.fds.kind import Kind
from pycriu.fds.openfile import OpenFile, no_owner
from pycriu.images import messages as m
from pycriu.images import own
from pycriu.kernel import libc, sockdiag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pycriu.fds.opening import Opening
    from pycriu.fds.saving import Saving
    from pycriu.images.store import ImagesDir, NewCheckpoint
    from pycriu.log import Log

NOTES_IMAGE = "pycriu-sockets-netlink.img"
AF_NETLINK, SOCK_RAW, SOCK_DGRAM, SOCK_CLOEXEC = 16, 3, 2, 0o2000000
SOL_NETLINK, ADD_MEMBERSHIP = 270, 1
NET_NS = 2  # what `entries` calls the network namespace
EADDRINUSE = 98
CONNECTED = 1  # NETLINK_CONNECTED, a state
_UNBOUND = sockdiag.NetlinkSocket(0, 0, 0, 0, 0, 0, 0, (), 0, 0)  # the kernel lists only those with a port
_SOCKADDR = struct.Struct("=HHII")  # struct sockaddr_nl: family, -, port, groups
_MAX_GROUPS = 1 << 12  # words of 32; the kernel's protocols have a few hundred groups

# Options of level SOL_NETLINK that can be read back.
_OPTIONS = (
    ("pktinfo", 3),
    ("broadcast_error", 4),
    ("no_enobufs", 5),
    ("listen_all_nsid", 8),
    ("cap_ack", 10),
    ("ext_ack", 11),
    ("get_strict_chk", 12),
)
_OWN_NOTES = dict.fromkeys(("type", *(name for name, _ in _OPTIONS)), 4)  # name → length


class Netlink(Kind):
    """Sockets of AF_NETLINK."""

    TYPE = 13  # fd_types.NETLINKSK

    def __init__(self, options: Any, log: Log) -> None:
        super().__init__(options, log)
        self._listed: dict[int, sockdiag.NetlinkSocket] | None = None
        self._found: dict[int, tuple[sockdiag.NetlinkSocket, Any, dict[str, bytes]]] = {}  # by inode
        self._notes: own.Notes = {}

    # ------------------------------------------------------------------------------------------------------------ dump

    def matches(self, file: OpenFile) -> bool:
        """A socket of this family."""
        found = sockets.about(file)
        return found is not None and found.family == AF_NETLINK

    def gather(self, files: list[OpenFile], saving: Saving) -> None:
        """Everything; Unsupported where something waits to be read."""
        if self._listed is None:
            self._listed = sockdiag.netlink()
        for file in files:
            if file.status.st_ino in self._found:
                continue
            row = self._listed.get(file.status.st_ino, _UNBOUND)
            with About(file):
                self._found[file.status.st_ino] = _look(file, row)

    def dump(self, file: OpenFile, number: int, saving: Saving) -> Any:
        """The image of one socket."""
        row, opts, self._notes[number] = self._found[file.status.st_ino]
        about = sockets.about(file)
        assert about is not None
        groups = list(row.groups)
        while groups and not groups[-1]:
            groups.pop()
        entry = m.netlink_sk_entry(
            id=number, ino=file.status.st_ino, protocol=about.protocol, state=row.state, flags=file.flags,
            portid=row.port, groups=groups, dst_portid=row.destination_port, dst_group=row.destination_group,
            fown=no_owner(), opts=opts, ns_id=NET_NS,
        )  # fmt: skip
        return m.file_entry(type=self.TYPE, id=number, nlsk=entry)

    def write(self, new: NewCheckpoint) -> None:
        """The notes."""
        new.write_any(NOTES_IMAGE, own.socket_entries(self._notes))

    # --------------------------------------------------------------------------------------------------------- restore

    def read(self, images: ImagesDir, entries: list[Any]) -> None:
        """Notes and entries, checked."""
        self._notes = own.socket_notes(images, NOTES_IMAGE, sockets.NOTES | _OWN_NOTES.keys())
        for one in (entry.nlsk for entry in entries):
            name = f"netlink socket {one.id}"
            sockets.check(one.opts, name)
            sockets.check_notes(self._notes.get(one.id, {}), name, _OWN_NOTES)
            if len(one.groups) > _MAX_GROUPS or one.dst_group > 32:
                raise ImageError(f"{name} is in more groups than there are, or sends to one that cannot be")

    def open(self, entry: Any, opening: Opening) -> int:
        """Make one socket."""
        one, its_notes = entry.nlsk, self._notes.get(entry.id, {})
        kind = int.from_bytes(its_notes.get("type", b"\3"), "little")
        if kind not in (SOCK_RAW, SOCK_DGRAM):
            raise ImageError(f"netlink socket {one.id} is of type {kind}")
        try:
            fd = _socket.socket(AF_NETLINK, kind | SOCK_CLOEXEC, one.protocol).detach()
        except OSError as error:
            hint = "the kernel of the dump had this protocol"
            raise KernelError("socket", error.errno or 0, f"netlink protocol {one.protocol}", hint) from None
        try:
            _set_up(fd, one, its_notes)
        except BaseException:
            os.close(fd)
            raise
        return fd


def _look(file: OpenFile, row: sockdiag.NetlinkSocket) -> tuple[sockdiag.NetlinkSocket, Any, dict[str, bytes]]:
    fd = file.borrow()
    try:
        _refuse_unread(fd, row, file)
        its_notes = sockets.notes(fd) | _own_notes(fd)
        return row, sockets.entry(fd, file.name), its_notes
    finally:
        os.close(fd)


def _refuse_unread(fd: int, row: sockdiag.NetlinkSocket, file: OpenFile) -> None:
    if row.flags & sockdiag.CB_RUNNING:
        raise Unsupported(f"{file.name} is a netlink socket in the middle of an answer", "try again")
    if libc.poll(fd, select.POLLIN) & (select.POLLIN | select.POLLERR):
        raise Unsupported(
            f"{file.name} is a netlink socket with messages that the task has not read",
            "only the kernel could send them again; try again when the task has read them",
        )


def _own_notes(fd: int) -> dict[str, bytes]:
    found = {"type": sockets.get(fd, sockets.SO_TYPE, 4)}
    for name, option in _OPTIONS:
        value = sockets.try_get(fd, option, 4, SOL_NETLINK)
        if value is not None:
            found[name] = value
    return found


def _set_up(fd: int, one: Any, its_notes: dict[str, bytes]) -> None:
    if one.portid:
        _bind(fd, one)
        for place, word in enumerate(one.groups):
            for bit in range(32):
                if word >> bit & 1 and place:
                    sockets.set_int(fd, ADD_MEMBERSHIP, 32 * place + bit + 1, SOL_NETLINK)
    if one.state == CONNECTED:
        group = 1 << one.dst_group - 1 if one.dst_group else 0
        _call("connect", fd, one.dst_portid, group)
    for name, option in _OPTIONS:
        if any(its_notes.get(name, b"")):
            sockets.set_bytes(fd, option, its_notes[name], SOL_NETLINK)
    sockets.restore(fd, one.opts)
    sockets.restore_reuse(fd, one.opts)
    sockets.restore_notes(fd, its_notes)
    os.set_blocking(fd, not one.flags & os.O_NONBLOCK)


def _bind(fd: int, one: Any) -> None:
    try:
        _call("bind", fd, one.portid, one.groups[0] if one.groups else 0)
    except KernelError as error:
        if error.errno != EADDRINUSE:
            raise
        raise UserError(
            f"port {one.portid} of netlink protocol {one.protocol} is in use by another socket",
            "end the process that has it: /proc/net/netlink lists them",
        ) from None


def _call(name: str, fd: int, port: int, groups: int) -> None:
    address = ctypes.create_string_buffer(_SOCKADDR.pack(AF_NETLINK, 0, port, groups), _SOCKADDR.size)
    libc.call(name, fd, ctypes.addressof(address), _SOCKADDR.size, what=f"netlink port {port}")
