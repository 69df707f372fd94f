# SPDX-License-Identifier: GPL-2.0-only
"""What waits in a pseudo terminal, in both directions, and what holds it back.

The kernel shows how many bytes wait but not which, so `take` reads them out and `put` puts them back, exactly: lines as
lines, ends of file as such, what is typed of a line as the beginning of a line. `look` does both in a process of its
own, which no signal ends half-way. See drivers/tty/n_tty.c.

Not kept: in which column the kernel thinks the cursor is, and whether the next character was to be taken literally.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import fcntl
import marshal
import os
import select

from pycriu.errors import KernelError, PycriuError
from pycriu.kernel import libc
from pycriu.kernel import terminal as tty
from pycriu.kernel.terminal import IXON, NCCS, VEOF, VEOL, VEOL2, VLNEXT, VSTART, VSTOP, Settings
from pycriu.record import record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

EAGAIN = 11
_TCIFLUSH, _TCOFLUSH, _TCOOFF, _TCOON = 0, 1, 0, 1
_FLUSHREAD, _FLUSHWRITE, _STOP, _START, _NOSTOP, _DOSTOP, _IOCTL = (1 << bit for bit in range(7))  # TIOCPKT_*
_XON_XOFF = 0x11, 0x13
_NEWLINE = 0x0A
_ROOM = 4095  # bytes that a line discipline holds; what it cannot take waits before it, as it was written
_CHUNK, _PIECE = 1 << 16, 1792  # the second is TTY_BUFFER_PAGE, see drivers/tty/tty_buffer.c
_PATIENCE = 1000  # milliseconds until a terminal that nobody reads is taken for full
RUNNING, STOPPED_BY_CALL, STOPPED_BY_KEY = range(3)  # output held back: not, by tcflow(3), by the stop character


@record
class Waiting:
    """What waits in a pseudo terminal, and what holds it back."""

    lines: tuple[bytes, ...] = ()  # for readers of the slave; in canonical mode one per line or end of file
    typed: bytes = b""  # the beginning of a line that nobody can read yet
    behind: bytes = b""  # written to the master, not yet looked at by the line discipline
    output: bytes = b""  # for readers of the master
    stopped: int = RUNNING
    status: int = 0  # TIOCPKT_* that a master in packet mode has not read yet

    @property
    def size(self) -> int:
        """Bytes, for messages and limits."""
        return sum(len(line) for line in self.lines) + len(self.typed) + len(self.behind) + len(self.output)


def is_lined(now: Settings) -> bool:
    """Canonical mode, with the kernel itself at work on the lines."""
    return bool(now.lflag & tty.ICANON) and not now.lflag & tty.EXTPROC


def may_hold(master: int, slave: int) -> bool:
    """Whether anything may wait, or be held back; False is certain. Changes nothing."""
    if is_lined(tty.settings(slave)):
        return True  # what is typed of a line cannot be seen
    return bool(_events(master, select.POLLIN | select.POLLPRI)) or _events(slave, _BOTH_WAYS) != select.POLLOUT


_BOTH_WAYS = select.POLLIN | select.POLLOUT


def _events(fd: int, wanted: int) -> int:
    """Which of these events are there. Asking makes the kernel finish what it does in the background."""
    return libc.poll(fd, wanted) & wanted


def look(masters: list[int]) -> list[Waiting]:
    """What waits in each. It is still there afterwards, whatever happens to us. Slaves are or have been open."""
    slaves: list[int] = []
    try:
        for master in masters:
            slaves.append(_open_slave(master))
        pairs = list(zip(masters, slaves, strict=True))
        full = [pair for pair in pairs if may_hold(*pair)]
        found = dict(zip(full, _look_apart(full), strict=True)) if full else {}
        return [found.get(pair, Waiting()) for pair in pairs]
    finally:
        for slave in slaves:
            os.close(slave)


def _open_slave(master: int) -> int:
    locked = tty.number(master, tty.TIOCGPTLCK)
    tty.tell(master, tty.TIOCSPTLCK, 0)
    try:
        return tty.open_peer(master, os.O_RDWR | os.O_NONBLOCK)
    finally:
        tty.tell(master, tty.TIOCSPTLCK, locked)


def _look_apart(pairs: list[tuple[int, int]]) -> list[Waiting]:
    heard, said = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if not child:
        _read_and_put_back(pairs, said)
    os.close(said)
    answer = b""
    try:
        while piece := os.read(heard, _CHUNK):
            answer += piece
    finally:
        os.close(heard)
        os.waitpid(child, 0)  # whatever has come up: nobody must use the terminals before it is done
    found = marshal.loads(answer) if answer else "nothing was found out"
    if isinstance(found, str):
        raise KernelError("read", EAGAIN, f"a pseudo terminal: {found}")
    return [Waiting(*one) for one in found]


def _read_and_put_back(pairs: list[tuple[int, int]], said: int) -> None:
    """The child's life: of no terminal, and deaf to signals."""
    found: Any = "nothing was found out"
    try:
        os.setsid()
        _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())
        seen = []
        for master, slave in pairs:
            one = take(master, slave)
            put(master, slave, one)
            seen.append((one.lines, one.typed, one.behind, one.output, one.stopped, one.status))
        found = seen
    except (OSError, PycriuError) as error:
        found = str(error)
    finally:
        try:
            os.write(said, marshal.dumps(found))
        finally:
            os._exit(0)


