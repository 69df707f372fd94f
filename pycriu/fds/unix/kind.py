# SPDX-License-Identifier: GPL-2.0-only
"""UNIX sockets: what they are, to whom they are connected, and what waits in them. The other half is `making`.

Both ends of a connection must be in the tree, be it in a descriptor table or in a message that waits in a socket of the
tree. Of connections to outside only those of datagram sockets to a socket with a name can be kept, on request
(--ext-unix-sk): they are made again. The connection by which a service was asked for the dump is kept, too: who
restores it answers, as CRIU does.

Refused: other connections to outside, connections that wait to be accepted and whose client is outside, gone, or has
sent something already, out-of-band bytes, sockets that somebody outside the tree has open, too.
Sources: unix(7), net/unix/{af_unix,diag}.c.
"""

from __future__ import annotations

import _socket
import fcntl
import os
import select
import struct

from pycriu.errors import About, KernelError, TraceeGone, Unsupported
from pycriu.fds import inflight, queues, sockets
from pycriu.fds.kind import Kind
from pycriu.fds.openfile import OpenFile, no_owner
from pycriu.fds.queues import SOCK_DGRAM, SOCK_STREAM
from pycriu.fds.unix import checked, making
from pycriu.images import messages as m
from pycriu.images import own
from pycriu.kernel import libc, procfs, sockdiag
from pycriu.kernel.sockdiag import AF_UNIX, CLOSE, LISTEN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pycriu.fds.opening import Opening
    from pycriu.fds.saving import Saving
    from pycriu.images.store import ImagesDir, NewCheckpoint
    from pycriu.log import Log

SIOCUNIXFILE = 0x89E0
NET_NS = 2  # what `entries` calls the network namespace
ENOENT, EINVAL, ERANGE = 2, 22, 34
_NOBODY = 0xFFFFFFFF  # the group and user that SO_PEERCRED tells where there are none


class Socket:
    """One socket of the tree, as it was when everybody stood still."""

    def __init__(self, file: OpenFile, number: int, fd: int, row: sockdiag.Unix) -> None:
        self.file, self.number, self.fd, self.row = file, number, fd, row
        self.peer = row.peer or 0  # inode for the image: of a connection not yet accepted, the listening socket's
        self.opts = sockets.entry(fd, file.name)
        self.notes = sockets.notes(fd)
        self.messages: list[queues.Message] = []
        self.perms: Any = None
        self.deleted = False
        self.directory = ""
        self.serves_us = False  # its other end is ours: by it somebody in the tree has asked for this dump

    @property
    def is_datagram(self) -> bool:
        """Whether it is of the type without connections."""
        return self.row.type == SOCK_DGRAM


