# SPDX-License-Identifier: GPL-2.0-only
"""What waits in the queues of UNIX sockets: read without taking it out, and sent again.

A plain MSG_PEEK shows the first message, or of a stream the bytes up to the first that came with descriptors. To see
what is behind that, SO_PEEK_OFF must be set for a moment, an option of the task's own socket. `guarded` sees to it that
it is as before even if we are killed meanwhile.

Not seen: credentials that were sent to a socket without SO_PASSCRED, time stamps, and the empty datagrams behind the
first that a dump before this one has seen already (the kernel shows each once). Sources: unix(7), net/unix/af_unix.c.
"""

from __future__ import annotations

import _socket
import array
import os
import struct

from pycriu.errors import KernelError, PycriuError
from pycriu.fds import sockets
from pycriu.kernel import libc
from pycriu.kernel.pagemap import PAGE_SIZE
from pycriu.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET = 1, 2, 5
SCM_RIGHTS, SCM_CREDENTIALS, SCM_PIDFD = 1, 2, 4
SCM_MAX_FD = 253
MSG_PEEK, MSG_CTRUNC, MSG_TRUNC, MSG_DONTWAIT, MSG_NOSIGNAL, MSG_CMSG_CLOEXEC = 2, 8, 0x20, 0x40, 0x4000, 0x40000000
EAGAIN, EFAULT, EINVAL, ENOTCONN = 11, 14, 22, 107
PROT_NONE, PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS = 0, 1, 2, 2, 0x20
_ROOM, _CONTROL = 1 << 18, 1 << 13  # bytes; a larger message makes for another look with more room
UCRED = struct.Struct("=iII")  # struct ucred: PID, user, group


@record
class Message:
    """One message, or a run of bytes of a stream."""

    data: bytes
    sender: bytes = b""  # address of a datagram's sender; empty: it had none
    credentials: tuple[int, int, int] | None = None  # PID, user, group
    rights: tuple[int, ...] = ()  # descriptors: our own at a dump, later ids of files


@record
class Queue:
    """A socket whose queue is to be read: a borrowed descriptor."""

    fd: int
    type: int
    waiting: int  # bytes, of datagrams those of the first
    ended: bool  # shut down for reading: what is empty is the end
    name: str


def peek(queues: list[Queue]) -> list[list[Message]]:
    """The messages of each queue, oldest first. Whoever asks closes the descriptors that came with them."""
    found: dict[int, list[Message]] = {}
    deep = []
    for queue in queues:
        offset = sockets.try_get(queue.fd, sockets.SO_PEEK_OFF, 4)
        if offset is not None and int.from_bytes(offset, "little", signed=True) >= 0:
            deep.append(queue)  # with an offset of its own even a plain look would move it
            continue
        first = look(queue, _ROOM)
        whole = first is None or (queue.type == SOCK_STREAM and len(first.data) == queue.waiting and not first.rights)
        if whole:
            found[queue.fd] = [first] if first else []
        else:
            close_rights([first] if first else [])
            deep.append(queue)
    if deep:
        with guarded([queue.fd for queue in deep]):
            for queue in deep:
                found[queue.fd] = list(_stream(queue) if queue.type == SOCK_STREAM else _datagrams(queue))
    return [found[queue.fd] for queue in queues]


def close_rights(messages: list[Message]) -> None:
    """Close what came with messages."""
    for message in messages:
        for fd in message.rights:
            os.close(fd)


class guarded:  # noqa: N801 - reads as a word where it is used
    """A scope in which SO_PEEK_OFF of some sockets may be changed; a child puts it back when the scope or we end."""

    def __init__(self, fds: list[int]) -> None:
        self._before = [(fd, sockets.get_int(fd, sockets.SO_PEEK_OFF)) for fd in fds]

    def __enter__(self) -> None:
        gone, self._alive = os.pipe2(os.O_CLOEXEC)
        self._guard = libc.fork_deaf()
        if self._guard == 0:
            self._watch(gone)
        os.close(gone)

    def _watch(self, gone: int) -> None:
        """In the child: wait until nobody has the other end of the pipe any more."""
        try:
            os.setsid()
            os.close(self._alive)
            os.read(gone, 1)
            self._undo()
        finally:
            os._exit(0)

    def _undo(self) -> None:
        for fd, before in self._before:
            sockets.set_int(fd, sockets.SO_PEEK_OFF, before)

    def __exit__(self, *_: object) -> None:
        try:
            self._undo()
        finally:
            os.close(self._alive)
            os.waitpid(self._guard, 0)


def look(queue: Queue, size: int) -> Message | None:
    """The message at the present place, `size` bytes of it at most; None where there is nothing."""
    while True:
        one = _socket.socket(fileno=queue.fd)
        try:
            data, control, flags, sender = one.recvmsg(size, _CONTROL, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC)
        except OSError as error:
            if error.errno in (EAGAIN, ENOTCONN, EINVAL):  # empty; not connected; listening
                return None
            raise KernelError("recvmsg", error.errno or 0, queue.name) from None
        finally:
            one.detach()
        message = _message(data, control, sender)
        if flags & MSG_CTRUNC:
            close_rights([message])
            raise PycriuError(f"{queue.name}: what came with a message in its queue is too long, or has too many files")
        if flags & MSG_TRUNC and queue.type != SOCK_STREAM:
            close_rights([message])
            size *= 4
            continue
        nothing = not data and not message.rights and (queue.type == SOCK_STREAM or queue.ended)
        return None if nothing else message


