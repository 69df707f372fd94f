# SPDX-License-Identifier: GPL-2.0-only
"""TCP connections while nobody is there: held at a dump, built again at a restore, and the peer sees neither.

At a dump, nf_tables drops every packet of the connections before their queues are read, and goes on doing so until a
restore has built them again: so the peer keeps sending what it has sent in vain, and is never told that nobody is here.
A connection that ends with its process does so in repair mode, which is silent.

Whatever happens to us, no socket stays in repair mode and no rule stays but for a checkpoint that is whole: a guard of
our own making has the sockets, too, and undoes or finishes what we have begun if we end. It also does the reading: a
task that goes on because we have ended must not find its socket in repair mode, and the guard is through with one
connection long before the kernel has brought our own end so far.
"""

from __future__ import annotations

import _socket
import marshal
import os
import select
import signal
import struct
import time

from pycriu.errors import ImageError, KernelError, UserError
from pycriu.fds.inet import endpoints
from pycriu.images import messages as m
from pycriu.kernel import libc, nftables, segment, tcp
from pycriu.kernel.nftables import Connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pycriu.fds.inet.locks import Foreign
    from pycriu.fds.openfile import OpenFile

_KILL, _READ = b"k", b"r"  # what the guard is told
ESRCH = 3
_PATIENCE = 5.0  # seconds for a packet to ourselves
_AGAIN = 0.2  # seconds until it is sent again


class Held:
    """One connection of the tree: our own descriptor for its socket, and what repair mode would change of it."""

    __slots__ = ("file", "peek", "reuse", "sock")

    def __init__(self, sock: _socket.socket, file: OpenFile) -> None:
        self.sock, self.file = sock, file
        self.reuse = sock.getsockopt(tcp.SOL_SOCKET, tcp.SO_REUSEADDR)
        try:
            self.peek = sock.getsockopt(tcp.SOL_SOCKET, tcp.SO_PEEK_OFF)
        except OSError:
            self.peek = -1  # before Linux 6.9 TCP has no such option

    def read(self) -> tcp.Stream:
        """Everything of the connection. The socket is in repair mode only meanwhile."""
        try:
            tcp.repair(self.sock, tcp.ON)
            if self.peek >= 0:
                self.sock.setsockopt(tcp.SOL_SOCKET, tcp.SO_PEEK_OFF, -1)
            return tcp.read(self.sock)
        finally:
            self.undo()

    def undo(self) -> None:
        """As it was."""
        tcp.repair(self.sock, tcp.OFF_IN_SILENCE)
        self.sock.setsockopt(tcp.SOL_SOCKET, tcp.SO_REUSEADDR, self.reuse)
        if self.peek >= 0:
            self.sock.setsockopt(tcp.SOL_SOCKET, tcp.SO_PEEK_OFF, self.peek)


