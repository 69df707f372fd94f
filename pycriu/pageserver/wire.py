# SPDX-License-Identifier: GPL-2.0-only
"""The protocol of CRIU's page server, as criu/page-xfer.c speaks it. All words are little-endian.

A command is a header, and pages behind it where it adds some that are present:

    short, 24 bytes (CRIU up to 4.1)   u32 command   u32 pages                u64 address   u64 object
    long, 32 bytes (CRIU from 4.2)     u32 command   u32 nothing   u64 pages  u64 address   u64 object

The upper half of a command are flags of `pagemap_entry`; the low byte of an object tells what it is, the rest which.
The client begins to speak. What it says first has no pages and no address, so a server sees which of the two it is; a
client that has no answer to a short header goes on as if it had been the beginning of a long one. A server that was
only slow to answer sees that, too: the object comes once more, and is no command.

Either side may have long work between two words: a client while a tree is copied, a server that has everything to bring
to its disk. Then it is waited for as long as its machine answers the kernel's questions (SO_KEEPALIVE).
"""

from __future__ import annotations

import socket
import struct

from pycriu.errors import PycriuError, UserError
from pycriu.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

ADD, HOLE, OPEN, OPEN2, PARENT, ADD_F, GET = range(1, 8)
CLOSE, FORCE_CLOSE = 0x1023, 0x1024
TASK, OBJECT = 1, 2  # the low byte of an object: memory of a process, shared memory

SHORT, LONG = struct.Struct("<IIQQ"), struct.Struct("<I4xQQQ")
ANSWER_PARENT, ANSWER_OPEN, ANSWER_CLOSE = struct.Struct("<i"), struct.Struct("<?"), struct.Struct("<i")

SILENCE = 30.0  # seconds without a byte, in the middle of something, after which the other side counts as gone
PATIENCE = 3.0  # seconds in which a server answers that understood
_MAX_PAGES = 1 << 40
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 4))  # s, s: 30 s in all


class LinkError(PycriuError):
    """The connection failed, or the other side says what cannot be."""


@record
class Command:
    """One command; `number` is of a process or of a shared memory object, `kind` TASK or OBJECT."""

    what: int
    flags: int
    pages: int
    address: int
    kind: int
    number: int


