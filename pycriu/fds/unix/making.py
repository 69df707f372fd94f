# SPDX-License-Identifier: GPL-2.0-only
"""UNIX sockets made again: names, connections, credentials, queues. The other half is `unix`.

open    all sockets exist and have their names; whoever was connected is connected, by those whom the other end sees;
        whoever waited to be accepted waits again
finish  the queues are filled, in the order of the image; then what would have been in the way: datagram sockets get
        their peers, ends are shut down, those that had gone go, and the options are set
"""

from __future__ import annotations

import _socket
import os
import struct

from pycriu.errors import ImageError, KernelError, UserError
from pycriu.fds import queues, sockets
from pycriu.fds.queues import SOCK_DGRAM, Message
from pycriu.fds.unix import checked, naming
from pycriu.fds.unix.checked import EXTERN, SERVICE, One
from pycriu.fds.unix.persons import Person, Persons, stand_in
from pycriu.images import messages as m
from pycriu.images import own
from pycriu.kernel.sockdiag import AF_UNIX, ESTABLISHED, LISTEN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pycriu.fds.opening import Opening
    from pycriu.images.store import ImagesDir
    from pycriu.log import Log

_LONG_BACKLOG = 4096  # while connections are made again
SOCK_CLOEXEC = 0o2000000
EPERM, ESRCH = 1, 3
_LARGE = 1 << 16  # bytes: more than that may not fit into a send buffer of the usual size


