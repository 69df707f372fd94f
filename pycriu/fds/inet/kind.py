# SPDX-License-Identifier: GPL-2.0-only
"""Sockets of IPv4 and IPv6: TCP, UDP, UDP-Lite, ICMP and raw ones.

A TCP connection is kept with --tcp-established (`connections`, kernel.tcp), or closed with --tcp-close. Connections
that nobody has accepted are lost, with --skip-in-flight; so are packets that nobody has read from a raw socket.
Refused: what has an error or urgent data waiting, upper protocols (TLS), keys by which segments are signed (MD5,
TCP-AO), MPTCP, other protocols.
"""

from __future__ import annotations

import _socket
import os
import termios

from pycriu.errors import About, ImageError, Unsupported, UserError
from pycriu.fds import queues, sockets
from pycriu.fds.inet import connections, datagrams, endpoints, locks, settings, states
from pycriu.fds.inet.connections import Held, Hold, Rebuilt
from pycriu.fds.inet.states import POLLERR, POLLIN, POLLPRI, POLLRDHUP
from pycriu.fds.kind import Kind
from pycriu.fds.openfile import OpenFile, no_owner
from pycriu.images import messages as m
from pycriu.images import own
from pycriu.kernel import nftables, sockdiag, tcp
from pycriu.kernel.nftables import Connection
from pycriu.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pycriu.fds.opening import Opening
    from pycriu.fds.saving import Saving
    from pycriu.images.store import ImagesDir, NewCheckpoint
    from pycriu.log import Log

AF_INET, AF_INET6 = 2, 10
STREAM, DGRAM, RAW = _socket.SOCK_STREAM, _socket.SOCK_DGRAM, _socket.SOCK_RAW
TCP, UDP, UDPLITE, ICMP, ICMPV6 = 6, 17, 136, 1, 58
_KEPT = {(STREAM, TCP), (DGRAM, UDP), (DGRAM, UDPLITE), (DGRAM, ICMP), (DGRAM, ICMPV6)}
_MAX_BACKLOG = (1 << 31) - 1
_SOCKETS = "pycriu-sockets-inet.img"
_TABLE, _ENDED, _DATAGRAMS = "table", "ended", "datagrams"
_TABLE_NUMBER = 0  # the note with the names of tables belongs to no socket
_IN_FLIGHT = "connections that are not yet accepted can be dropped with --skip-in-flight"
_KNOWN = settings.NOTES | sockets.NOTES | {_TABLE, _ENDED, _DATAGRAMS}
_ENOTCONN = 107


@record
class Known:
    """A socket as it was read while all stood still."""

    about: sockets.About
    state: int
    local: tuple[Any, ...]
    remote: tuple[Any, ...] | None
    backlog: int
    shutdown: int
    opts: Any  # sk_opts_entry
    options: dict[str, bytes]