class Link:
    """A connection to the other side. A scope; it is closed at its end."""

    def __init__(self, connection: socket.socket, name: str, form: struct.Struct | None = None) -> None:
        """`name` is what errors call the other side; `form` the form of headers, None: as the other side begins."""
        self._connection, self.name, self.form = connection, name, form
        self._asked = b""  # the object of the first command, in a short header
        connection.settimeout(SILENCE)
        if connection.family in (socket.AF_INET, socket.AF_INET6):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE:
                connection.setsockopt(socket.IPPROTO_TCP, option, value)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def failed(self, error: OSError) -> LinkError:
        """The error to raise for one of the socket."""
        if isinstance(error, TimeoutError):
            return LinkError(
                f"{self.name} has been silent for {SILENCE:g} s", "see what became of it, and of the network"
            )
        return LinkError(f"{self.name}: {error.strerror or error}", "see what became of it, and of the network")

    def send(self, *pieces: bytes | memoryview) -> None:
        """All of the pieces. Each is a TLS record of its own: CRIU's server cannot read a header and pages from one."""
        try:
            for piece in pieces:
                self._connection.sendall(piece)
        except OSError as error:
            raise self.failed(error) from None

    def header(self, what: int, kind: int, number: int, address: int = 0, pages: int = 0, flags: int = 0) -> bytes:
        """A command as it goes over the wire."""
        form = self.form or SHORT
        return form.pack(flags << 16 | what, pages, address, (number << 8 | kind) if kind else 0)

    def receive(self, view: memoryview, *, patient: bool = False) -> bool:
        """Fill `view`; False when the other side has closed before the first byte, which `patient` waits for."""
        got = 0
        try:
            while got < len(view):
                count = self._some(view[got:], patient=patient and not got)
                if not count:
                    break
                got += count
        except OSError as error:
            raise self.failed(error) from None
        if 0 < got < len(view):
            raise LinkError(f"{self.name} has closed the connection in the middle of {len(view)} bytes")
        return got == len(view)

    def _some(self, view: memoryview, *, patient: bool) -> int:
        while True:
            try:
                return self._connection.recv_into(view)
            except TimeoutError as error:
                if not patient or error.errno:  # with a number, the kernel says so: the machine is gone
                    raise

    def answer(self, form: struct.Struct, *, patient: bool = False) -> int:
        """What the other side replies; `patient`: however long it takes."""
        data = bytearray(form.size)
        if not self.receive(memoryview(data), patient=patient):
            raise LinkError(f"{self.name} has closed the connection", "its log says why")
        (value,) = form.unpack(data)
        return int(value)

    def agree(self, number: int) -> bool:
        """As a client: find out the form of headers, by asking whether process `number` has a parent there."""
        self.form = SHORT
        first = self.header(PARENT, TASK, number)
        self.send(first)
        self._connection.settimeout(PATIENCE)
        try:
            data = bytearray(ANSWER_PARENT.size)
            if not self._connection.recv_into(data, 1):
                raise LinkError(f"{self.name} has closed the connection", "its log says why")
        except TimeoutError:
            self._connection.settimeout(SILENCE)
            self.form = LONG
            self.send(first[-8:])  # to who waits for a long header, the object is an address so far
            return self.answer(ANSWER_PARENT) == 1
        except OSError as error:
            raise self.failed(error) from None
        self._connection.settimeout(SILENCE)
        if not self.receive(memoryview(data)[1:]):
            raise LinkError(f"{self.name} has closed the connection", "its log says why")
        return bool(ANSWER_PARENT.unpack(data)[0] == 1)

    def command(self) -> Command | None:
        """As a server: what the client says next; None when it has closed the connection."""
        data = bytearray((self.form or SHORT).size)
        if not self.receive(memoryview(data), patient=True):
            return None
        data = self._whole(data)
        assert self.form is not None
        word, pages, address, target = self.form.unpack(data)
        found = Command(word & 0xFFFF, word >> 16, pages, address, target & 0xFF, target >> 8)
        if found.what in (CLOSE, FORCE_CLOSE):
            return found
        if found.kind not in (TASK, OBJECT) or found.number >> 32 or pages > _MAX_PAGES:
            raise LinkError(
                f"{self.name} says what makes no sense: command {word:#x}, object {target:#x}, {pages} pages"
            )
        return found

    def _whole(self, data: bytearray) -> bytearray:
        """A command of which as much is there as a short header has, or more; finds out the form."""
        asked, self._asked = self._asked, b""
        if self.form is None:
            self.form = SHORT
            word, _, _, target = SHORT.unpack(data)
            if target:  # an object has a kind
                self._asked = bytes(data[-8:]) if word == PARENT else b""
                return data
            more = LONG.size - SHORT.size
        elif asked and data.startswith(asked):  # no command has this number: see above
            del data[: len(asked)]
            more = LONG.size - len(data)
        else:
            return data
        self.form = LONG
        rest = bytearray(more)
        if not self.receive(memoryview(rest)):
            raise LinkError(f"{self.name} has closed the connection in the middle of a command")
        return data + rest


_NO_ADDRESS = (OverflowError, UnicodeError, ValueError)  # ports above 65535, names that are none


def connect(address: str | None, port: int) -> socket.socket:
    """A connection to a page server; UserError where there is none."""
    host = address or "127.0.0.1"
    try:
        return socket.create_connection((host, port), timeout=SILENCE)
    except (OSError, *_NO_ADDRESS) as error:
        raise UserError(
            f"no page server at {host} port {port}: {getattr(error, 'strerror', None) or error}",
            "start one there: pycriu page-server --address … --port … -D …",
        ) from None


def listen(address: str | None, port: int) -> socket.socket:
    """A socket that waits for a client; port 0 lets the kernel choose one."""
    host = address or "0.0.0.0"  # as CRIU: everywhere
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    waiting = socket.socket(family, socket.SOCK_STREAM)
    try:
        waiting.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        waiting.bind((host, port))
        waiting.listen(1)
    except (OSError, *_NO_ADDRESS) as error:
        waiting.close()
        said = getattr(error, "strerror", None) or error
        raise UserError(f"--address {host} --port {port}: {said}", "take another one") from None
    return waiting


def inherited(fd: int) -> socket.socket:
    """The connection that --ps-socket names."""
    try:
        return socket.socket(fileno=fd)
    except OSError as error:
        raise UserError(
            f"--ps-socket {fd}: {error.strerror}", "it must be a connected socket that was left open"
        ) from None
