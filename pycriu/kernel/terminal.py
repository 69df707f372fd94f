# SPDX-License-Identifier: GPL-2.0-only
"""Terminals: the requests of ioctl_tty(2), and how a pseudo terminal of a given number, or /dev/tty, is opened."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import array
import fcntl
import os
import select
import stat
import struct

from pycriu.errors import KernelError, TraceeGone, UserError
from pycriu.kernel import libc, procfs
from pycriu.kernel.lending import Lender
from pycriu.record import record

# asm-generic/ioctls.h, which every architecture of ours uses
TCXONC, TCFLSH, TIOCEXCL, TIOCSCTTY, TIOCSPGRP, TIOCSTI = 0x540A, 0x540B, 0x540C, 0x540E, 0x5410, 0x5412
TIOCGWINSZ, TIOCSWINSZ, FIONREAD, TIOCPKT, TIOCNOTTY, TIOCGETD = 0x5413, 0x5414, 0x541B, 0x5420, 0x5422, 0x5424
TIOCGSID, TIOCGPGRP, TIOCVHANGUP, TIOCGPTPEER = 0x5429, 0x540F, 0x5437, 0x5441
TCGETS2, TCSETS2 = 0x802C542A, 0x402C542B
TIOCGLCKTRMIOS, TIOCSLCKTRMIOS = 0x5456, 0x5457
TIOCGPTN, TIOCSPTLCK, TIOCGDEV, TIOCGPKT, TIOCGPTLCK, TIOCGEXCL = (
    0x80045430, 0x40045431, 0x80045432, 0x80045438, 0x80045439, 0x80045440,
)  # fmt: skip
_NAMES = {number: name for name, number in list(globals().items()) if name[:2] in ("TC", "TI") and name.isupper()}

EIO, ENOTTY = 5, 25
NCCS = 19
VINTR, VEOF, VTIME, VMIN, VSTART, VSTOP, VEOL, VLNEXT, VEOL2 = 0, 4, 5, 6, 8, 9, 11, 15, 16
IXON = 0o2000
ICANON, IEXTEN, EXTPROC = 0o2, 0o100000, 0o200000

AUX, _PTMX = 5, 2  # major of /dev/tty, /dev/console and /dev/ptmx; minor of the last
SLAVES = range(136, 144)


def is_master(rdev: int) -> bool:
    """Whether a device number is that of /dev/ptmx, every opening of which makes a pseudo terminal."""
    return (os.major(rdev), os.minor(rdev)) == (AUX, _PTMX)


def slave_index(rdev: int) -> int | None:
    """N of /dev/pts/N, None for other devices."""
    return (os.major(rdev) - SLAVES.start << 20) + os.minor(rdev) if os.major(rdev) in SLAVES else None


def majors(drivers: str) -> set[int]:
    """Major numbers of terminals, from /proc/tty/drivers."""
    return {int(line.split()[2]) for line in drivers.splitlines() if len(line.split()) > 3}


def control(fd: int, request: int, argument: int | bytes | array.array[int] = 0, what: str = "") -> int | bytes:
    """ioctl(2); KernelError names the request and `what`."""
    try:
        return fcntl.ioctl(fd, request, argument)
    except OSError as error:
        name = _NAMES.get(request, hex(request))
        raise KernelError(f"ioctl {name}", error.errno or 0, what or f"descriptor {fd}") from None


def number(fd: int, request: int, what: str = "") -> int:
    """A request that answers with an int."""
    cell = array.array("i", [0])
    control(fd, request, cell, what)
    return cell[0]


def tell(fd: int, request: int, value: int, what: str = "") -> None:
    """A request that wants an int by its address."""
    control(fd, request, array.array("i", [value]), what)


@record
class Settings:
    """struct termios2: flags, line discipline, special characters, speeds in baud."""

    iflag: int
    oflag: int
    cflag: int
    lflag: int
    line: int
    cc: bytes
    ispeed: int = 0
    ospeed: int = 0


_TERMIOS = struct.Struct(f"=4IB{NCCS}s")
_TERMIOS2 = struct.Struct(f"=4IB{NCCS}s2I")


def settings(fd: int) -> Settings:
    """What a terminal is set to; both ends of a pseudo terminal tell the settings of the slave."""
    answer = control(fd, TCGETS2, bytes(_TERMIOS2.size))
    assert isinstance(answer, bytes)
    return Settings(*_TERMIOS2.unpack(answer))


def set_settings(fd: int, new: Settings) -> None:
    """Set them, at once and without losing what waits."""
    words = (new.iflag, new.oflag, new.cflag, new.lflag, new.line, new.cc, new.ispeed, new.ospeed)
    control(fd, TCSETS2, _TERMIOS2.pack(*words))


def locked_settings(fd: int) -> Settings:
    """Which bits of the settings are locked, see TIOCGLCKTRMIOS."""
    answer = control(fd, TIOCGLCKTRMIOS, bytes(_TERMIOS.size))
    assert isinstance(answer, bytes)
    return Settings(*_TERMIOS.unpack(answer))


def lock_settings(fd: int, locked: Settings) -> None:
    """Lock these, unlock all others. Needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE."""
    words = (locked.iflag, locked.oflag, locked.cflag, locked.lflag, locked.line, locked.cc)
    control(fd, TIOCSLCKTRMIOS, _TERMIOS.pack(*words))


UNLOCKED = Settings(0, 0, 0, 0, 0, bytes(NCCS))


def window(fd: int) -> tuple[int, int, int, int]:
    """Rows, columns, and the size in pixels."""
    answer = control(fd, TIOCGWINSZ, bytes(8))
    assert isinstance(answer, bytes)
    rows, columns, width, height = struct.unpack("4H", answer)
    return rows, columns, width, height


def set_window(fd: int, size: tuple[int, int, int, int]) -> None:
    """Set it; a foreground group is told by SIGWINCH when it changes."""
    control(fd, TIOCSWINSZ, struct.pack("4H", *size))


def is_hung_up(fd: int) -> bool:
    """Whether the terminal has been taken from under this descriptor: every request fails with EIO."""
    try:
        number(fd, TIOCGETD)
    except KernelError as error:
        if error.errno != EIO:
            raise
        return True
    return False


def open_slave(master: int, path: str, flags: int) -> int:
    """The same for a task to keep: opened by `path`, if that leads there, as the task has done."""
    peer = open_peer(master, flags)
    try:
        there, here = os.stat(path), os.fstat(peer)
        if (there.st_dev, there.st_ino, there.st_rdev) != (here.st_dev, here.st_ino, here.st_rdev):
            raise UserError(f"{path} does not lead to its pseudo terminal", "is another devpts mounted there?")
        return os.open(path, flags | os.O_NOCTTY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise UserError(f"{path} does not lead to its pseudo terminal", "is a devpts mounted there?") from None
    finally:
        os.close(peer)


def session(master: int) -> tuple[int, int]:
    """The session that the slave of `master` controls, and its foreground group; zeros where there is none."""
    try:
        return number(master, TIOCGSID), number(master, TIOCGPGRP)
    except KernelError as error:
        if error.errno != ENOTTY:
            raise
        return 0, 0


def is_ours_to_set(fd: int) -> bool:
    """Whether a change of settings is nobody else's matter: not our controlling terminal, or in our foreground."""
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError as error:
        if error.errno != ENOTTY:
            raise
        return True