def take(master: int, slave: int) -> Waiting:
    """Read out everything. All else is left as it was; `put` brings back what was read.

    `slave` is open for reading and writing, without waiting. Nobody else may use the terminal meanwhile.
    """
    before, locked, packets = tty.settings(slave), tty.locked_settings(slave), tty.number(master, tty.TIOCGPKT)
    status = os.read(master, 1)[0] if packets and _events(master, select.POLLPRI) else 0
    tty.tell(master, tty.TIOCPKT, 0)
    output = _read_all(master)
    tty.lock_settings(slave, tty.UNLOCKED)
    stopped = _let_go(slave, before)
    if not before.lflag & tty.EXTPROC:
        # Nothing that arrives now is mapped, echoed, or a signal. ICANON stays: changing it forgets where lines end.
        tty.set_settings(slave, _plain(before, before.lflag & tty.ICANON))
    lines = _read_all(slave)
    typed = b""
    if is_lined(before):
        tty.set_settings(slave, _plain(before, 0))
        typed = b"".join(_read_all(slave))
    output += _read_all(master)  # what was echoed late
    _settle(slave, before, locked)
    tty.tell(master, tty.TIOCPKT, packets)
    if not is_lined(before):
        lines, typed = [], b"".join(lines)
    lines, typed, behind = _split(lines, typed)
    return Waiting(tuple(lines), typed, behind, b"".join(output), stopped, status)


def _plain(like: Settings, lflag: int) -> Settings:
    return Settings(0, 0, like.cflag, lflag, like.line, bytes(NCCS), like.ispeed, like.ospeed)


def _read_all(fd: int) -> list[bytes]:
    """What can be read now, one piece per read(2)."""
    found = []
    while _events(fd, select.POLLIN):
        found.append(os.read(fd, _CHUNK))
    return found


def _let_go(slave: int, before: Settings) -> int:
    """Let output flow; what held it back."""
    if _events(slave, select.POLLOUT):
        return RUNNING
    tty.control(slave, tty.TCXONC, _TCOON)
    if _events(slave, select.POLLOUT):
        return STOPPED_BY_CALL
    tty.set_settings(slave, replace(before, iflag=before.iflag & ~IXON))  # which starts what the stop character stopped
    return STOPPED_BY_KEY if _events(slave, select.POLLOUT) else RUNNING


def _settle(slave: int, before: Settings, locked: Settings) -> None:
    tty.set_settings(slave, before)
    tty.lock_settings(slave, locked)


def _split(lines: list[bytes], typed: bytes) -> tuple[list[bytes], bytes, bytes]:
    """What the line discipline had room for, and what was waiting behind that."""
    kept: list[bytes] = []
    room = _ROOM
    for at, line in enumerate(lines):
        if len(line) > room:
            return kept, line[:room], line[room:] + b"".join(lines[at + 1 :]) + typed
        kept.append(line)
        room -= max(len(line), 1)
    return kept, typed[:room], typed[room:]


def put(master: int, slave: int, waiting: Waiting) -> None:
    """Let a pseudo terminal in which nothing waits hold what `take` has found. Same conditions."""
    before, locked, packets = tty.settings(slave), tty.locked_settings(slave), tty.number(master, tty.TIOCGPKT)
    tty.tell(master, tty.TIOCPKT, 0)
    tty.lock_settings(slave, tty.UNLOCKED)
    if not before.lflag & tty.EXTPROC:
        tty.set_settings(slave, _for_typing(before, waiting, flow=bool(packets and waiting.status)))
    if packets and waiting.status & (_FLUSHREAD | _FLUSHWRITE):
        tty.tell(master, tty.TIOCPKT, packets)
        for bit, queue in ((_FLUSHREAD, _TCIFLUSH), (_FLUSHWRITE, _TCOFLUSH)):
            if waiting.status & bit:
                tty.control(slave, tty.TCFLSH, queue)
    _type(slave, _keys(before, waiting) if is_lined(before) else b"".join(waiting.lines) + waiting.typed)
    _write(slave, waiting.output)
    _settle(slave, before, locked)
    _write(master, waiting.behind)
    if not waiting.status & _STOP:
        _hold_back(slave, before, waiting.stopped)
    if packets:
        tty.tell(master, tty.TIOCPKT, packets)
        _announce(slave, before, waiting.status)
    if waiting.status & _STOP:
        _hold_back(slave, before, waiting.stopped)