class Maker:
    """All UNIX sockets of one restore."""

    def __init__(self, images: ImagesDir, entries: list[Any], log: Log) -> None:
        self._log = log
        found = own.socket_notes(images, checked.NOTES_IMAGE, sockets.NOTES | checked.OWN_NOTES.keys())
        self._all = {entry.id: One(entry, found.get(entry.id, {}), checked.name_of(entry, found)) for entry in entries}
        self._told = bool(found)  # by whom a message was sent; CRIU's images do not tell
        self._by_inode = {one.entry.ino: one for one in self._all.values()}
        self.outside = {number for number, one in self._all.items() if one.entry.uflags & EXTERN}
        self._gone: list[One] = []  # ends that will be closed
        self._connected: set[One] = set()  # datagram sockets that have the peer they should
        self._made = False
        self._ready: dict[tuple[Person | None, int], list[tuple[int, int]]] = {}  # nameless pairs
        self._paths: list[str] = []  # files of sockets, which we have made
        if len(self._by_inode) != len(self._all) or 0 in self._by_inode:
            raise ImageError("two UNIX sockets of the image have the same inode")
        for one in self._all.values():
            checked.check(one, self._by_inode)
        if images.exists("sk-queues.img"):
            self._read_queues(images)
        self._mine = [one for number, one in self._all.items() if number not in self.outside]
        naming.refuse_taken([one.name for one in self._mine if not self._is_accepted(one)])

    def _read_queues(self, images: ImagesDir) -> None:
        pairs: list[Any] = images.read_with_payloads("sk-queues.img")
        for packet, data in pairs:
            if packet.id_for not in self._all:
                raise ImageError(f"sk-queues.img: a message for file {packet.id_for}, which is no UNIX socket")
            rights = [number for scm in packet.scm for number in scm.rights]
            if any(scm.type != queues.SCM_RIGHTS for scm in packet.scm) or len(rights) > queues.SCM_MAX_FD:
                raise ImageError(f"sk-queues.img: a message for file {packet.id_for} with something unknown")
            self._all[packet.id_for].messages.append(Message(data, rights=tuple(rights)))
        for one in self._all.values():
            one.messages = checked.with_note(one)

    def rehearse(self, number: int) -> None:
        """Dry run: UserError where an abstract name is taken, or a socket outside is not there."""
        one = self._all[number]
        if number in self.outside:
            naming.demand(one.name)
        elif not self._is_accepted(one):
            naming.refuse_abstract(one.name)

    def _is_accepted(self, one: One) -> bool:
        """Whether it has its name from a listening socket, whose file it is."""
        same = [other for other in self._mine_of_type(one.type) if other.name.name == one.name.name]
        return one.entry.state == ESTABLISHED and one.type != SOCK_DGRAM and len(same) > 1

    def _mine_of_type(self, kind: int) -> list[One]:
        return [one for one in self._mine if one.type == kind]

    # ----------------------------------------------------------------------------------------------------------- open

    def take(self, number: int, opening: Opening) -> int:
        """A descriptor for one socket, which the caller owns."""
        if not self._made:
            self._made = True
            self._opening = opening
            for one in self._mine:
                for right in (right for message in one.messages for right in message.rights):
                    if right not in opening.entries:
                        raise ImageError(f"sk-queues.img: file {right} was sent, but is not in the files image")
            self._persons = Persons(opening, self._log)
            self._make()
        return os.dup(self._all[number].fd)

    def _make_pairs(self) -> None:
        """Nameless pairs, many at once: each call in somebody's name costs a few stops of a task."""
        wanted: dict[tuple[Person | None, int], int] = {}
        for one in self._mine:
            other = self._by_inode.get(one.entry.peer)
            if not other or other.entry.peer != one.entry.ino or other.entry.ino < one.entry.ino:
                continue
            if not one.name.name and not other.name.name:
                key = one.person(), one.type
                wanted[key] = wanted.get(key, 0) + 1
        for (person, kind), count in wanted.items():
            self._ready[person, kind] = self._persons.pairs(person, kind, count)

    def _make(self) -> None:
        self._make_pairs()
        connected = {one: None for one in self._mine if one.type != SOCK_DGRAM and self._has_end(one)}
        self._make_unconnected(connected)
        listening = [one for one in self._mine if one.entry.state == LISTEN]
        for one in listening:
            self._persons.listen(one.person(), one.fd, _LONG_BACKLOG)
        passing: dict[tuple[int, bytes], One] = {}  # listening sockets that exist only to make connections
        try:
            for one in connected:
                if one.fd < 0:
                    self._connect(one, self._other_end(one), listening, passing)
        finally:
            for one in passing.values():
                one.close()
        for server in listening:
            self._let_wait(server)
        for one in listening:
            self._persons.listen(one.person(), one.fd, one.entry.backlog)

    def _make_unconnected(self, connected: dict[One, None]) -> None:
        """All others; that of somebody who waits for the answer of a service gets another end."""
        for one in self._mine_of_type(SOCK_DGRAM):
            self._make_datagram(one)
        for one in self._mine:
            if one.entry.uflags & SERVICE:
                self._pair(one, self._other_end(one), None)
            elif one.fd < 0 and one not in connected:
                self._make_alone(one)

    def _has_end(self, one: One) -> bool:
        """Whether it is connected to an end that exists or has existed, and not still waiting to be accepted."""
        peer = self._by_inode.get(one.entry.peer)
        one.waits = peer is not None and peer.entry.state == LISTEN
        return one.entry.state == ESTABLISHED and not one.waits

    def _other_end(self, one: One) -> One:
        """The peer; a stand-in for one that has gone."""
        if one.entry.peer:
            return self._by_inode[one.entry.peer]
        entry = m.unix_sk_entry()
        entry.CopyFrom(one.entry)
        entry.id, entry.ino, entry.peer = 0, 0, one.entry.ino
        its_notes = {key: value for key, value in one.notes.items() if key in ("peercred", "peergroups")}
        other = One(entry, its_notes, naming.Name(one.notes.get("peername", b""), "/", None, None))
        self._gone.append(other)
        return other

    def _make_alone(self, one: One) -> None:
        one.fd = libc_socket(one.type)
        self._bind(one)

    def _make_datagram(self, one: One) -> None:
        """A pair is made as a pair; the others are connected when their queues have been filled."""
        if one.fd >= 0:
            return
        gone = "peername" in one.notes and not one.entry.peer
        other = self._other_end(one) if gone else self._by_inode.get(one.entry.peer)
        if other is None or other.entry.uflags & EXTERN or other.fd >= 0:
            return
        mutual = other.entry.peer == one.entry.ino
        if (mutual and one.person() is not None) or not other.name.name or (mutual and not one.name.name):
            self._pair(one, other, one.person())
            if not mutual:
                self._disconnect(other, one)
        elif gone:
            self._make_alone(other)

    def _disconnect(self, one: One, other: One) -> None:
        """Take its peer away from one end of a pair, and the error that this makes at the other end."""
        nobody = (0).to_bytes(2, "little")  # AF_UNSPEC
        self._persons.connect(None, one.fd, nobody, "nobody")
        sockets.get_int(other.fd, sockets.SO_ERROR)
        one.partner = None
        self._connected.discard(one)

    def _pair(self, one: One, other: One, person: Person | None) -> None:
        ready = self._ready.get((person, one.type)) or self._persons.pairs(person, one.type, 1)
        one.fd, other.fd = ready.pop()
        one.partner, other.partner = other, one
        self._connected |= {one, other}
        for end in (one, other):
            self._bind(end)

    def _bind(self, one: One) -> None:
        try:
            one.path_fd = naming.bind(one.fd, one.name)
            if one.path_fd >= 0 and one.name.where:
                self._paths.append(one.name.where)
        except UserError as error:
            if one.entry.id:
                raise
            self._log.warn("a peer that has gone cannot have its name any more: %s", error.message)
            one.name = naming.NONE

    def _connect(self, one: One, other: One, listening: list[One], passing: dict[tuple[int, bytes], One]) -> None:
        """Two ends of a connection: as a pair, or where one has its name from a listening socket, through that."""
        client, server = one, other
        through = self._listener(server, listening, passing)
        if through is None:
            client, server = other, one
            through = self._listener(server, listening, passing)
        if through is None:
            self._pair(one, other, one.person() or other.person())
            return
        client.fd = libc_socket(client.type)
        self._bind(client)
        self._persons.listen(client.person() or through.person(), through.fd, _LONG_BACKLOG)
        where = naming.address(through.name, through.path_fd)
        self._persons.connect(server.person(), client.fd, where, through.name.words)
        server.fd = _accept(through.fd)
        client.partner, server.partner = server, client

    def _listener(self, server: One, listening: list[One], passing: dict[tuple[int, bytes], One]) -> One | None:
        """The listening socket from which `server` has its name; one is made for a name that several have."""
        name = server.name.name
        if not name:
            return None
        for one in listening:
            if (one.type, one.name.name) == (server.type, name):
                return one
        if (server.type, name) in passing:
            return passing[server.type, name]
        if not self._is_accepted(server) and server.person() == self._partner_person(server):
            return None
        one = One(server.entry, {}, naming.Name(name, "/", None, None))
        passing[server.type, name] = one
        self._make_alone(one)
        return one

    def _partner_person(self, one: One) -> Person | None:
        other = self._by_inode.get(one.entry.peer)
        return other.person() if other else one.person()

    def _let_wait(self, server: One) -> None:
        """Connect those who had not been accepted, in their order."""
        waiting = [one for one in self._mine if one.waits and one.entry.peer == server.entry.ino]
        note = server.notes.get("pending", b"")
        order = {inode: place for place, (inode,) in enumerate(struct.iter_unpack("=I", note))}
        for one in sorted(waiting, key=lambda one: order.get(one.entry.ino, 0)):
            where = naming.address(server.name, server.path_fd)
            self._persons.connect(one.person("connector"), one.fd, where, server.name.words)

    # --------------------------------------------------------------------------------------------------------- finish

    def finish(self, opening: Opening) -> None:
        """Everything after which nothing could be sent, connected or told apart any more."""
        datagrams = self._mine_of_type(SOCK_DGRAM)
        self._connect_datagrams([one for one in datagrams if not one.name.name])  # nobody else sends to these
        for one in self._mine:
            if one.messages:
                self._fill(one, opening)
        self._connect_datagrams(datagrams)
        for one in self._mine:
            if one.entry.peer or one.entry.state != ESTABLISHED or one.type == SOCK_DGRAM:
                _shut_down(one)
        self._let_go()
        for one in self._mine:
            _set_options(one)

    def _fill(self, one: One, opening: Opening) -> None:
        size = sum(len(message.data) for message in one.messages)
        senders: dict[bytes, int] = {}  # addresses of datagram senders → sockets of ours
        if one.partner is not None:
            _make_room(one.partner.fd, size)
        try:
            for message in one.messages:
                ready = Message(
                    message.data, message.sender, message.credentials, tuple(map(opening.fd, message.rights))
                )
                if one.partner is not None:
                    self._send(one.partner.fd, ready, None, one)
                    continue
                if message.sender not in senders:
                    senders[message.sender] = self._sender(message.sender if self._told else self._likely_sender(one))
                    _make_room(senders[message.sender], size)
                if not one.name.name:
                    raise ImageError(
                        f"sk-queues.img: UNIX socket {one.entry.id} has messages, but nobody could send any"
                    )
                address = f"/proc/self/fd/{one.path_fd}".encode() if one.name.is_path else one.name.name
                self._send(senders[message.sender], ready, address, one)
        finally:
            for fd in senders.values():
                os.close(fd)

    def _likely_sender(self, one: One) -> bytes:
        """The name of the only socket that is connected to this one, empty where there are more or none."""
        names = [other.name.name for other in self._mine if other.entry.peer == one.entry.ino]
        return names[0] if len(names) == 1 else b""

    def _sender(self, name: bytes) -> int:
        """A datagram socket of that name: the one that has it, or one for the moment."""
        for one in self._mine_of_type(SOCK_DGRAM):
            if name and one.name.name == name:
                return os.dup(one.fd)
        fd = libc_socket(SOCK_DGRAM)
        try:
            path_fd = naming.bind(fd, naming.Name(name, "/", None, None))
        except BaseException:
            os.close(fd)
            raise
        if path_fd >= 0:
            os.close(path_fd)
        return fd

    def _send(self, fd: int, message: Message, address: bytes | None, to: One) -> None:
        name = f"UNIX socket {to.entry.id} of the image"
        try:
            queues.send(fd, message, address, name)
        except KernelError as error:
            if error.errno != ESRCH or message.credentials is None:
                raise
            with stand_in(message.credentials[0]):  # who sent it has gone since
                queues.send(fd, message, address, name)

    def _connect_datagrams(self, some: list[One]) -> None:
        """Give datagram sockets their peers; one that has a peer of its own takes no other's connection any more."""
        targets = {one: target for one in some if one not in self._connected and (target := self._target(one))}
        while targets:
            ready = [
                one
                for one in targets
                if not any(target is one and other is not targets[one] for other, target in targets.items())
            ]
            if not ready:
                raise ImageError("UNIX datagram sockets of the image are connected in a circle")
            for one in ready:
                self._connect_one(one, targets.pop(one))

    def _target(self, one: One) -> One | None:
        if one.entry.peer:
            return self._by_inode[one.entry.peer]
        return next((other for other in self._gone if other.entry.peer == one.entry.ino), None)

    def _connect_one(self, one: One, target: One) -> None:
        self._connected.add(one)
        outside = target.entry.uflags & EXTERN
        where = naming.sockaddr(target.name.name) if outside else naming.address(target.name, target.path_fd)
        try:
            self._persons.connect(None, one.fd, where, target.name.words)
        except KernelError as error:
            if not outside:
                raise
            raise UserError(
                f"the UNIX socket {target.name.words} outside the tree, to which one was connected: {error.message}",
                "start the service that has it before the restore",
            ) from None

    def _let_go(self) -> None:
        """Those who had gone go again; one with something unread resets the connection."""
        for other in self._gone:
            one = self._by_inode[other.entry.peer]
            if one.entry.uflags & SERVICE:
                queues.send(other.fd, Message(_answer()), None, "the connection to the service")
            if "reset" in one.notes and one.type != SOCK_DGRAM:
                queues.send(one.fd, Message(b"x"), None, "a peer that has gone")
            other.close()
        self._gone = []

    def close(self) -> None:
        """Close everything of ours. A restore that failed takes its sockets out of the file system again."""
        if self._made and self._opening.failed:
            for path in self._paths:
                if os.path.lexists(path):
                    os.unlink(path)
        self._paths = []
        for fd in (fd for pairs in self._ready.values() for pair in pairs for fd in pair):
            os.close(fd)
        self._ready = {}
        for one in (*self._all.values(), *self._gone):
            one.close()


