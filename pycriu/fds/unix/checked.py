# SPDX-License-Identifier: GPL-2.0-only
"""One UNIX socket of an image, held against what a socket can be: entry, notes and messages."""

from __future__ import annotations

import _socket
import os
import struct

from pycriu.errors import ImageError
from pycriu.fds import queues, sockets
from pycriu.fds.queues import SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM, Message
from pycriu.fds.unix import naming
from pycriu.fds.unix.persons import Person
from pycriu.images import messages as m
from pycriu.kernel.sockdiag import ESTABLISHED, LISTEN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NOTES_IMAGE = "pycriu-sockets-unix.img"
OWN_NOTES = {  # name → length; None: any
    "pending": None, "peercred": 12, "peergroups": None, "owner": 8, "peername": None, "reset": 0, "where": None,
    "queue": None, "connector": 12, "connectorgroups": None,
}  # fmt: skip
EXTERN = 1  # unix_sk_entry.uflags: a peer outside the tree
SERVICE = 2  # the same: a connection to the service that was asked for the dump; who restores it answers
_LAST_INODE = (1 << 32) - 1
HOW = {1: _socket.SHUT_RD, 2: _socket.SHUT_WR, 3: _socket.SHUT_RDWR}


def outside_entry(number: int, inode: int, kind: int, name: bytes) -> Any:
    """The entry of a peer outside the tree, as CRIU writes it."""
    opts = m.sk_opts_entry(
        so_sndbuf=0, so_rcvbuf=0, so_snd_tmo_sec=0, so_snd_tmo_usec=0, so_rcv_tmo_sec=0, so_rcv_tmo_usec=0
    )
    owner = m.fown_entry(uid=0, euid=0, signum=0, pid_type=0, pid=0)
    entry = m.unix_sk_entry(
        id=number, ino=inode, type=kind, state=LISTEN, flags=0, uflags=EXTERN, backlog=0, peer=0, fown=owner, opts=opts,
        name=name,
    )  # fmt: skip
    return m.file_entry(type=5, id=number, usk=entry)


def ended_entry(number: int, flags: int) -> Any:
    """The entry of a stream whose other end has gone: whoever reads it is at its end."""
    entry = outside_entry(number, _LAST_INODE - number, SOCK_STREAM, b"")
    entry.usk.state, entry.usk.uflags, entry.usk.flags, entry.usk.shutdown = ESTABLISHED, 0, flags | os.O_RDWR, 3
    return entry


class One:
    """One socket in the making: an entry of the image, or (entry None) somebody who has gone."""

    def __init__(self, entry: Any, its_notes: dict[str, bytes], name: naming.Name) -> None:
        self.entry, self.notes, self.name = entry, its_notes, name
        self.fd = -1
        self.path_fd = -1
        self.messages: list[Message] = []
        self.partner: One | None = None  # whose sends arrive here
        self.waits = False  # not accepted yet

    @property
    def type(self) -> int:
        """SOCK_STREAM, SOCK_DGRAM or SOCK_SEQPACKET."""
        return int(self.entry.type)

    def person(self, note: str = "peercred") -> Person | None:
        """Whom SO_PEERCRED told; None where nobody noted it."""
        if note not in self.notes:
            return None
        pid, user, group = queues.UCRED.unpack(self.notes[note])
        groups = self.notes.get(note.replace("cred", "") + "groups", b"")
        return Person(pid, user, group, struct.unpack(f"={len(groups) // 4}I", groups))

    def close(self) -> None:
        """Close what we have of it."""
        for fd in (self.fd, self.path_fd):
            if fd >= 0:
                os.close(fd)
        self.fd = self.path_fd = -1


def name_of(entry: Any, found: dict[int, dict[str, bytes]]) -> naming.Name:
    return naming.of_entry(entry, found.get(entry.id, {}).get("where"))


def check(one: One, by_inode: dict[int, One]) -> None:
    """ImageError for what no socket is."""
    entry, name = one.entry, f"UNIX socket {one.entry.id}"
    if entry.type not in (SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET):
        raise ImageError(f"{name} is of type {entry.type}")
    if entry.backlog >= 1 << 31 or entry.shutdown not in (0, *HOW):
        raise ImageError(f"{name} has an impossible backlog or shutdown state")
    peer = by_inode.get(entry.peer)
    if entry.peer and peer is None:
        raise ImageError(f"{name} is connected to inode {entry.peer}, which the image does not have")
    if peer is not None:
        _check_peer(one, peer, name)
    if entry.state == LISTEN and not one.name.name:
        raise ImageError(f"{name} listens without a name")
    sockets.check(entry.opts, name)
    sockets.check_notes(one.notes, name, OWN_NOTES)
    _check_lists(one, name)


def _check_lists(one: One, name: str) -> None:
    for key in ("pending", "peergroups", "connectorgroups"):
        if len(one.notes.get(key, b"")) % 4 or len(one.notes.get(key, b"")) > 1 << 18:
            raise ImageError(f"{name}: the note {key} holds no list of numbers")
    if len(one.notes.get("peername", b"")) > queues.ADDRESS_MAX:
        raise ImageError(f"{name}: the note peername is too long")


def _check_peer(one: One, peer: One, name: str) -> None:
    if peer is one or peer.type != one.type:
        raise ImageError(f"{name} is connected to itself, or to a socket of another type")
    outside = peer.entry.uflags & EXTERN
    if one.type != SOCK_DGRAM and (outside or (peer.entry.state != LISTEN and peer.entry.peer != one.entry.ino)):
        raise ImageError(f"{name} is connected to one that is not connected to it")


def with_note(one: One) -> list[Message]:
    """The messages with what the notes say of them."""
    try:
        told = queues.parse_note(one.notes.get("queue", b""))
    except ValueError:
        raise ImageError(f"{NOTES_IMAGE}: the note queue of socket {one.entry.id} cannot be read") from None
    if told and max(told) >= len(one.messages):
        raise ImageError(f"{NOTES_IMAGE}: the note queue of socket {one.entry.id} tells of messages that are not there")
    return [
        Message(message.data, *told.get(place, (b"", None)), message.rights)
        for place, message in enumerate(one.messages)
    ]
