# SPDX-License-Identifier: GPL-2.0-only
"""A TCP connection from outside: its sequence numbers, queues and agreements, read and set by TCP_REPAIR.

In repair mode a socket sends nothing by itself, tells and takes its sequence numbers, and closes in silence. Turning
the mode on and off costs it SO_REUSEADDR, which the caller keeps. Needs CAP_NET_ADMIN. Sources: tcp(7), net/ipv4/tcp.c.
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import struct
import termios

from pycriu.errors import KernelError
from pycriu.record import record

ESTABLISHED, SYN_SENT, SYN_RECV, FIN_WAIT1, FIN_WAIT2, TIME_WAIT = 1, 2, 3, 4, 5, 6
CLOSE, CLOSE_WAIT, LAST_ACK, LISTEN, CLOSING = 7, 8, 9, 10, 11
NAMES = {
    1: "ESTABLISHED", 2: "SYN_SENT", 3: "SYN_RECV", 4: "FIN_WAIT1", 5: "FIN_WAIT2", 6: "TIME_WAIT", 7: "CLOSE",
    8: "CLOSE_WAIT", 9: "LAST_ACK", 10: "LISTEN", 11: "CLOSING", 12: "NEW_SYN_RECV",
}  # fmt: skip
WE_FINISHED = (FIN_WAIT1, FIN_WAIT2, CLOSING, LAST_ACK)  # we have said that nothing more will come
PEER_FINISHED = (CLOSE_WAIT, LAST_ACK, CLOSING)
CONNECTED = (ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING)

SOL_SOCKET, SO_REUSEADDR, SO_PEEK_OFF = 1, 2, 42
IPPROTO_TCP = 6
TCP_MAXSEG, TCP_INFO, TCP_REPAIR, TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ = 2, 11, 19, 20, 21
TCP_REPAIR_OPTIONS, TCP_TIMESTAMP, TCP_REPAIR_WINDOW, TCP_ULP = 22, 24, 29, 31
ON, OFF, OFF_IN_SILENCE = 1, 0, -1
NO_QUEUE, RECEIVE, SEND = 0, 1, 2
SIOCOUTQNSD = 0x894B
MSG_PEEK, MSG_DONTWAIT = 0x2, 0x40

TIMESTAMPS, SACK, WINDOW_SCALE, ECN = 1, 2, 4, 8  # TCPI_OPT_*, tcp_stream_entry.opt_mask
_OPTION_MSS, _OPTION_SCALE, _OPTION_SACK, _OPTION_TIMESTAMPS = 2, 3, 4, 8  # TCPOPT_*, of TCP_REPAIR_OPTIONS
_WINDOW = struct.Struct("=IIIII")
_LEAST_MSS, _MOST_MSS = 88, 32767  # TCP_MIN_MSS, MAX_TCP_WINDOW
_CHUNK = 1 << 15  # bytes that the kernel surely takes at once
_SPARE = 1 << 16  # a segment of which a part is acknowledged is still whole in the queue
_MASK = 0xFFFFFFFF


@record
class Info:
    """struct tcp_info: what is of use here."""

    state: int
    options: int
    send_scale: int
    receive_scale: int
    waiting: int  # of a listening socket: connections not yet accepted
    backlog: int  # of a listening socket


@record
class Window:
    """struct tcp_repair_window: what each side may send."""

    send_wl1: int
    send: int
    largest: int
    receive: int
    receive_update: int


@record
class Stream:
    """A connection while nothing moves. Its sequence numbers are those behind the last byte, or FIN, of each queue."""

    state: int
    options: int
    send_scale: int
    receive_scale: int
    mss: int
    timestamp: int
    received: bytes  # not yet read
    receive_sequence: int
    sent: bytes  # not yet acknowledged, then not yet sent
    send_sequence: int
    unsent: int  # how many bytes of `sent` have not been sent
    fin_unsent: bool  # our FIN waits behind them
    window: Window | None


def parse_info(data: bytes) -> Info:
    """struct tcp_info, of which old kernels know less."""
    data = data.ljust(32, b"\0")
    scales = data[6]
    waiting, backlog = struct.unpack_from("=II", data, 24)
    return Info(data[0], data[5], scales & 15, scales >> 4, waiting, backlog)


def info(sock: _socket.socket) -> Info:
    """What the kernel says of a socket that need not be in repair mode."""
    return parse_info(sock.getsockopt(IPPROTO_TCP, TCP_INFO, 104))


def repair(sock: _socket.socket, mode: int) -> None:
    """Turn repair mode ON, OFF (the peer is sent a window probe) or OFF_IN_SILENCE."""
    try:
        sock.setsockopt(IPPROTO_TCP, TCP_REPAIR, mode)
    except OSError as error:
        hint = "it needs CAP_NET_ADMIN" if error.errno == errno.EPERM else None
        raise KernelError("setsockopt", error.errno or 0, "TCP_REPAIR", hint) from None


def select(sock: _socket.socket, queue: int) -> None:
    """The queue that the next calls are about."""
    sock.setsockopt(IPPROTO_TCP, TCP_REPAIR_QUEUE, queue)


def sequence(sock: _socket.socket) -> int:
    """The sequence number behind the selected queue."""
    return sock.getsockopt(IPPROTO_TCP, TCP_QUEUE_SEQ) & _MASK


def set_sequence(sock: _socket.socket, queue: int, value: int) -> None:
    """Before the connection is made: where a queue begins."""
    select(sock, queue)
    sock.setsockopt(IPPROTO_TCP, TCP_QUEUE_SEQ, struct.pack("=I", value & _MASK))


def queued(sock: _socket.socket, request: int) -> int:
    """SIOCINQ (FIONREAD), SIOCOUTQ (TIOCOUTQ) or SIOCOUTQNSD: bytes in a queue."""
    return int(struct.unpack("=i", fcntl.ioctl(sock.fileno(), request, bytes(4)))[0])


def read(sock: _socket.socket) -> Stream:
    """Everything of a connection whose socket is in repair mode, and which receives nothing meanwhile."""
    known = info(sock)
    mss = sock.getsockopt(IPPROTO_TCP, TCP_MAXSEG)
    timestamp = sock.getsockopt(IPPROTO_TCP, TCP_TIMESTAMP) & _MASK
    window = Window(*_WINDOW.unpack(sock.getsockopt(IPPROTO_TCP, TCP_REPAIR_WINDOW, _WINDOW.size)))
    select(sock, RECEIVE)
    receive_sequence = sequence(sock)
    received = _peek(sock, queued(sock, termios.FIONREAD))
    select(sock, SEND)
    send_sequence = sequence(sock)
    length, unsent = queued(sock, termios.TIOCOUTQ), queued(sock, SIOCOUTQNSD)
    # A FIN takes one number, as a byte does.
    fin = known.state in WE_FINISHED and known.state != FIN_WAIT2 and length > 0
    fin_unsent = fin and unsent > 0
    if known.state in CONNECTED:
        length, unsent = length - fin, unsent - fin_unsent
        waiting = _peek(sock, length + _SPARE) if length else b""
        sent = waiting[len(waiting) - length :]
    else:
        length, unsent, sent = 0, 0, b""
    select(sock, NO_QUEUE)
    if len(sent) != length:
        raise KernelError("recv", errno.EIO, f"{length} bytes were to be in the send queue")
    return Stream(
        known.state, known.options, known.send_scale, known.receive_scale, mss, timestamp, received, receive_sequence,
        sent, send_sequence, unsent, fin_unsent, window,
    )  # fmt: skip


def _peek(sock: _socket.socket, size: int) -> bytes:
    return sock.recv(size, MSG_PEEK | MSG_DONTWAIT) if size else b""


# ---------------------------------------------------------------------------------------------------------- restore


def begin(sock: _socket.socket, stream: Stream) -> None:
    """In repair mode, before the connection is made: where the queues begin."""
    receive = stream.receive_sequence - len(stream.received) - (stream.state in PEER_FINISHED)
    send = stream.send_sequence - len(stream.sent) - (stream.state in WE_FINISHED)
    set_sequence(sock, RECEIVE, receive)
    set_sequence(sock, SEND, send)
    select(sock, NO_QUEUE)
    # Only while it connects does a socket work out the size of its segments, from this and the route.
    sock.setsockopt(IPPROTO_TCP, TCP_MAXSEG, min(max(stream.mss, _LEAST_MSS), _MOST_MSS))


def agree(sock: _socket.socket, stream: Stream) -> None:
    """What both sides had agreed upon when they connected; then the clock of the timestamps."""
    sock.setsockopt(IPPROTO_TCP, TCP_MAXSEG, 0)
    pairs = [(_OPTION_MSS, stream.mss)]
    if stream.options & WINDOW_SCALE:
        pairs.append((_OPTION_SCALE, stream.send_scale | stream.receive_scale << 16))
    if stream.options & SACK:
        pairs.append((_OPTION_SACK, 0))
    if stream.options & TIMESTAMPS:
        pairs.append((_OPTION_TIMESTAMPS, 0))
    sock.setsockopt(IPPROTO_TCP, TCP_REPAIR_OPTIONS, b"".join(struct.pack("=II", *pair) for pair in pairs))
    if stream.options & TIMESTAMPS:
        sock.setsockopt(IPPROTO_TCP, TCP_TIMESTAMP, struct.pack("=I", stream.timestamp))


def fill(sock: _socket.socket, stream: Stream) -> None:
    """What was received, and what had been sent. Not what waited to be sent: that is for `send_rest`."""
    _put(sock, RECEIVE, stream.received)
    _put(sock, SEND, stream.sent[: len(stream.sent) - stream.unsent])


def _put(sock: _socket.socket, queue: int, data: bytes) -> None:
    select(sock, queue)
    _send_all(sock, data)
    select(sock, NO_QUEUE)


def _send_all(sock: _socket.socket, data: bytes) -> None:
    view, chunk = memoryview(data), _CHUNK
    while view:
        try:
            view = view[sock.send(view[:chunk], MSG_DONTWAIT) :]
        except OSError as error:
            if error.errno != errno.ENOMEM or chunk < 1024:
                raise
            chunk //= 2


def send_rest(sock: _socket.socket, stream: Stream, *, fin: bool) -> None:
    """What waited to be sent, and then, with `fin`, the end: leaves repair mode for a moment."""
    waits = stream.unsent or (fin and stream.fin_unsent)
    if waits:
        repair(sock, OFF_IN_SILENCE)
        _send_all(sock, stream.sent[len(stream.sent) - stream.unsent :])
    else:
        select(sock, SEND)  # what is sent now counts as sent
    if fin:
        sock.shutdown(_socket.SHUT_WR)
    if waits:
        repair(sock, ON)
    select(sock, NO_QUEUE)


def set_window(sock: _socket.socket, window: Window) -> None:
    """What each side may send, as far as it fits to where the receive queue ends."""
    select(sock, RECEIVE)
    end = sequence(sock)
    select(sock, NO_QUEUE)
    update = window.receive_update if _before_or_at(window.receive_update, end) else end
    wl1 = window.send_wl1 if _before_or_at(window.send_wl1, end + window.receive) else end
    values = (wl1, window.send, max(window.largest, window.send), window.receive, update)
    sock.setsockopt(IPPROTO_TCP, TCP_REPAIR_WINDOW, _WINDOW.pack(*values))


def _before_or_at(left: int, right: int) -> bool:
    return (right - left) & _MASK < 1 << 31