def has_been_left(master: int) -> bool:
    """Whether a slave has been open and none is."""
    return bool(libc.poll(master, 0) & select.POLLHUP)


def open_peer(master: int, flags: int) -> int:
    """A descriptor for the slave of `master`, close-on-exec, never a controlling terminal (Linux 4.13)."""
    result = control(master, TIOCGPTPEER, flags | os.O_NOCTTY | os.O_CLOEXEC, "the slave of a pseudo terminal")
    assert isinstance(result, int)
    return result


def open_master(path: str, flags: int, index: int) -> int:
    """A pseudo terminal of this number; UserError, with who has it, where it is taken.

    The kernel gives out the lowest free number: those below are taken, and given back.
    """
    status = os.stat(path)
    if not stat.S_ISCHR(status.st_mode) or (os.major(status.st_rdev), os.minor(status.st_rdev)) != (5, 2):
        raise UserError(f"{path} is not the device that makes pseudo terminals (5:2)", "is a devpts mounted?")
    below: list[int] = []
    try:
        while True:
            fd = os.open(path, flags | os.O_NOCTTY | os.O_CLOEXEC)
            got = number(fd, TIOCGPTN)
            if got == index:
                return fd
            below.append(fd)
            if got > index:
                raise taken(index)
    except OSError as error:
        raise KernelError("open", error.errno or 0, f"{path}, for pseudo terminal {index}") from None
    finally:
        for fd in below:
            os.close(fd)


def taken(index: int) -> UserError:
    """Who has the number of a pseudo terminal that is needed."""
    holder = next((name for pid in os.listdir("/proc") if pid.isdigit() and (name := _holds(int(pid), index))), None)
    return UserError(
        f"the pseudo terminal /dev/pts/{index} is in use{f' by {holder}' if holder else ''}",
        "the tree needs the one of this number: end that program first, or restore later",
    )


def _holds(pid: int, index: int) -> str:
    """The name of a process if it is the master of a pseudo terminal."""
    try:
        for fd in procfs.descriptors(pid):
            if not procfs.link(pid, f"fd/{fd}").endswith("ptmx"):
                continue
            if procfs.parse_fdinfo(procfs.text(pid, f"fdinfo/{fd}")).get("tty-index") == str(index):
                return f"process {pid} ({procfs.stat(pid).comm})"
    except (TraceeGone, PermissionError, UserError):
        pass
    return ""


def open_alias(master: int, flags: int) -> int:
    """/dev/tty, opened by one whose controlling terminal is the slave of `master`: a child that is gone afterwards."""
    opened: list[int] = []

    def be_controlled() -> bytes:
        os.setsid()
        _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())
        control(open_peer(master, os.O_RDWR), TIOCSCTTY)
        opened.append(os.open("/dev/tty", flags | os.O_CLOEXEC))
        return opened[0].to_bytes(4, "little")

    # It must give the terminal back: one that is still its own at its end would be hung up.
    with Lender(os.fork, be_controlled, lambda: control(opened[0], TIOCNOTTY)) as child:
        if len(child.answer) != 4:
            raise KernelError("open", EIO, "/dev/tty")
        return child.fetch([int.from_bytes(child.answer, "little")])[0]
