# SPDX-License-Identifier: GPL-2.0-only
"""Terminals: what /proc prints of them, CRIU's way to write settings, images that lie, and what waits in a real one."""

from __future__ import annotations

import os
import random
import termios
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pycriu import log
from pycriu.errors import ImageError, PycriuError, UserError
from pycriu.fds.tty import info as ttyinfo
from pycriu.fds.tty import kind as tty
from pycriu.images import messages as m
from pycriu.kernel import terminal, typeahead
from pycriu.options import RestoreOptions
from pycriu.record import replace

DRIVERS = """\
/dev/tty             /dev/tty        5       0 system:/dev/tty
/dev/console         /dev/console    5       1 system:console
/dev/ptmx            /dev/ptmx       5       2 system
/dev/vc/0            /dev/vc/0       4       0 system:vtmaster
ttyAMA               /dev/ttyAMA   204 64-77 serial
pty_slave            /dev/pts      136 0-1048575 pty:slave
pty_master           /dev/ptm      128 0-1048575 pty:master
"""


def test_drivers() -> None:
    assert terminal.majors(DRIVERS) == {5, 4, 204, 136, 128}


@pytest.mark.parametrize(
    ("major", "minor", "kind", "index"),
    [(5, 2, ttyinfo.PTY, None), (136, 7, ttyinfo.PTY, 7), (136, 300, ttyinfo.PTY, 300), (5, 0, ttyinfo.CTTY, None),
     (5, 1, ttyinfo.CONSOLE, None), (4, 1, ttyinfo.VT, None), (4, 64, ttyinfo.SERIAL, None),
     (204, 64, ttyinfo.SERIAL, None)],
)  # fmt: skip
def test_numbers_of_devices(major: int, minor: int, kind: int, index: int | None) -> None:
    rdev = os.makedev(major, minor)
    assert ttyinfo.type_of(rdev) == kind
    assert terminal.slave_index(rdev) == index
    assert terminal.is_master(rdev) == ((major, minor) == (5, 2))


def test_settings_are_written_as_criu_does() -> None:
    """Four characters in a number, and as many numbers as there are characters. Speeds 0, as CRIU has them."""
    cc = bytes(range(1, 20))
    entry = ttyinfo.from_settings(terminal.Settings(1, 2, 3, 4, 0, cc))
    assert list(entry.c_cc) == [0x04030201, 0x08070605, 0x0C0B0A09, 0x100F0E0D, 0x131211, *[0] * 14]
    assert ttyinfo.to_settings(entry) == terminal.Settings(1, 2, 3, 4, 0, cc, 0, 0)


def info(**changes: Any) -> Any:
    wanted = {"id": 0, "type": ttyinfo.PTY, "rdev": os.makedev(136, 0), "pty": m.tty_pty_entry(index=0)} | changes
    zeros = {"locked": False, "exclusive": False, "packet_mode": False, "sid": 0, "pgrp": 0}
    flat = terminal.Settings(0, 0, 0o60277, 0, 0, bytes(19))
    wanted |= {"termios": ttyinfo.from_settings(flat), "termios_locked": ttyinfo.from_settings(flat)}
    return m.tty_info_entry(**zeros, **wanted)


class Images:
    """The images of a terminal, from memory."""

    def __init__(self, **files: list[Any]) -> None:
        self.files = {name.replace("_", "-") + ".img": entries for name, entries in files.items()}

    def exists(self, name: str) -> bool:
        return name in self.files

    def read(self, name: str) -> list[Any]:
        return self.files[name]

    def read_if_there(self, name: str) -> list[Any]:
        return self.files.get(name, [])


def restorer() -> tty.Tty:
    return tty.Tty(RestoreOptions(images_dir="/", work_dir="/"), log.Log(0, os.open(os.devnull, os.O_WRONLY), 0.0))