class Hold:
    """Connections that are held until `thaw`, or, after `before_kill`, until a restore. `table` has the rules."""

    def __init__(self, held: list[Held], table: str | None, connections: list[Connection]) -> None:
        self.held, self.table = held, table
        heard, self._tell = os.pipe2(os.O_CLOEXEC)
        self._answers, answer = os.pipe2(os.O_CLOEXEC)
        self._guard = libc.fork_deaf()
        if not self._guard:
            self._watch(heard, answer)
        os.close(heard)
        os.close(answer)
        self._doomed = False
        try:
            if table:
                nftables.hold(table, connections)
        except BaseException:
            self.thaw()
            raise

    def before_kill(self, pids: list[int]) -> None:
        """From here on `pids` will end, even if we do first, and without a word to any peer."""
        self.order(_KILL, struct.pack(f"={len(pids)}i", *pids))
        self._doomed = True

    def read(self, number: int) -> tcp.Stream:
        """Everything of the connection of this number."""
        code, *values = marshal.loads(self.order(_READ, struct.pack("=I", number)))
        if code:
            raise KernelError("TCP_REPAIR", code, self.held[number].file.name)
        values[-1] = tcp.Window(*values[-1])
        return tcp.Stream(*values)

    def order(self, what: bytes, data: bytes) -> bytes:
        """Have the guard do something; its answer."""
        _write(self._tell, what + struct.pack("=I", len(data)) + data)
        answer = _message(self._answers, 4)
        if answer is None:
            raise KernelError("read", ESRCH, "the guard of the connections has ended")
        return answer

    def thaw(self) -> None:
        """Let the connections go on, unless their end has been decided. More than once."""
        if not self._guard:
            return
        if not self._doomed:
            self._undo()
        os.close(self._tell)
        os.close(self._answers)
        os.waitpid(self._guard, 0)  # it undoes it once more, or sees to it that all have ended
        self._guard = 0
        for one in self.held:
            one.sock.close()

    def _silence(self) -> None:
        for one in self.held:
            tcp.repair(one.sock, tcp.ON)

    def _undo(self) -> None:
        try:
            for one in self.held:
                one.undo()
        finally:
            if self.table:
                nftables.let_go(self.table)

    def _watch(self, heard: int, answer: int) -> None:
        """The guard's life. Where it is told nothing any more, we have ended."""
        try:
            os.setsid()  # what a terminal sends to us is not for it
            _close_all_but({heard, answer, *(one.sock.fileno() for one in self.held)})
            doomed = self._serve(heard, answer)
            if doomed is None:
                self._undo()
            else:
                _end(doomed)
                self._silence()  # not before: nobody may see it; our own descriptors have kept the sockets open
        finally:
            os._exit(0)

    def _serve(self, heard: int, answer: int) -> list[int] | None:
        """Do what we are told as long as there is somebody; pidfds of those who are to end, if that was decided."""
        doomed = None
        while (order := _message(heard, 5)) is not None:
            what, data = order[:1], order[1:]
            if what == _READ:
                told = self._read(*struct.unpack("=I", data))
            else:
                pids = struct.unpack(f"={len(data) // 4}i", data)
                doomed, told = [fd for pid in pids if (fd := _pidfd(pid)) >= 0], b""
            try:
                _write(answer, struct.pack("=I", len(told)) + told)
            except BrokenPipeError:
                break
        return doomed

    def _read(self, number: int) -> bytes:
        try:
            found = self.held[number].read()
        except OSError as error:
            return marshal.dumps((error.errno,))
        except KernelError as error:
            return marshal.dumps((error.errno,))
        names = found.__slots__  # type: ignore[attr-defined]
        *values, window = (getattr(found, name) for name in names)
        return marshal.dumps((0, *values, tuple(getattr(window, name) for name in window.__slots__)))