class Unix(Kind):
    """Sockets of AF_UNIX."""

    TYPE = 5  # fd_types.UNIXSK
    LATE = True  # connections are made by those whose credentials the other end sees

    def __init__(self, options: Any, log: Log) -> None:
        super().__init__(options, log)
        self._listed: dict[int, sockdiag.Unix] = {}
        self._holders: dict[str, set[int]] | None = None  # who has sockets
        self._socks: dict[int, Socket] = {}  # by inode
        self._arrived: list[OpenFile] = []  # our own descriptors for what was sent and not received
        self._maker: making.Maker | None = None

    # ------------------------------------------------------------------------------------------------------------ dump

    def matches(self, file: OpenFile) -> bool:
        """A socket of this family."""
        found = sockets.about(file)
        return found is not None and found.family == AF_UNIX

    def inspect(self, file: OpenFile) -> None:
        """Look, once and while the tree still runs, who else has sockets."""
        if self._holders is None:
            self._holders = inflight.holders("socket:[")

    def gather(self, files: list[OpenFile], saving: Saving) -> None:
        """Everything; Unsupported where a connection leads out of the tree."""
        # Of the tasks that share one, the first is the likeliest to have made it: parents come before children.
        new = {file.status.st_ino: file for file in reversed(files) if file.status.st_ino not in self._socks}
        if not new:
            return
        self._listed = self._listed or sockdiag.unix()
        found: list[Socket] = []
        try:
            while new:  # what waits in a queue may be sockets, with queues
                some = []
                for file in new.values():
                    with About(file):
                        some.append(self._look(file, saving))
                found += some
                new = self._read_queues(some, saving)
        finally:
            for one in found:
                os.close(one.fd)
        for one in found:
            with About(one.file):
                self._refuse_outsiders(one, saving)
                self._settle_pending(one)
        for one in found:
            with About(one.file):
                self._settle_peer(one, saving)

    def _look(self, file: OpenFile, saving: Saving) -> Socket:
        inode = file.status.st_ino
        if inode not in self._listed:
            raise Unsupported(f"{file.name} is not among the UNIX sockets that the kernel lists")
        number = saving.number_of(file.pid, file.fd)
        assert number is not None
        fd = file.borrow()
        try:
            one = self._socks[inode] = Socket(file, number, fd, self._listed[inode])
            _look_at_state(one)
            if one.row.name and one.row.name[0]:
                _look_at_file(one)
        except BaseException:
            os.close(fd)
            raise
        return one

    def _read_queues(self, some: list[Socket], saving: Saving) -> dict[int, OpenFile]:
        """Fill in the messages; the UNIX sockets among what came with them that are new."""
        # Where nothing waits, a look would take an error away that does.
        reading = [
            one
            for one in some
            if one.row.state != LISTEN
            and (one.row.queued or (one.row.type != SOCK_STREAM and "reset" not in one.notes))
        ]
        found = queues.peek(
            [
                queues.Queue(one.fd, one.row.type, one.row.queued, bool(one.row.shutdown & 1), one.file.name)
                for one in reading
            ]
        )
        self._arrived += [
            OpenFile(os.getpid(), fd) for messages in found for message in messages for fd in message.rights
        ]
        files = {file.fd: file for file in self._arrived}
        for one, messages in zip(reading, found, strict=True):
            with About(one.file):
                one.messages = [_with_ids(message, files, one, saving) for message in messages]
        return {
            file.status.st_ino: file
            for messages in found
            for message in messages
            for fd in message.rights
            if self.matches(file := files[fd]) and file.status.st_ino not in self._socks
        }

    def _refuse_outsiders(self, one: Socket, saving: Saving) -> None:
        if others := inflight.outsiders(self._holders, one.file.link, saving):
            told = ", ".join(map(str, others))
            raise Unsupported(
                f"{one.file.name} is a socket that process {told} outside the tree has open, too",
                "a restore would make another socket of it; dump the process that is the parent of both, or let one of "
                "them close it",
            )

    def _settle_pending(self, server: Socket) -> None:
        """Connections that wait to be accepted: their clients refer to the listening socket, as in CRIU's images."""
        if self.options.skip_in_flight:
            return
        for inode in server.row.pending:
            client = self._socks.get(inode)
            if client is None:
                who = f"a process outside the tree ({_owner(inode)})" if inode else "a process that has gone since"
                raise Unsupported(
                    f"{server.file.name} has a connection waiting to be accepted, from {who}",
                    "try again when it has been accepted, or drop such connections with --skip-in-flight",
                )
            if client.row.sent:
                raise Unsupported(
                    f"{client.file.name} has sent something to {server.file.name}, which has not accepted it yet",
                    "what is sent can be read only from an accepted connection; try again, or drop such connections "
                    "with --skip-in-flight",
                )
            client.peer = server.row.inode
            client.notes |= _connector(client.file.pid)
        if server.row.pending:
            server.notes["pending"] = struct.pack(f"={len(server.row.pending)}I", *server.row.pending)

    def _settle_peer(self, one: Socket, saving: Saving) -> None:
        if one.peer in self._socks:
            return
        if one.peer and one.peer == self.options.service_socket:
            one.serves_us, one.peer = True, 0
        elif one.peer:
            self._keep_outside(one, self._listed.get(one.peer), saving)
        elif one.row.peer == 0 and not one.is_datagram and one.row.shutdown != 3:  # a peer that is gone shuts down both
            waiting = [server.inode for server in self._listed.values() if one.row.inode in server.pending]
            if not (waiting and waiting[0] in self._socks):
                raise _leads_out(one, waiting[0] if waiting else 0)

    def _keep_outside(self, one: Socket, peer: sockdiag.Unix | None, saving: Saving) -> None:
        """A peer outside the tree: an entry of its own, as CRIU has it."""
        wanted = self.options.ext_unix_sk
        chosen = wanted is not None and (not wanted or {str(one.row.inode), str(one.peer)} & set(wanted.split(",")))
        if peer is None or not one.is_datagram or not chosen:
            raise _leads_out(one, one.peer)
        if not peer.name:
            raise Unsupported(
                f"{one.file.name} is connected to a socket outside the tree that has no name ({_owner(one.peer)})",
                "nobody could connect to it again",
            )
        saving.lend_entry(checked.outside_entry(saving.fresh(), peer.inode, peer.type, _ended(peer.name)))

    def dump(self, file: OpenFile, number: int, saving: Saving) -> Any:
        """The image of one socket."""
        one = self._socks[file.status.st_ino]
        row = one.row
        entry = m.unix_sk_entry(
            id=number, ino=row.inode, type=row.type, state=row.state, flags=file.flags, uflags=0, backlog=row.sent,
            peer=one.peer, fown=no_owner(), opts=one.opts, name=_ended(row.name or b""), ns_id=NET_NS,
        )  # fmt: skip
        if row.shutdown:
            entry.shutdown = row.shutdown
        if one.serves_us:
            entry.state, entry.uflags = CLOSE, checked.SERVICE
        if one.perms is not None:
            entry.file_perms.CopyFrom(one.perms)
        if one.directory:
            entry.name_dir = one.directory
        if one.deleted:
            entry.deleted = True
        return m.file_entry(type=self.TYPE, id=number, usk=entry)

    def write(self, new: NewCheckpoint) -> None:
        """sk-queues.img with all messages, and the notes."""
        packets = [
            (
                m.sk_packet_entry(
                    id_for=one.number,
                    length=len(message.data),
                    scm=[m.scm_entry(type=queues.SCM_RIGHTS, rights=message.rights)] if message.rights else [],
                ),
                message.data,
            )
            for one in self._socks.values()
            for message in one.messages
        ]
        if packets:
            new.write("sk-queues.img", packets)
        for one in self._socks.values():
            if note := queues.pack_note(one.messages):
                one.notes["queue"] = note
        new.write_any(checked.NOTES_IMAGE, own.socket_entries({one.number: one.notes for one in self._socks.values()}))

    def thaw(self) -> None:
        """Let go what came with messages; a deleted file must stay until it has been copied."""
        arrived, self._arrived = self._arrived, []
        for file in arrived:
            if os.path.isfile(f"/proc/self/fd/{file.fd}"):
                self._arrived.append(file)
            else:
                os.close(file.fd)

    # --------------------------------------------------------------------------------------------------------- restore

    def read(self, images: ImagesDir, entries: list[Any]) -> None:
        """Queues and notes, held against the entries."""
        self._maker = making.Maker(images, [entry.usk for entry in entries], self.log)
        self.lent = self._maker.outside

    def rehearse(self, entry: Any) -> None:
        """Nobody has its name; who is to be there outside is there."""
        if self._maker is not None:
            self._maker.rehearse(entry.id)

    def open(self, entry: Any, opening: Opening) -> int:
        """One socket; all are made when the first is asked for."""
        assert self._maker is not None
        return self._maker.take(entry.id, opening)

    def finish(self, opening: Opening) -> None:
        """Fill the queues and set what would have been in the way."""
        if self._maker is not None:
            self._maker.finish(opening)

    def close(self) -> None:
        """Close what nobody has taken, and what had to stay."""
        for file in self._arrived:
            os.close(file.fd)
        self._arrived = []
        if self._maker is not None:
            self._maker.close()


