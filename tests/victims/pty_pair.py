# SPDX-License-Identifier: GPL-2.0-only
"""Pseudo terminals with both ends in the tree: number, settings and their locks, window, modes, several slaves, what
waits in both directions (lines, ends of file, half a line, raw bytes), stopped output, hung-up slaves.

Missing: the column of the cursor; what was written to a slave before its first opening; slaves open outside the tree.
"""

import fcntl
import os
import select
import struct
import termios
from collections.abc import Iterator

import victim

TIOCSPTLCK, TIOCGPTLCK, TIOCGPTN, TIOCGPKT, TIOCGEXCL = 0x40045431, 0x80045439, 0x80045430, 0x80045438, 0x80045440
TIOCGLCKTRMIOS, TIOCSLCKTRMIOS, TCGETS2, TCSETS2 = 0x5456, 0x5457, 0x802C542A, 0x402C542B
BOTHER = 0o10000
RAW = bytes(range(256)) * 3
LINES = b"one\ntwo\x04\x04lit\x16\x04eral\nhalf\x16\na\x16\x7f lin\x7fne"
READS = [b"one\n", b"two", b"", b"lit\x04eral\n"]


class Pty:
    """One pair. The slave's descriptors are opened by path."""

    def __init__(self) -> None:
        self.master = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)
        fcntl.ioctl(self.master, TIOCSPTLCK, struct.pack("i", 0))
        self.path = f"/dev/pts/{number(self.master, TIOCGPTN)}"
        self.slaves: list[int] = []

    def open(self, flags: int = os.O_RDWR) -> int:
        self.slaves.append(os.open(self.path, flags | os.O_NOCTTY))
        return self.slaves[-1]

    def state(self) -> dict[str, object]:
        """What can be asked for without changing it."""
        requests = (TIOCGPTN, TIOCGPTLCK, TIOCGPKT, TIOCGEXCL)
        node = os.stat(self.path)
        return {
            "number, lock, packet mode, exclusive": [number(self.master, request) for request in requests],
            "settings": fcntl.ioctl(self.master, TCGETS2, bytes(44)),
            "locked settings": fcntl.ioctl(self.master, TIOCGLCKTRMIOS, bytes(36)),
            "window": fcntl.ioctl(self.master, termios.TIOCGWINSZ, bytes(8)),
            "node": (node.st_uid, node.st_gid, node.st_mode, node.st_rdev),
            "slaves": [(os.readlink(f"/proc/self/fd/{fd}"), fcntl.fcntl(fd, fcntl.F_GETFL)) for fd in self.slaves],
            "whether the master blocks": os.get_blocking(self.master),
        }


def number(fd: int, request: int) -> int:
    answer: int = struct.unpack("i", fcntl.ioctl(fd, request, bytes(4)))[0]
    return answer


def reads(fd: int) -> list[bytes]:
    """Everything that can be read now, read by read."""
    found = []
    while select.select([fd], [], [], 0)[0]:
        found.append(os.read(fd, 4096))
    return found


def write_all(fd: int, data: bytes, reader: int, size: int) -> None:
    """Write, and wait until `size` bytes have arrived: the kernel hands them over in the background."""
    os.write(fd, data)
    victim.wait_until(lambda: number(reader, termios.FIONREAD) >= size, "bytes in a terminal", 10)


def set_lined(pty: Pty) -> int:
    """Several slaves, an owner, a window, a lock, and lines; the first slave."""
    slave = pty.open()
    pty.open(os.O_RDONLY | os.O_NONBLOCK)
    pty.open(os.O_WRONLY)
    write_all(pty.master, LINES, slave, len(READS[3]))
    os.write(slave, b"\nanswer\n")
    os.chmod(pty.path, 0o620)
    os.chown(pty.path, 12, 34)
    fcntl.ioctl(pty.master, termios.TIOCSWINSZ, struct.pack("4H", 33, 99, 330, 990))
    fcntl.ioctl(pty.master, TIOCSLCKTRMIOS, struct.pack("=4I20s", 0, 1, 0, 0, bytes(20)))
    fcntl.ioctl(pty.master, termios.TIOCEXCL)
    return slave