def _for_typing(before: Settings, waiting: Waiting, *, flow: bool) -> Settings:
    """Settings under which what is typed arrives as it is, without echo.

    With `flow` the flow control stays what it is, lest a master in packet mode hears of a change.
    """
    cc = bytearray(NCCS)
    if is_lined(before):
        cc[VEOF], cc[VLNEXT] = _free_characters(before)
        cc[VEOL], cc[VEOL2] = before.cc[VEOL], before.cc[VEOL2]
    elif flow:
        flow = not {before.cc[VSTART], before.cc[VSTOP]} & set(waiting.typed)
    if flow:
        cc[VSTART], cc[VSTOP] = before.cc[VSTART], before.cc[VSTOP]
    plain = _plain(before, tty.ICANON | tty.IEXTEN if is_lined(before) else 0)
    return replace(plain, iflag=before.iflag & IXON if flow else 0, cc=bytes(cc))


def _announce(slave: int, before: Settings, status: int) -> None:
    """Let a master in packet mode hear what it has not heard yet, by making it happen once more."""
    if status & (_DOSTOP | _NOSTOP):
        cc = bytearray(before.cc)
        is_on = before.iflag & IXON and (cc[VSTART], cc[VSTOP]) == _XON_XOFF
        cc[VSTART], cc[VSTOP] = _XON_XOFF
        tty.set_settings(
            slave, replace(before, iflag=before.iflag & ~IXON if is_on else before.iflag | IXON, cc=bytes(cc))
        )
    if status & (_DOSTOP | _NOSTOP | _IOCTL):
        tty.set_settings(slave, before)
    if status & _START:
        tty.control(slave, tty.TCXONC, _TCOOFF)
        tty.control(slave, tty.TCXONC, _TCOON)


def _free_characters(before: Settings) -> tuple[int, int]:
    """Two characters that mean nothing else: to stand for the end of the file, and for `take the next as it is`."""
    taken = [before.cc[at] for at in (VEOL, VEOL2, VSTART, VSTOP)]
    eof, quote = [c for c in range(1, 8) if c not in taken][:2]
    return eof, quote


def _keys(before: Settings, waiting: Waiting) -> bytes:
    """What must be typed in canonical mode. A line without a character that ends it was ended by an end of file."""
    eof, quote = _free_characters(before)
    ends = {_NEWLINE, before.cc[VEOL] or _NEWLINE, before.cc[VEOL2] or _NEWLINE}
    special = ends | {eof, quote, before.cc[VSTART], before.cc[VSTOP]}

    def quoted(text: bytes) -> bytes:
        return b"".join(bytes((quote, byte)) if byte in special else bytes((byte,)) for byte in text)

    def whole(line: bytes) -> bytes:
        return quoted(line[:-1]) + line[-1:] if line and line[-1] in ends else quoted(line) + bytes((eof,))

    return b"".join(whole(line) for line in waiting.lines) + quoted(waiting.typed)


def _type(fd: int, keys: bytes) -> None:
    """tty.TIOCSTI takes effect before it returns."""
    for at in range(len(keys)):
        tty.control(fd, tty.TIOCSTI, keys[at : at + 1])


def _write(fd: int, data: bytes) -> None:
    """Write it all, in pieces of which the kernel's buffers hold most. KernelError where they do not hold all."""
    if not data:
        return
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    patience = _PATIENCE
    try:
        while data:
            try:
                data = data[os.write(fd, data[:_PIECE]) :]
            except BlockingIOError:
                # The line discipline may be about to take some in.
                if not patience:
                    what = f"a pseudo terminal that has no room for {len(data)} bytes more"
                    raise KernelError("write", EAGAIN, what) from None
                poll.poll(10)
                patience -= 10
    finally:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)


def _hold_back(slave: int, before: Settings, stopped: int) -> None:
    if stopped == STOPPED_BY_CALL:
        tty.control(slave, tty.TCXONC, _TCOOFF)
    elif stopped == STOPPED_BY_KEY and before.iflag & IXON:
        tty.control(slave, tty.TIOCSTI, before.cc[VSTOP : VSTOP + 1])