def _with_ids(message: queues.Message, files: dict[int, OpenFile], one: Socket, saving: Saving) -> queues.Message:
    """The message with ids in place of our descriptors."""
    try:
        ids = tuple(saving.adopt(files[fd]) for fd in message.rights)
    except Unsupported as error:
        raise Unsupported(f"sent to {one.file.name} and not yet received: {error.message}", error.hint) from None
    return queues.Message(message.data, message.sender, message.credentials, ids)


def _look_at_state(one: Socket) -> None:
    """Errors, out-of-band bytes, credentials and the name of the peer."""
    events = libc.poll(one.fd, select.POLLPRI)
    if events & select.POLLPRI:
        raise Unsupported(f"{one.file.name} has an out-of-band byte (MSG_OOB) waiting, which cannot be saved")
    if events & select.POLLERR:  # ECONNRESET: no other error is kept for later
        if one.row.type != SOCK_STREAM and (one.is_datagram or one.row.queued):
            raise Unsupported(
                f"{one.file.name} has an error waiting (ECONNRESET), which a look at its messages would take away",
                "try again when the task has read it",
            )
        one.notes["reset"] = b""
    credentials = sockets.get(one.fd, sockets.SO_PEERCRED, 12)
    pid, user, group = queues.UCRED.unpack(credentials)
    if (user, group) != (_NOBODY, _NOBODY):
        one.notes["peercred"] = credentials
        one.notes["peergroups"] = _groups(one.fd)
    if not pid and "peercred" in one.notes:
        one.notes["peercred"] = queues.UCRED.pack(-1, user, group)  # in a PID namespace that we do not see
    status = one.file.status
    if status.st_uid or status.st_gid:
        one.notes["owner"] = struct.pack("=II", status.st_uid, status.st_gid)
    if one.row.peer == 0 and one.row.state != LISTEN:
        one.notes["peername"] = _peer_name(one.fd)