def entry(number: int = 1, terminal_id: int = 0) -> Any:
    fown = m.fown_entry(uid=0, euid=0, signum=0, pid_type=0, pid=0)
    file = m.tty_file_entry(id=number, tty_info_id=terminal_id, flags=2, fown=fown, regf_id=99)
    return m.file_entry(type=11, id=number, tty=file)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (Images(tty_info=[info(id=7)]), "does not have"),
        (Images(tty_info=[info(type=ttyinfo.EXT_TTY)]), "type 5"),
        (Images(tty_info=[info(pty=m.tty_pty_entry(index=1 << 20))]), "out of bounds"),
        (Images(tty_info=[info(pty=None)]), "no number"),
    ],
)
def test_images_that_lie(images: Images, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        restorer().read(images, [entry()])  # type: ignore[arg-type]


def test_more_waits_than_can() -> None:
    kind = restorer()
    kind._outputs = {1: bytes(70000)}
    with pytest.raises(ImageError, match="more waits"):
        kind._waiting(0, info())


def test_a_terminal_without_its_other_end_needs_the_option() -> None:
    with pytest.raises(UserError, match="other end was not dumped"):
        restorer().read(Images(tty_info=[info()]), [entry()])  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------ a real terminal


class Pair:
    """A pseudo terminal."""

    def __init__(self) -> None:
        self.master = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        terminal.tell(self.master, terminal.TIOCSPTLCK, 0)
        self.slave = terminal.open_peer(self.master, os.O_RDWR | os.O_NONBLOCK)

    def set(self, **changes: int) -> None:
        terminal.set_settings(self.slave, replace(terminal.settings(self.slave), **changes))

    def read(self, fd: int) -> list[bytes]:
        """Read by read."""
        return typeahead._read_all(fd)

    def fill(self, fd: int, data: bytes) -> int:
        """Write as much as goes; how much that is."""
        done = 0
        while done < len(data):
            try:
                done += os.write(fd, data[done : done + 500])
            except BlockingIOError:
                return done
        return done

    def close(self) -> None:
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def pairs() -> Iterator[tuple[Pair, Pair]]:
    if os.geteuid():
        pytest.skip("typing into a terminal that is not one's own needs root (TIOCSTI)")
    two = Pair(), Pair()
    yield two
    for pair in two:
        pair.close()


def lines(pair: Pair) -> None:
    os.write(pair.slave, b"out\n")
    time.sleep(0.05)
    os.write(pair.master, b"one\ntwo\x04\x04 \x16\x04 three\nlas\x16\nt\x16\x16\x16\x03bu\x7f")


def other_ends(pair: Pair) -> None:
    now = bytearray(terminal.settings(pair.slave).cc)
    now[terminal.VEOL] = ord(";")
    terminal.set_settings(pair.slave, replace(terminal.settings(pair.slave), cc=bytes(now)))
    os.write(pair.master, b"li;ne\n\n\x04q\x16;r;\x04")


def raw(pair: Pair) -> None:
    pair.set(iflag=0, oflag=0, lflag=0)
    os.write(pair.master, bytes(range(256)))
    os.write(pair.slave, bytes(range(256)))


def stopped(pair: Pair) -> None:
    os.write(pair.slave, b"abc\n")
    termios.tcflow(pair.slave, termios.TCOOFF)
    os.write(pair.master, b"typed")


def stopped_by_key(pair: Pair) -> None:
    os.write(pair.slave, b"abc\n")
    os.write(pair.master, b"\x13typed")


def packets(pair: Pair) -> None:
    terminal.tell(pair.master, terminal.TIOCPKT, 1)
    os.write(pair.slave, b"hello")
    termios.tcflush(pair.slave, termios.TCIFLUSH)
    termios.tcflow(pair.slave, termios.TCOOFF)
    os.write(pair.master, b"li;ne\x11\x13")


def nothing(pair: Pair) -> None:
    pair.set(lflag=0)


def outcome(pair: Pair) -> list[object]:
    """What readers get, before and after the output is let go and the line is ended."""
    result: list[object] = [pair.read(pair.master), typeahead._events(pair.slave, 4)]
    os.write(pair.master, b"\x11")
    time.sleep(0.02)
    result += [typeahead._events(pair.slave, 4), pair.read(pair.master)]
    termios.tcflow(pair.slave, termios.TCOON)
    os.write(pair.master, b"\x7f+\n")
    time.sleep(0.02)
    return [*result, pair.read(pair.slave), pair.read(pair.master)]


@pytest.mark.parametrize("fill", [lines, other_ends, raw, stopped, stopped_by_key, packets, nothing])
def test_what_waits_is_moved_as_it_was(pairs: tuple[Pair, Pair], fill: Callable[[Pair], None]) -> None:
    first, second = pairs
    fill(first)
    time.sleep(0.05)
    settings = terminal.settings(first.slave)
    found = typeahead.look([first.master])[0]
    assert found == typeahead.look([first.master])[0], "a look changes something"
    assert terminal.settings(first.slave) == settings
    terminal.set_settings(second.slave, settings)
    terminal.tell(second.master, terminal.TIOCPKT, terminal.number(first.master, terminal.TIOCGPKT))
    typeahead.put(second.master, second.slave, found)
    assert outcome(second) == outcome(first)
    assert (found == typeahead.Waiting()) is (fill is nothing)


def test_a_terminal_that_is_full(pairs: tuple[Pair, Pair]) -> None:
    first, second = pairs
    data = bytes(random.Random(1).choices(b"abcdefghij\n", k=30000))
    for pair in pairs:
        pair.set(iflag=0, oflag=0, lflag=0)
    sent = first.fill(first.master, data), first.fill(first.slave, data)
    time.sleep(0.1)
    assert min(sent) > 8192
    found = typeahead.look([first.master])[0]
    typeahead.put(second.master, second.slave, found)
    for pair in pairs:
        assert b"".join(pair.read(pair.slave)) == data[: sent[0]]
        assert b"".join(pair.read(pair.master)) == data[: sent[1]]


def test_a_number_that_is_taken(pairs: tuple[Pair, Pair]) -> None:
    index = terminal.number(pairs[0].master, terminal.TIOCGPTN)
    with pytest.raises(PycriuError, match=f"/dev/pts/{index} is in use by process {os.getpid()}"):
        terminal.open_master("/dev/ptmx", os.O_RDWR, index)
    with pytest.raises(UserError, match="not the device"):
        terminal.open_master("/dev/null", os.O_RDWR, index)