def _answer() -> bytes:
    """What a task that had asked for its own dump has waited for since: the response that it has been restored."""
    response = m.criu_resp(type=1, success=True, dump=m.criu_dump_resp(restored=True))  # criu_req_type.DUMP
    return response.SerializeToString()


def libc_socket(kind: int) -> int:
    """socket(2)."""
    return _socket.socket(AF_UNIX, kind | SOCK_CLOEXEC, 0).detach()


def _accept(fd: int) -> int:
    one = _socket.socket(fileno=fd)
    try:
        made: int = one._accept()[0]  # type: ignore[attr-defined]
        return made
    finally:
        one.detach()


def _shut_down(one: One) -> None:
    if one.entry.shutdown:
        it = _socket.socket(fileno=one.fd)
        try:
            it.shutdown(checked.HOW[one.entry.shutdown])
        finally:
            it.detach()


def _make_room(fd: int, size: int) -> None:
    """A send buffer for that many bytes, where we may; it gets its own size at the end."""
    if size < _LARGE:
        return
    try:
        sockets.set_int(fd, sockets.SO_SNDBUFFORCE, min(2 * size, (1 << 30) - 1))
    except KernelError as error:
        if error.errno != EPERM:
            raise


def _set_options(one: One) -> None:
    sockets.restore(one.fd, one.entry.opts)
    sockets.restore_reuse(one.fd, one.entry.opts)
    sockets.restore_notes(one.fd, one.notes)
    os.set_blocking(one.fd, not one.entry.flags & os.O_NONBLOCK)
    if "owner" in one.notes:
        os.fchown(one.fd, *struct.unpack("=II", one.notes["owner"]))