def _groups(fd: int) -> bytes:
    for room in (256, 1 << 18):  # bytes; more than 64 groups are rare
        try:
            return sockets.get(fd, sockets.SO_PEERGROUPS, room)
        except KernelError as error:
            if error.errno != ERANGE:
                return b""  # a kernel older than 4.13, or nobody's
    return b""


def _peer_name(fd: int) -> bytes:
    one = _socket.socket(fileno=fd)
    try:
        name: bytes = os.fsencode(one.getpeername() or b"")
        return name
    except OSError:
        return b""
    finally:
        one.detach()


def _look_at_file(one: Socket) -> None:
    """Where the file lies to which the socket is bound, and whose it is."""
    name = one.row.name or b""
    if not procfs.is_utf8(name.decode("utf-8", "surrogateescape")):
        raise Unsupported(f"{one.file.name} is bound to a path that is not UTF-8 ({name!r}), which no image can hold")
    try:
        fd = fcntl.ioctl(one.fd, SIOCUNIXFILE)
    except OSError as error:
        if error.errno not in (ENOENT, EINVAL):
            raise
        one.deleted = True
        return
    try:
        status, where = os.fstat(fd), os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
    one.perms = m.file_perms_entry(mode=status.st_mode, uid=status.st_uid, gid=status.st_gid)
    one.deleted = not status.st_nlink or where.endswith(" (deleted)")
    where = where.removesuffix(" (deleted)")
    text = name.decode()
    if not text.startswith("/"):
        one.directory = (where[: -len(text)] if where.endswith("/" + text) else os.path.dirname(where)).rstrip(
            "/"
        ) or "/"
    if where != text and where != os.path.join(one.directory, text) and not one.deleted:
        one.notes["where"] = where.encode()


def _connector(pid: int) -> dict[str, bytes]:
    """Whom the other end will see when it accepts, as nobody tells before: the task as it is now."""
    status = procfs.parse_status(procfs.text(pid, "status"))
    groups = [int(word) for word in status["Groups"].split()]
    return {
        "connector": queues.UCRED.pack(pid, int(status["Uid"].split()[1]), int(status["Gid"].split()[1])),
        "connectorgroups": struct.pack(f"={len(groups)}I", *groups),
    }


def _ended(name: bytes) -> bytes:
    """A path with the zero byte that ends it, as CRIU's images have it."""
    return name + b"\0" if name and name[0] else name


def _leads_out(one: Socket, peer: int) -> Unsupported:
    if one.is_datagram:
        hint = "add --ext-unix-sk to connect it again to the socket of that name"
    else:
        hint = "dump the tree that has both ends, or let the task close it; --ext-unix-sk is for datagram sockets only"
    return Unsupported(
        f"{one.file.name} is connected to a UNIX socket outside the tree ({_owner(peer)})",
        hint,
    )


def _owner(inode: int) -> str:
    """Who has a socket, for a message; nobody waits long for an error."""
    wanted = f"socket:[{inode}]"
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                if os.readlink(f"/proc/{pid}/fd/{fd}") == wanted:
                    return f"descriptor {fd} of process {pid}, {procfs.stat(int(pid)).comm}"
        except (OSError, TraceeGone):
            continue
    return f"inode {inode}" if inode else "nobody knows whose"