def _message(data: bytes, control: list[tuple[int, int, bytes]], sender: Any) -> Message:
    rights: tuple[int, ...] = ()
    credentials = None
    for level, kind, value in control:
        if (level, kind) == (sockets.SOL_SOCKET, SCM_RIGHTS):
            rights += _ints(value)
        elif (level, kind) == (sockets.SOL_SOCKET, SCM_CREDENTIALS):
            credentials = UCRED.unpack_from(value)
        elif (level, kind) == (sockets.SOL_SOCKET, SCM_PIDFD):  # made for the one who looks, not part of the message
            for fd in _ints(value):
                os.close(fd)
    return Message(data, os.fsencode(sender or b""), credentials, rights)


def _ints(value: bytes) -> tuple[int, ...]:
    return struct.unpack(f"={len(value) // 4}i", value[: len(value) // 4 * 4])


def _datagrams(queue: Queue) -> Iterator[Message]:
    """Message by message. The first is asked for without an offset, which shows it even if it is empty."""
    sockets.set_int(queue.fd, sockets.SO_PEEK_OFF, -1)
    message, seen = look(queue, _ROOM), 0
    while message is not None:
        yield message
        seen += len(message.data)
        sockets.set_int(queue.fd, sockets.SO_PEEK_OFF, seen)
        message = look(queue, _ROOM)


def _stream(queue: Queue) -> Iterator[Message]:
    """Runs of bytes: one ends where descriptors or another writer come in."""
    seen = 0
    while (message := _look_at(queue, seen, queue.waiting - seen)) is not None:
        if message.rights and len(message.data) > 1:
            before = _bytes_before_rights(queue, seen, len(message.data))
            if before:
                yield Message(message.data[:before], message.sender, message.credentials)
                message = Message(message.data[before:], message.sender, message.credentials, message.rights)
                seen += before
        yield message
        seen += len(message.data)
        if seen >= queue.waiting:
            return


def _look_at(queue: Queue, offset: int, size: int) -> Message | None:
    sockets.set_int(queue.fd, sockets.SO_PEEK_OFF, offset)
    return look(queue, max(size, 1))


def _bytes_before_rights(queue: Queue, offset: int, size: int) -> int:
    """How many of `size` bytes were sent before the message that brought the descriptors, which is the last of them.

    Whatever the size asked for, a look goes on to that message. But the kernel copies message by message: where the
    last byte has nowhere to go, the whole last message is left out.
    """
    room = (size + PAGE_SIZE - 1) // PAGE_SIZE * PAGE_SIZE
    start = libc.call("mmap", 0, room + PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    try:
        libc.call("mprotect", start + room, PAGE_SIZE, PROT_NONE)
        sockets.set_int(queue.fd, sockets.SO_PEEK_OFF, offset)
        return libc.call("recvfrom", queue.fd, start + room - size + 1, size, MSG_PEEK | MSG_DONTWAIT, 0, 0)
    except KernelError as error:
        if error.errno != EFAULT:
            raise
        return 0  # it is the only one
    finally:
        libc.call("munmap", start, room + PAGE_SIZE)


# --------------------------------------------------------------------------------------------------------- restore


def send(fd: int, message: Message, address: bytes | None, name: str) -> None:
    """Put a message into a queue: that of the peer of `fd`, or of the socket with this address."""
    control: list[tuple[int, int, Any]] = []
    if message.rights:
        control.append((sockets.SOL_SOCKET, SCM_RIGHTS, array.array("i", message.rights)))
    if message.credentials:
        control.append((sockets.SOL_SOCKET, SCM_CREDENTIALS, UCRED.pack(*message.credentials)))
    one = _socket.socket(fileno=fd)
    flags = MSG_DONTWAIT | MSG_NOSIGNAL
    rest = memoryview(message.data)
    try:
        while True:
            sent = (
                one.sendmsg([rest], control, flags) if address is None else one.sendmsg([rest], control, flags, address)
            )
            rest, control = rest[sent:], []
            if not rest:
                return
    except OSError as error:
        raise KernelError("sendmsg", error.errno or 0, f"to {name}") from None
    finally:
        one.detach()


NOTE_HEAD = struct.Struct(
    "=IHB"
)  # which message of the queue, length of the sender's address, whether there are credentials


def pack_note(messages: list[Message]) -> bytes:
    """What the messages of a queue have beside bytes and files, as one note; empty where they have nothing."""
    out = b""
    for place, message in enumerate(messages):
        if message.sender or message.credentials:
            out += NOTE_HEAD.pack(place, len(message.sender), message.credentials is not None) + message.sender
            out += UCRED.pack(*message.credentials) if message.credentials else b""
    return out


def parse_note(note: bytes) -> dict[int, tuple[bytes, tuple[int, int, int] | None]]:
    """The same, back: place in the queue → sender and credentials; ValueError for what is none."""
    found: dict[int, tuple[bytes, tuple[int, int, int] | None]] = {}
    while note:
        if len(note) < NOTE_HEAD.size:
            raise ValueError(note)
        place, length, has_credentials = NOTE_HEAD.unpack_from(note)
        end = NOTE_HEAD.size + length
        size = end + (UCRED.size if has_credentials else 0)
        if size > len(note) or place in found or has_credentials > 1 or length > ADDRESS_MAX:
            raise ValueError(note)
        found[place] = note[NOTE_HEAD.size : end], UCRED.unpack(note[end:size]) if has_credentials else None
        note = note[size:]
    return found


ADDRESS_MAX = 108  # sizeof(sun_path)