def _close_all_but(kept: set[int]) -> None:
    """What we have inherited and do not need: the lock of the images directory is not for us to hold."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in kept:
            try:
                os.close(int(name))
            except OSError:
                continue  # it was that of the list itself


def _message(fd: int, head: int) -> bytes | None:
    """One message from a pipe: an optional letter, which is kept, the length, the rest; None at the end."""
    begin = _exactly(fd, head)
    if begin is None:
        return None
    rest = _exactly(fd, struct.unpack("=I", begin[-4:])[0])
    return None if rest is None else begin[:-4] + rest


def _exactly(fd: int, size: int) -> bytes | None:
    data = b""
    while len(data) < size:
        more = os.read(fd, min(size - len(data), 1 << 20))
        if not more:
            return None
        data += more
    return data


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _pidfd(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return -1


def _end(fds: list[int]) -> None:
    """Kill whoever is left, and wait until nobody has a descriptor any more."""
    for fd in fds:
        try:
            signal.pidfd_send_signal(fd, signal.SIGKILL)
        except ProcessLookupError:
            continue
    for fd in fds:
        select.select([fd], [], [])


# --------------------------------------------------------------------------------------------------------- restore


class Rebuilt:
    """Connections that are being built again. `tables`, or what CRIU has made, hold their packets until `released`."""

    def __init__(self) -> None:
        self.tables: list[str] = []
        self.foreign: Foreign | None = None
        self._sockets: list[tuple[_socket.socket, int]] = []  # our own descriptors, SO_REUSEADDR as it was
        self._connecting: list[tuple[_socket.socket, Any]] = []
        self._released = False

    def build(self, sock: _socket.socket, stream: tcp.Stream, addresses: tuple[Any, Any],
              reuse: int) -> None:  # fmt: skip
        """Make `sock`, a fresh one, the connection between `ends`, and keep it in repair mode."""
        tcp.repair(sock, tcp.ON)
        self._sockets.append((_socket.socket(fileno=os.dup(sock.fileno())), reuse))
        local, remote = addresses
        if stream.state == tcp.SYN_SENT:
            tcp.set_sequence(sock, tcp.SEND, stream.send_sequence - 1)
            tcp.select(sock, tcp.NO_QUEUE)
            endpoints.bind(sock, local)
            self._connecting.append((self._sockets[-1][0], remote))
            return
        tcp.begin(sock, stream)
        endpoints.bind(sock, local)
        try:
            sock.connect(remote)
        except OSError as error:
            raise UserError(
                f"the connection from {endpoints.text(local)} to {endpoints.text(remote)} cannot be made again: "
                f"{error.strerror}",
                "its addresses must be reachable as they were, and nobody else may have this connection",
            ) from None
        tcp.agree(sock, stream)
        tcp.fill(sock, stream)

    @staticmethod
    def finish(sock: _socket.socket, stream: tcp.Stream, ends: Connection, scope: int) -> None:
        """The rest, when the socket has its options: what waited to be sent, who has finished, the windows."""
        if stream.state == tcp.SYN_SENT:
            return
        if stream.state in (tcp.CLOSE_WAIT, tcp.LAST_ACK):
            _hear(sock, stream, ends, scope, segment.FIN | segment.ACK)
        tcp.send_rest(sock, stream, fin=stream.state in tcp.WE_FINISHED)
        if stream.state == tcp.FIN_WAIT2:
            _hear(sock, stream, ends, scope, segment.ACK)
        if stream.state == tcp.CLOSING:
            _hear(sock, stream, ends, scope, segment.FIN | segment.ACK)
        if stream.window is not None:
            tcp.set_window(sock, stream.window)

    def let_go(self) -> None:
        """Out of repair mode. The rules still hold all packets."""
        for sock, reuse in self._sockets:
            tcp.repair(sock, tcp.OFF_IN_SILENCE)
            sock.setsockopt(tcp.SOL_SOCKET, tcp.SO_REUSEADDR, reuse)
        for sock, remote in self._connecting:
            _connect_again(sock, remote)

    def hold(self) -> None:
        """Back into repair mode: whoever has the sockets is about to end."""
        for sock, _ in self._sockets:
            tcp.repair(sock, tcp.ON)

    def released(self) -> None:
        """The tasks live: remove the rules, and let each peer know that we are here. More than once."""
        for table in self.tables:
            nftables.let_go(table)
        if self.foreign is not None:
            self.foreign.let_go()
        for sock, reuse in self._sockets:
            tcp.repair(sock, tcp.OFF)  # out of which it is; this sends a probe
            sock.setsockopt(tcp.SOL_SOCKET, tcp.SO_REUSEADDR, reuse)
        self._released = True

    def close(self) -> None:
        """Give the sockets back; in silence, where the tasks have not come to live."""
        if not self._released:
            self.hold()
        for sock, _ in self._sockets:
            sock.close()
        self._sockets = []


def _connect_again(sock: _socket.socket, remote: Any) -> None:
    blocking = sock.getblocking()
    sock.setblocking(False)
    try:
        sock.connect(remote)
    except BlockingIOError:
        pass
    except OSError as error:
        raise KernelError("connect", error.errno or 0, endpoints.text(remote)) from None
    finally:
        sock.setblocking(blocking)


def _hear(sock: _socket.socket, stream: tcp.Stream, ends: Connection, scope: int, flags: int) -> None:
    """Let the socket hear from its peer: that it has finished, or that it has got our end."""
    unacknowledged = stream.send_sequence - len(stream.sent) - (stream.state in (tcp.CLOSING, tcp.LAST_ACK))
    window = 0 if stream.window is None else stream.window.send >> stream.send_scale
    tcp.select(sock, tcp.RECEIVE)
    numbers = (tcp.sequence(sock), unacknowledged)
    tcp.select(sock, tcp.NO_QUEUE)
    before = tcp.info(sock).state
    _repeat(sock, before, ends, scope, segment.segment(
        ends.destination, ends.source, (ends.destination_port, ends.source_port), numbers, flags, window
    ))  # fmt: skip


def _repeat(sock: _socket.socket, before: int, ends: Connection, scope: int, data: bytes) -> None:
    """Send a segment to ourselves until the socket is in another state than before."""
    if not endpoints.is_here(ends.source):
        address = endpoints.unpacked(ends.source)
        raise UserError(f"a connection of {address} had one side finished: that needs an address of this machine")
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        segment.inject(ends.destination, ends.source, segment.IPPROTO_TCP, data, scope)
        again = time.monotonic() + _AGAIN
        while time.monotonic() < again:
            if tcp.info(sock).state != before:
                return
            select.select([], [], [], 0.001)
    raise KernelError(
        "sendto", 110, "a packet from a peer to ourselves does not arrive",
        "a firewall on this machine must not drop packets on lo",
    )  # fmt: skip


def make_ended(sock: _socket.socket, received: bytes, local: Any, ends: Connection, scope: int) -> None:
    """Make a fresh socket one whose connection has ended, with `received` still to be read.

    It is connected with an address of its own, where nobody is, and reset.
    """
    numbers = 1, 1
    tcp.repair(sock, tcp.ON)
    endpoints.bind(sock, local)
    local = sock.getsockname()
    tcp.set_sequence(sock, tcp.RECEIVE, numbers[0])
    tcp.set_sequence(sock, tcp.SEND, numbers[1])
    port = 1 if local[1] != 1 else 2
    sock.connect((local[0], port, *local[2:]))
    tcp.fill(sock, tcp.Stream(tcp.ESTABLISHED, 0, 0, 0, 536, 0, received, 1, b"", 1, 0, False, None))
    ports = port, local[1]
    data = segment.segment(ends.source, ends.source, ports, (numbers[0] + len(received), 1), segment.RST, 0)
    _repeat(sock, tcp.ESTABLISHED, Connection(ends.source, local[1], ends.source, port), scope, data)
    tcp.repair(sock, tcp.OFF_IN_SILENCE)
    sock.getsockopt(tcp.SOL_SOCKET, 4)  # SO_ERROR: that it was reset is no news


# ---------------------------------------------------------------------------------------------------------- images


def entry_of(stream: tcp.Stream, options: dict[str, bytes]) -> Any:
    """tcp_stream_entry; both queues are to follow it."""
    entry = m.tcp_stream_entry(
        inq_len=len(stream.received), inq_seq=stream.receive_sequence, outq_len=len(stream.sent),
        outq_seq=stream.send_sequence, opt_mask=stream.options, snd_wscale=stream.send_scale,
        mss_clamp=stream.mss, rcv_wscale=stream.receive_scale, timestamp=stream.timestamp,
        cork=any(options.get("tcp_cork", b"")), nodelay=any(options.get("tcp_nodelay", b"")), unsq_len=stream.unsent,
    )  # fmt: skip
    if (window := stream.window) is not None:
        entry.snd_wl1, entry.snd_wnd, entry.max_window = window.send_wl1, window.send, window.largest
        entry.rcv_wnd, entry.rcv_wup = window.receive, window.receive_update
    return entry


def stream_of(state: int, entry: Any, payload: bytes) -> tcp.Stream:
    """The contents of a tcp-stream image; ImageError for what is impossible."""
    received, sent = payload[: entry.inq_len], payload[entry.inq_len :]
    if entry.unsq_len > len(sent) or max(entry.snd_wscale, entry.rcv_wscale) > 14:
        raise ImageError(f"a connection has {entry.unsq_len} bytes of {len(sent)} that were not sent, or a wrong scale")
    window = None
    if entry.HasField("snd_wnd"):
        window = tcp.Window(entry.snd_wl1, entry.snd_wnd, entry.max_window, entry.rcv_wnd, entry.rcv_wup)
    return tcp.Stream(
        state, entry.opt_mask, entry.snd_wscale, entry.rcv_wscale, entry.mss_clamp, entry.timestamp, received,
        entry.inq_seq, sent, entry.outq_seq, entry.unsq_len, entry.unsq_len > 0, window,
    )  # fmt: skip