def set_raw(pty: Pty) -> int:
    """No lines, speeds that have no name, and bytes both ways; the slave."""
    slave = pty.open()
    now = termios.tcgetattr(slave)
    now[0] = now[1] = now[3] = 0
    termios.tcsetattr(slave, termios.TCSANOW, now)
    iflag, oflag, cflag, lflag, rest = struct.unpack("=4I20s8x", fcntl.ioctl(slave, TCGETS2, bytes(44)))
    odd_speeds = struct.pack("=4I20s2I", iflag, oflag, cflag & ~0o10017 | BOTHER, lflag, rest, 12345, 12345)
    fcntl.ioctl(slave, TCSETS2, odd_speeds)
    os.set_blocking(pty.master, False)
    write_all(pty.master, RAW, slave, len(RAW))
    write_all(slave, RAW[::-1], pty.master, len(RAW))
    return slave


def hang_up() -> int:
    """A slave whose master is gone."""
    pty = Pty()
    slave = pty.open()
    os.close(pty.master)
    return slave


def scenario() -> Iterator[victim.Damage]:
    lined, raw, still, packets, left, alone = (Pty() for _ in range(6))
    lined_slave, raw_slave, gone_slave = set_lined(lined), set_raw(raw), hang_up()
    still_slave = still.open(os.O_RDWR | os.O_NONBLOCK)
    os.write(still_slave, b"before")
    termios.tcflow(still_slave, termios.TCOOFF)
    packets_slave = packets.open()
    fcntl.ioctl(packets.master, termios.TIOCPKT, struct.pack("i", 1))
    termios.tcflush(packets_slave, termios.TCIFLUSH)
    write_all(packets_slave, b"in a packet", packets.master, 11)
    os.close(os.open(left.path, os.O_RDWR | os.O_NOCTTY))
    fcntl.ioctl(alone.master, TIOCSPTLCK, struct.pack("i", 1))
    everybody = (lined, raw, still, packets, left, alone)
    before = [one.state() for one in everybody]
    yield lambda: os.read(lined_slave, 100)
    for one, state in zip(everybody, before, strict=True):
        for what, value in one.state().items():
            victim.equal(value, state[what], f"{what} of {one.path}")
    check_lines(lined, lined_slave)
    victim.equal(b"".join(reads(raw_slave)), RAW, "raw bytes for the slave")
    victim.equal(b"".join(reads(raw.master)), RAW[::-1], "raw bytes for the master")
    check_stopped(still, still_slave)
    victim.equal(reads(packets.master), [b"\x01", b"\0in a packet"], "what a master in packet mode reads")
    victim.equal(events(left.master) & select.POLLHUP, select.POLLHUP, "a master whose slaves have all been closed")
    victim.equal(events(alone.master) & select.POLLHUP, 0, "a master that never had a slave")
    check_hung_up(gone_slave)


def check_lines(pty: Pty, slave: int) -> None:
    victim.equal(reads(slave), READS, "lines that nobody has read")
    os.write(pty.master, b"\x7fd\n")
    victim.equal(reads(slave), [b"half\na\x7f lind\n"], "a line that was half typed, changed and ended")
    echo = b"".join(reads(pty.master))
    victim.check(echo.startswith(b"one\r\ntwo"), f"echo of what was typed first: {echo!r}")
    victim.check(echo.endswith(b"\r\nanswer\r\n\b \bd\r\n"), f"echo of what was typed last: {echo!r}")


def check_stopped(pty: Pty, slave: int) -> None:
    victim.equal(events(slave) & select.POLLOUT, 0, "whether stopped output accepts bytes")
    victim.equal(reads(pty.master), [b"before"], "what was written before output stopped")
    termios.tcflow(slave, termios.TCOON)
    os.write(slave, b"after")
    victim.equal(reads(pty.master), [b"after"], "what is written after output was started")


def check_hung_up(fd: int) -> None:
    victim.equal(os.read(fd, 1), b"", "what a slave reads that was hung up")
    try:
        os.write(fd, b"x")
    except OSError as error:
        victim.equal(error.errno, 5, "the error of a write to a slave that was hung up")
    else:
        raise victim.Failed("a slave that was hung up accepts bytes")


def events(fd: int) -> int:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return next((found for _, found in poll.poll(0)), 0)


victim.play(scenario)
