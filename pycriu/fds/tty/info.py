# SPDX-License-Identifier: GPL-2.0-only
"""tty_info_entry: what a terminal is and how it is set, as CRIU writes it; made from a terminal, and checked."""

from __future__ import annotations

import os

from pycriu.errors import ImageError
from pycriu.images import messages as m
from pycriu.kernel import terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PTY, CONSOLE, VT, CTTY, EXT_TTY, SERIAL = range(1, 7)  # TtyType
MAX_INDEX = 1 << 20


def type_of(rdev: int) -> int:
    """TtyType of a terminal's device number."""
    major, minor = os.major(rdev), os.minor(rdev)
    if terminal.is_master(rdev) or major in terminal.SLAVES:
        return PTY
    if major == terminal.AUX:
        return CTTY if minor == 0 else CONSOLE
    return VT if major == 4 and minor < 64 else SERIAL


def check(info: Any) -> None:
    """ImageError for what no terminal is."""
    if info.type not in (PTY, CONSOLE, VT, CTTY, SERIAL):
        raise ImageError(f"terminal {info.id} is of type {info.type}", "restore it with criu")
    if info.type == PTY and (not info.HasField("pty") or info.pty.index >= MAX_INDEX):
        raise ImageError(f"pseudo terminal {info.id} has no number, or one that is out of bounds")
    for termios in (info.termios, info.termios_locked):
        if max((termios.c_iflag, termios.c_oflag, termios.c_cflag, termios.c_lflag, *termios.c_cc)) >> 32:
            raise ImageError(f"the settings of terminal {info.id} are out of bounds")


def to_settings(entry: Any) -> terminal.Settings:
    """termios_entry. CRIU packs four special characters into each number."""
    cc = b"".join(word.to_bytes(4, "little") for word in entry.c_cc).ljust(terminal.NCCS, b"\0")[: terminal.NCCS]
    flags = (entry.c_iflag, entry.c_oflag, entry.c_cflag, entry.c_lflag)
    return terminal.Settings(*flags, entry.c_line & 0xFF, cc, entry.c_ispeed, entry.c_ospeed)


def from_settings(now: terminal.Settings) -> Any:
    """The other way. It writes as many numbers as there are characters, though a quarter of them holds all."""
    packed = now.cc.ljust(4 * terminal.NCCS, b"\0")
    return m.termios_entry(
        c_iflag=now.iflag, c_oflag=now.oflag, c_cflag=now.cflag, c_lflag=now.lflag, c_line=now.line,
        c_ispeed=now.ispeed, c_ospeed=now.ospeed,
        c_cc=[int.from_bytes(packed[at : at + 4], "little") for at in range(0, len(packed), 4)],
    )  # fmt: skip


def bare(status: os.stat_result, kind: int, owners: tuple[int, int], index: int | None) -> Any:
    """tty_info_entry of a terminal of which nothing can be asked."""
    info = m.tty_info_entry(
        id=0, type=kind, locked=False, exclusive=False, packet_mode=False, sid=owners[0], pgrp=owners[1],
        rdev=status.st_rdev, dev=status.st_dev, uid=status.st_uid, gid=status.st_gid,
    )  # fmt: skip
    if index is not None:
        info.pty.index = index
    return info


def entry(
    fd: int, status: os.stat_result, kind: int, owners: tuple[int, int], index: int | None, node: os.stat_result
) -> Any:
    """tty_info_entry of a terminal that works; `node` is what belongs to its user."""
    info = bare(status, kind, owners, index)
    info.uid, info.gid = node.st_uid, node.st_gid
    info.exclusive = bool(terminal.number(fd, terminal.TIOCGEXCL))
    if terminal.is_master(status.st_rdev):
        info.packet_mode = bool(terminal.number(fd, terminal.TIOCGPKT))
        info.locked = bool(terminal.number(fd, terminal.TIOCGPTLCK))
    info.termios.CopyFrom(from_settings(terminal.settings(fd)))
    info.termios_locked.CopyFrom(from_settings(terminal.locked_settings(fd)))
    rows, columns, width, height = terminal.window(fd)
    info.winsize.CopyFrom(m.winsize_entry(ws_row=rows, ws_col=columns, ws_xpixel=width, ws_ypixel=height))
    return info