class Inet(Kind):
    """Everything of AF_INET and AF_INET6."""

    TYPE = 4  # fd_types.INETSK

    def __init__(self, options: Any, log: Log) -> None:
        super().__init__(options, log)
        self._known: dict[int, Known] = {}  # by inode, as the rest
        self._streams: dict[int, tcp.Stream] = {}
        self._notes: dict[int, dict[str, bytes]] = {}
        self._holds: list[Hold] = []
        self._lock_checked = False
        self._run_id = ""
        self._rebuilt = Rebuilt()
        self._pending: list[tuple[Any, _socket.socket]] = []

    # ------------------------------------------------------------------------------------------------------------ dump

    def matches(self, file: OpenFile) -> bool:
        """A socket of IPv4 or IPv6."""
        about = sockets.about(file)
        return about is not None and about.family in (AF_INET, AF_INET6)

    def inspect(self, file: OpenFile) -> None:
        """Unsupported for other protocols, and for what the options given do not allow."""
        about = sockets.about(file)
        assert about is not None
        if (about.type, about.protocol) not in _KEPT and about.type != RAW:
            raise Unsupported(
                f"{file.name} is a {about.words} (type {about.type}, protocol {about.protocol}), which cannot be saved",
                "let the task close it before the dump",
            )
        sock = _socket.socket(fileno=file.borrow())
        try:
            self._inspect_waiting(file, sock)
            if about.protocol == TCP and about.type == STREAM:
                self._inspect_tcp(file, sock)
        finally:
            sock.close()

    def _inspect_waiting(self, file: OpenFile, sock: _socket.socket) -> None:
        events = states.poll(sock)
        if events & POLLERR:
            raise Unsupported(
                f"{file.name} has an error waiting, which can be read but once", "let the task read it before the dump"
            )
        if sock.type == DGRAM and tcp.queued(sock, termios.TIOCOUTQ):
            raise Unsupported(f"{file.name} holds back a datagram (UDP_CORK, MSG_MORE), which cannot be read")

    def _inspect_tcp(self, file: OpenFile, sock: _socket.socket) -> None:
        info = tcp.info(sock)
        ulp = sockets.try_get(sock.fileno(), tcp.TCP_ULP, 16, TCP)
        if ulp and ulp.strip(b"\0"):
            raise Unsupported(
                f"{file.name} has the upper protocol {ulp.strip(bytes(1)).decode('ascii', 'replace')} (TCP_ULP), "
                "whose keys cannot be read"
            )
        if how := states.keys(sock, info.state, file.name):
            raise _signed(file, how)
        if info.state == tcp.LISTEN:
            self._inspect_listener(file, info)
        elif info.state == tcp.SYN_RECV:
            raise Unsupported(f"{file.name} is a connection that is being opened (SYN_RECV), which cannot be saved")
        elif info.state != tcp.CLOSE:
            self._inspect_connection(file, sock, info)

    def _inspect_listener(self, file: OpenFile, info: tcp.Info) -> None:
        if info.waiting and not self.options.skip_in_flight:
            raise Unsupported(f"{file.name} has {info.waiting} connections waiting to be accepted", _IN_FLIGHT)

    def _inspect_connection(self, file: OpenFile, sock: _socket.socket, info: tcp.Info) -> None:
        name = f"{file.name} is a TCP connection ({tcp.NAMES.get(info.state, info.state)})"
        if not (self.options.tcp_established or self.options.tcp_close):
            raise Unsupported(name, "keep it with --tcp-established, or let it be closed with --tcp-close")
        if self.options.tcp_close:
            return
        if states.poll(sock) & POLLPRI:
            raise Unsupported(f"{name} with urgent data (MSG_OOB) that has not been read")
        if not self._lock_checked and self.options.network_lock != "skip":
            why = nftables.available()
            if why is not None:
                raise Unsupported(
                    f"{name}, whose packets cannot be held back: this kernel has no nf_tables ({why})",
                    "CONFIG_NF_TABLES_INET is missing; with --network-lock skip they are not, and the connection "
                    "breaks if its peer sends anything meanwhile",
                )
            self._lock_checked = True

    def gather(self, files: list[OpenFile], saving: Saving) -> None:
        """Hold all connections, then read them and everything of the other sockets."""
        fresh = {file.status.st_ino: file for file in files if file.status.st_ino not in self._known}
        diag = states.diag(list(fresh.values()))
        held: list[Held] = []
        for inode, file in fresh.items():
            sock = _socket.socket(fileno=file.borrow())
            with About(file):
                known = self._known[inode] = self._look(file, sock, diag.get(inode & 0xFFFFFFFF))
                if known.remote is not None and _is_kept(known, self.options):
                    held.append(Held(sock, file))
                    continue
                self._look_waiting(file, sock, known)
            sock.close()
        if held:
            self._hold(held)

    def _hold(self, held: list[Held]) -> None:
        ends = [self._ends(one) for one in held]
        table = None
        if self.options.network_lock != "skip":
            self._run_id = self._run_id or locks.fresh_id(self.options.pid)
            table = locks.table(self._run_id, len(self._holds))
            known = self._notes.setdefault(_TABLE_NUMBER, {})
            known[_TABLE] = known.get(_TABLE, b"") + table.encode() + b"\n"
        hold = Hold(held, table, ends)
        if table:
            self.log.info("%d connections are held by the nf_tables table %s", len(held), table)
        self._holds.append(hold)
        for number, one in enumerate(held):
            self._streams[one.file.status.st_ino] = hold.read(number)

    def _ends(self, one: Held) -> Connection:
        known = self._known[one.file.status.st_ino]
        return endpoints.connection(known.local, known.remote)

    def _look(self, file: OpenFile, sock: _socket.socket, diag: sockdiag.Inet | None) -> Known:
        about = sockets.about(file)
        assert about is not None
        fd = sock.fileno()
        info = tcp.info(sock) if about.protocol == TCP and about.type == STREAM else None
        remote = states.peer(sock, connecting=info is not None and info.state == tcp.SYN_SENT, diag=diag)
        state = info.state if info else tcp.ESTABLISHED if remote else tcp.CLOSE
        if how := states.keys_of(diag):
            raise _signed(file, how)
        connected = info is not None and (state not in (tcp.CLOSE, tcp.LISTEN) or bool(states.poll(sock) & POLLRDHUP))
        options = settings.look(sock, about, connected=connected)
        backlog = info.backlog if info and state == tcp.LISTEN else 0
        shutdown = states.shutdown(sock, diag, info)
        self._notes[file.status.st_ino & 0xFFFFFFFF] = options | sockets.notes(fd)
        return Known(about, state, sock.getsockname(), remote, backlog, shutdown, sockets.entry(fd, file.name), options)

    def _look_waiting(self, file: OpenFile, sock: _socket.socket, known: Known) -> None:
        if known.about.type != STREAM:
            if states.poll(sock) & POLLIN:
                self._look_datagrams(file, sock, known)
        elif known.state == tcp.CLOSE and states.poll(sock) & POLLRDHUP:
            waiting = tcp.queued(sock, termios.FIONREAD)
            data = sock.recv(waiting, tcp.MSG_PEEK | tcp.MSG_DONTWAIT) if waiting else b""
            self._notes[file.status.st_ino & 0xFFFFFFFF][_ENDED] = data

    def _look_datagrams(self, file: OpenFile, sock: _socket.socket, known: Known) -> None:
        if known.about.protocol not in (UDP, UDPLITE) or known.about.type == RAW:
            self.log.warn("%s has packets that nobody has read: they are lost", file.name)
            return
        with queues.guarded([sock.fileno()]):
            waiting = datagrams.peek(sock)
        self._notes[file.status.st_ino & 0xFFFFFFFF][_DATAGRAMS] = datagrams.pack(waiting)

    def dump(self, file: OpenFile, number: int, saving: Saving) -> Any:
        """The image of one socket."""
        known = self._known[file.status.st_ino]
        about, local, remote = known.about, known.local, known.remote
        state = known.state
        closed = about.protocol == TCP and remote is not None and not _is_kept(known, self.options)
        if closed:
            state, remote, local = tcp.CLOSE, None, endpoints.nowhere(about.family)
        entry = m.inet_sk_entry(
            id=number, ino=file.status.st_ino & 0xFFFFFFFF, family=about.family, type=about.type, proto=about.protocol,
            state=state, src_port=local[1], dst_port=remote[1] if remote else 0, flags=file.flags,
            backlog=known.backlog, src_addr=endpoints.words(local[0], about.family), opts=known.opts, fown=no_owner(),
            dst_addr=endpoints.words(remote[0] if remote else "", about.family),
            ip_opts=settings.ip_entry(known.options, about),
        )  # fmt: skip
        if about.family == AF_INET6:
            entry.v6only = bool(any(known.options.get("ipv6_v6only", b"")))
        for address in (local, remote):
            if address is not None and len(address) > 3 and address[3]:
                entry.ifname = _socket.if_indextoname(address[3])
        if about.protocol == TCP and about.type == STREAM:
            entry.tcp_opts.CopyFrom(settings.tcp_entry(known.options))
        if known.shutdown and not closed:
            entry.shutdown = known.shutdown
        return m.file_entry(type=self.TYPE, id=number, isk=entry)

    def write(self, new: NewCheckpoint) -> None:
        """tcp-stream-X.img of each connection, X its inode in hex; our own notes."""
        for inode, stream in self._streams.items():
            entry = connections.entry_of(stream, self._notes[inode & 0xFFFFFFFF])
            new.write(f"tcp-stream-{inode & 0xFFFFFFFF:x}.img", [(entry, stream.received + stream.sent)])
        new.write_any(_SOCKETS, own.socket_entries(self._notes))

    def before_kill(self, pids: list[int]) -> None:
        """The connections end with their processes, and in silence."""
        for hold in self._holds:
            hold.before_kill(pids)
            if hold.table:
                text = "until a restore no packet of the connections passes; to give them up: nft delete table inet %s"
                self.log.info(text, hold.table)

    def thaw(self) -> None:
        """Let the connections go on."""
        for hold in self._holds:
            hold.thaw()
        self._holds = []

    def tell(self, inventory: Any) -> None:
        """Into the inventory: whether connections are to be closed, and what holds them until a restore."""
        inventory.network_lock_method = locks.NFTABLES if self._run_id else locks.SKIP
        if self._run_id:
            inventory.dump_criu_run_id = self._run_id
        if self.options.tcp_close:
            inventory.tcp_close = True

    # --------------------------------------------------------------------------------------------------------- restore

    def read(self, images: ImagesDir, entries: list[Any]) -> None:
        """Our notes, and the queues of the connections; UserError where the options do not allow any."""
        self._notes = own.socket_notes(images, _SOCKETS, _KNOWN)
        named = self._notes.get(_TABLE_NUMBER, {}).get(_TABLE, b"")
        self._rebuilt.tables = [locks.table_of(line) for line in named.split(b"\n")[:-1]]
        closes = self.options.tcp_close or images.inventory().tcp_close
        for entry in entries:
            isk = entry.isk
            name = f"the socket {isk.id}"
            about = _check_entry(isk, name)
            mine = self._notes.get(isk.ino, {})
            sockets.check(isk.opts, name)
            sockets.check_notes(mine, name, {})
            settings.check(_options(isk, mine), about, name)
            datagrams.parse(mine.get(_DATAGRAMS, b""), name)
            if not _is_connection(isk) or closes:
                continue
            if not self.options.tcp_established:
                raise UserError(
                    "there are TCP connections in this checkpoint",
                    "restore it with --tcp-established, or with --tcp-close and without them",
                )
            pairs = images.read_with_payloads(f"tcp-stream-{isk.ino:x}.img")
            if len(pairs) != 1:
                raise ImageError(f"tcp-stream-{isk.ino:x}.img: {len(pairs)} entries where one is expected")
            self._streams[isk.ino] = connections.stream_of(isk.state, *pairs[0])
            self._look_for_foreign_locks(images, isk)

    def _look_for_foreign_locks(self, images: ImagesDir, isk: Any) -> None:
        """Whether CRIU has left something that holds this connection."""
        if self._rebuilt.tables:
            return
        if self._rebuilt.foreign is None:
            self._rebuilt.foreign = locks.Foreign(images, self.log)
        ends = (endpoints.address(isk, isk.src_addr, isk.src_port), endpoints.address(isk, isk.dst_addr, isk.dst_port))
        self._rebuilt.foreign.connections.append(endpoints.connection(*ends))

    def rehearse(self, entry: Any) -> None:
        """Its address is of this machine, and nobody has its port."""
        isk = entry.isk
        options = _options(isk, self._notes.get(isk.ino, {}))
        if not _is_connection(isk) or not self.options.tcp_close:
            free = any(any(options.get(name, b"")) for name in settings.ANY_ADDRESS)
            endpoints.refuse_taken(isk, free=free)

    def open(self, entry: Any, opening: Opening) -> int:
        """Make the socket. It listens only when all are bound, and stays in repair mode until the end."""
        isk = entry.isk
        about = sockets.About(isk.family, isk.type, isk.proto)
        sock = _make(about)
        try:
            os.set_blocking(sock.fileno(), not isk.flags & os.O_NONBLOCK)
            self._open(isk, about, sock)
        except OSError as error:
            raise UserError(f"the socket {isk.id} cannot be made as it was: {error.strerror or error}") from None
        finally:
            fd = sock.detach()
        return fd

    def _open(self, isk: Any, about: sockets.About, sock: _socket.socket) -> None:
        fd, mine = sock.fileno(), self._notes.get(isk.ino, {})
        options = _options(isk, mine)
        is_tcp = about.protocol == TCP and about.type == STREAM
        sockets.restore_reuse(fd, isk.opts)
        if is_tcp:  # sockets that share a port may come in any order; the true value is set in `finish`
            sockets.set_int(fd, sockets.SO_REUSEADDR, 1)
        sockets.restore(fd, _before_bind(isk.opts))
        settings.restore(fd, options, about, lambda name: name not in settings.WITH_CONNECTION)
        if is_tcp and isk.ino in self._streams:
            self._open_connection(isk, about, sock, options)
        elif _ENDED in mine and is_tcp:
            self._enlarge(fd)
            local = endpoints.address(isk, isk.src_addr, isk.src_port)
            connections.make_ended(
                sock, mine[_ENDED], local, endpoints.connection(local, local), local[3] if local[3:] else 0
            )
        else:
            self._bind_and_connect(isk, about, sock)
            self._put_back(isk, sock, mine.get(_DATAGRAMS, b""))
        settings.restore(fd, options, about, lambda name: name in settings.WITH_CONNECTION)
        if "groups" in options:
            settings.join(fd, options["groups"], f"the socket {isk.id}")
        sockets.restore(fd, isk.opts)
        sockets.restore_notes(fd, mine)

    @staticmethod
    def _enlarge(fd: int) -> None:
        """Room for any queue; the true sizes come with the other options."""
        sockets.set_int(fd, sockets.SO_SNDBUFFORCE, _MAX_BACKLOG // 2)
        sockets.set_int(fd, sockets.SO_RCVBUFFORCE, _MAX_BACKLOG // 2)

    def _open_connection(self, isk: Any, about: sockets.About, sock: _socket.socket, options: dict[str, bytes]) -> None:
        stream = self._streams[isk.ino]
        local, remote = (
            endpoints.address(isk, isk.src_addr, isk.src_port),
            endpoints.address(isk, isk.dst_addr, isk.dst_port),
        )
        ends = endpoints.connection(local, remote)
        self._enlarge(sock.fileno())
        self._rebuilt.build(sock, stream, (local, remote), int(isk.opts.reuseaddr))
        settings.restore(sock.fileno(), options, about, lambda name: name in settings.WITH_CONNECTION)
        self._rebuilt.finish(sock, stream, ends, local[3] if local[3:] else 0)
        if isk.shutdown & 1 and stream.state not in tcp.PEER_FINISHED:
            sock.shutdown(_socket.SHUT_RD)

    def _put_back(self, isk: Any, sock: _socket.socket, note: bytes) -> None:
        waiting = datagrams.parse(note, f"the socket {isk.id}")
        if not waiting:
            return
        self._enlarge(sock.fileno())
        arrived = datagrams.put_back(sock, isk.proto, waiting, True if isk.state == tcp.ESTABLISHED else None)
        if arrived < len(waiting):
            self.log.warn("Of %d datagrams that waited in the socket %d, %d are lost", len(waiting), isk.id,
                          len(waiting) - arrived)  # fmt: skip

    def _bind_and_connect(self, isk: Any, about: sockets.About, sock: _socket.socket) -> None:
        if any(isk.src_addr) or (isk.src_port and about.type != RAW):
            endpoints.bind(sock, endpoints.address(isk, isk.src_addr, isk.src_port))
        if about.protocol == TCP and about.type == STREAM:
            self._pending.append((isk, _socket.socket(fileno=os.dup(sock.fileno()))))
        elif isk.state == tcp.ESTABLISHED:
            sock.connect(endpoints.address(isk, isk.dst_addr, isk.dst_port))
        if isk.shutdown:
            try:
                sock.shutdown({1: _socket.SHUT_RD, 2: _socket.SHUT_WR, 3: _socket.SHUT_RDWR}[isk.shutdown])
            except OSError as error:
                if error.errno != _ENOTCONN:  # what the kernel says although it has done it
                    raise

    def finish(self, opening: Opening) -> None:
        """All are bound: who listened listens again."""
        for isk, sock in self._pending:
            if isk.state == tcp.LISTEN:
                try:
                    sock.listen(min(isk.backlog, _MAX_BACKLOG))
                except OSError as error:
                    raise UserError(f"the socket {isk.id} cannot listen again: {error.strerror}") from None
            sockets.restore_reuse(sock.fileno(), isk.opts)

    def is_delicate(self) -> bool:
        """Peers must not hear of a restore that fails."""
        return bool(self._streams or self._rebuilt.tables)

    def let_go(self) -> None:
        """The connections become such, but nothing comes or goes yet."""
        self._rebuilt.let_go()

    def hold(self) -> None:
        """Whoever has the connections is about to end: let nobody hear of it."""
        self._rebuilt.hold()

    def released(self) -> None:
        """The tasks live: let the packets through."""
        self._rebuilt.released()

    def close(self) -> None:
        """Give back our own descriptors."""
        for _, sock in self._pending:
            sock.close()
        self._pending = []
        self._rebuilt.close()


def _signed(file: OpenFile, how: str) -> Unsupported:
    return Unsupported(
        f"{file.name} has keys by which its segments are signed, {how}, which cannot be saved",
        "let the program open the connection without them, or close it before the dump",
    )


def _make(about: sockets.About) -> _socket.socket:
    try:
        return _socket.socket(about.family, about.type | os.O_CLOEXEC, about.protocol)
    except OSError as error:
        hint = "the sysctl net.ipv4.ping_group_range must allow it" if about.type == DGRAM else None
        raise UserError(
            f"a {about.words} of protocol {about.protocol} cannot be made: {error.strerror}", hint
        ) from None


def _before_bind(opts: Any) -> Any:
    """Those of the common options that decide what a socket can be bound to or reach."""
    early = m.sk_opts_entry(
        so_sndbuf=0, so_rcvbuf=0, so_snd_tmo_sec=0, so_snd_tmo_usec=0, so_rcv_tmo_sec=0, so_rcv_tmo_usec=0,
        so_bound_dev=opts.so_bound_dev,
    )  # fmt: skip
    for name in ("so_mark", "so_dontroute", "so_broadcast"):
        if opts.HasField(name):
            setattr(early, name, getattr(opts, name))
    return early


def _options(isk: Any, mine: dict[str, bytes]) -> dict[str, bytes]:
    return settings.from_entry(isk) | {key: mine[key] for key in mine.keys() & settings.NOTES}


def _is_kept(known: Known, options: Any) -> bool:
    """Whether it is a TCP connection that goes into the images."""
    return known.about.protocol == TCP and known.about.type == STREAM and not options.tcp_close


def _is_connection(isk: Any) -> bool:
    return bool(isk.proto == TCP and isk.type == STREAM and isk.state in (*tcp.CONNECTED, tcp.SYN_SENT))


def _check_entry(isk: Any, name: str) -> sockets.About:
    """ImageError for what is no socket of ours."""
    about = sockets.About(isk.family, isk.type, isk.proto)
    if isk.family not in (AF_INET, AF_INET6) or ((isk.type, isk.proto) not in _KEPT and isk.type != RAW):
        raise ImageError(f"{name} is of family {isk.family}, type {isk.type}, protocol {isk.proto}, which is not known")
    size = 1 if isk.family == AF_INET else 4
    if len(isk.src_addr) != size or len(isk.dst_addr) not in (0, size):
        raise ImageError(f"{name} has an address of {len(isk.src_addr)} and one of {len(isk.dst_addr)} words")
    if isk.src_port > 0xFFFF or isk.dst_port > 0xFFFF or isk.proto > 0xFF or isk.shutdown > 3:
        raise ImageError(f"{name} has a port or protocol that is out of bounds")
    if isk.state not in tcp.NAMES or isk.state in (tcp.SYN_RECV, tcp.TIME_WAIT):
        raise ImageError(f"{name} is in state {isk.state}, which no socket with a descriptor has")
    return about
