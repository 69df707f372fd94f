# SPDX-License-Identifier: GPL-2.0-only
"""Terminals: pseudo terminals with both ends in the tree, serial lines and consoles, and the terminal of the user.

Kept of a pseudo terminal: its number, owner, mode, settings and locks of settings, window size, packet and exclusive
mode, whose controlling terminal it is, the foreground group, all that waits in it in both directions, stopped output,
and slaves that were hung up. Of other terminals: settings and window size.

A slave whose master is outside the tree is the user's terminal: with --shell-job the terminal that `restore` runs on
takes its place.
"""

from __future__ import annotations

import os
import stat
import time

from pycriu.errors import About, ImageError, TraceeGone, Unsupported, UserError
from pycriu.fds.kind import Kind
from pycriu.fds.openfile import OpenFile, no_owner
from pycriu.fds.tty import info as ttyinfo
from pycriu.fds.tty.info import CTTY, MAX_INDEX, PTY
from pycriu.images import messages as m
from pycriu.kernel import procfs, terminal, typeahead

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pycriu.fds.opening import Opening
    from pycriu.fds.saving import Saving
    from pycriu.images.store import ImagesDir, NewCheckpoint
    from pycriu.log import Log
    from pycriu.tracing.pstree import Process

    Borrowed = tuple[OpenFile, int]  # a descriptor of the tree, and ours for the same open file

SIGWINCH = 28
_BACK_IN_CALLS = 0.1  # seconds that a program may take until it sleeps
_MAX_WAITING = 1 << 16  # bytes; the kernel holds less than 24 KiB for each direction
# tty_info_entry.id: pairs have what CRIU gives them, all others one of these. CRIU crashes at numbers from 2048.
_FREE_IDS = (*range(2047, 1999, -1), *range(2 * MAX_INDEX, 2 * MAX_INDEX + 1000))
N_TTY = 0
_PTS = "/dev/pts"
_KEEP = os.O_ACCMODE | os.O_NONBLOCK
_STANDARD = (0, 1, 2)  # where the user's terminal is looked for


def _id(index: int, *, master: bool) -> int:
    return index << 1 | master


class Sessions:
    """Who of a stopped tree has which controlling terminal."""

    def __init__(self, root: Process) -> None:
        stats = [process.stat for process in root.walk()]
        self.leaders = {stat.session for stat in stats if stat.session == stat.pid}
        self.of_device = {stat.tty_nr: (stat.session, max(stat.tpgid, 0)) for stat in stats if stat.tty_nr}


class Tty(Kind):
    """Everything that answers to the requests of ioctl_tty(2)."""

    TYPE = 11  # fd_types.TTY

    def __init__(self, options: Any, log: Log) -> None:
        super().__init__(options, log)
        self._majors: set[int] = set()
        self._infos: dict[int, Any] = {}  # tty_info_entry by id
        self._info_of: dict[tuple[int, int], int] = {}  # (pid, fd) → id
        self._ids: dict[tuple[object, ...], int] = {}  # what tells a single terminal from others → its id
        self._outputs: dict[int, bytes] = {}  # id of a master → what waits for its readers
        self._pairs: dict[int, Any] = {}  # index → pycriu_tty_entry
        self._groups: dict[int, list[Any]] = {}  # index → file_entry of what was open of the pair, until it is made
        self._users: list[Any] = []  # file_entry of what the user's terminal stands in for
        self._singles: list[Any] = []  # file_entry of terminals that are opened by their path
        self._user = -1  # our descriptor that is it
        self._fds: dict[int, int] = {}  # id of a file → our descriptor, until it is asked for
        self._outside: set[int] = set()  # device numbers of slaves whose masters are outside the tree

    # ------------------------------------------------------------------------------------------------------------ dump

    def matches(self, file: OpenFile) -> bool:
        """A terminal of whatever driver."""
        if not file.is_character_device() or file.flags & os.O_PATH:
            return False
        if not self._majors:
            self._majors = {4, terminal.AUX, *terminal.SLAVES} | terminal.majors(procfs.text("tty", "drivers"))
        return os.major(file.status.st_rdev) in self._majors

    def inspect(self, file: OpenFile) -> None:
        """Unsupported for a line discipline that is not the usual one."""
        fd = file.borrow()
        try:
            if terminal.is_hung_up(fd):
                return
            line = terminal.number(fd, terminal.TIOCGETD, file.name)
        finally:
            os.close(fd)
        if line != N_TTY:
            raise Unsupported(
                f"{file.name} is a terminal with the line discipline {line}", "only N_TTY (0) can be kept"
            )

    def gather(self, files: list[OpenFile], saving: Saving) -> None:
        """State of every terminal, and what waits in it."""
        borrowed = [(file, file.borrow()) for file in files]
        try:
            self._gather(borrowed, saving)
        finally:
            for _, fd in borrowed:
                os.close(fd)

    def _gather(self, files: list[Borrowed], saving: Saving) -> None:
        sessions = Sessions(saving.root)
        masters: dict[int, Borrowed] = {}
        for file, fd in files:
            if terminal.is_master(file.status.st_rdev):
                index = terminal.number(fd, terminal.TIOCGPTN)
                if index not in self._pairs:
                    masters.setdefault(index, (file, fd))
                self._info_of[file.pid, file.fd] = _id(index, master=True)
        self._gather_pairs(masters, files, sessions)
        for file, fd in files:
            if (file.pid, file.fd) not in self._info_of:
                with About(file):
                    self._gather_single(file, fd, sessions)

    def _gather_pairs(self, masters: dict[int, Borrowed], files: list[Borrowed], sessions: Sessions) -> None:
        slaves: dict[int, list[Borrowed]] = {index: [] for index in masters}
        for one in files:
            index = terminal.slave_index(one[0].status.st_rdev)
            if index is not None and index in slaves and not terminal.is_hung_up(one[1]):
                slaves[index].append(one)
        for index, master in masters.items():
            with About(master[0]):
                _refuse_other_sessions(master, slaves[index], sessions)
        left = {index for index, (_, fd) in masters.items() if not slaves[index] and terminal.has_been_left(fd)}
        used = [index for index in masters if slaves[index] or index in left]
        waiting = dict(zip(used, typeahead.look([masters[index][1] for index in used]), strict=True))
        for index, master in masters.items():
            found = waiting.get(index, typeahead.Waiting())
            self._note_pair(index, master, slaves[index], found, closed=index in left)

    def _note_pair(
        self, index: int, master: Borrowed, slaves: list[Borrowed], waiting: typeahead.Waiting, *, closed: bool
    ) -> None:
        node, owners = slaves[0][0].status if slaves else os.stat(f"{_PTS}/{index}"), terminal.session(master[1])
        self._pairs[index] = m.pycriu_tty_entry(
            index=index, mode=stat.S_IMODE(node.st_mode), closed=closed, line=waiting.lines, typed=waiting.typed,
            behind=waiting.behind, stopped=waiting.stopped, status=waiting.status,
        )  # fmt: skip
        self._outputs[_id(index, master=True)] = waiting.output
        self._note(
            master[0], _id(index, master=True), ttyinfo.entry(master[1], master[0].status, PTY, owners, index, node)
        )
        for file, fd in slaves:
            number = _id(index, master=False)
            if number not in self._infos:
                self._note(file, number, ttyinfo.entry(fd, file.status, PTY, owners, index, node))
            self._info_of[file.pid, file.fd] = number

    def _gather_single(self, file: OpenFile, fd: int, sessions: Sessions) -> None:
        """A terminal without its master: hung up, the user's, or one that has no master."""
        kind, index = ttyinfo.type_of(file.status.st_rdev), terminal.slave_index(file.status.st_rdev)
        if terminal.is_hung_up(fd):
            if index is None:
                raise Unsupported(f"{file.name} is a terminal that has been hung up", "let the task close it")
            number = self._number(("hung up", index), _id(index, master=False))
            self._note(file, number, ttyinfo.bare(file.status, PTY, (0, 0), index))
            return
        device = terminal.number(fd, terminal.TIOCGDEV)
        owners, index = sessions.of_device.get(device, (0, 0)), terminal.slave_index(device)
        if index is not None and _id(index, master=True) not in self._infos:
            self._refuse_outside(file, device, owners, sessions)
        number = self._number((kind, device), None if index is None or kind == CTTY else _id(index, master=False))
        self._note(file, number, ttyinfo.entry(fd, file.status, kind, owners, index, file.status))

    def _number(self, key: tuple[object, ...], wanted: int | None) -> int:
        """The id of a terminal that is no pair of the tree: `wanted` if nothing has that, else a free one."""
        if key not in self._ids:
            numbers = _FREE_IDS if wanted is None else (wanted, *_FREE_IDS)
            self._ids[key] = next(number for number in numbers if number not in self._infos)
        return self._ids[key]

    def _refuse_outside(self, file: OpenFile, device: int, owners: tuple[int, int], sessions: Sessions) -> None:
        if not self.options.shell_job:
            raise UserError(
                f"{file.name} is a terminal whose other end is outside the tree of the dump",
                "add --shell-job here and at the restore, whose own terminal then takes its place; "
                "or dump the program that holds the other end, too",
            )
        if owners[0] in sessions.leaders:
            raise Unsupported(
                f"process {owners[0]} leads the session of {file.link}, whose other end is outside the tree",
                "dump the program that holds the other end, too, or only a job of that session",
            )
        self._outside.add(device)
        if len(self._outside) > 1:
            raise Unsupported(
                f"{file.name} is a second terminal whose other end is outside the tree of the dump",
                "at the restore, only one can take its place",
            )

    def _note(self, file: OpenFile, number: int, info: Any) -> None:
        info.id = number
        self._infos.setdefault(number, info)
        self._info_of[file.pid, file.fd] = number

    def dump(self, file: OpenFile, number: int, saving: Saving) -> Any:
        """The image of one open file, and beside it one that holds its path."""
        path = file.link.removesuffix(" (deleted)")
        lent = saving.lend(path, file.flags, file.status)
        entry = m.tty_file_entry(
            id=number, tty_info_id=self._info_of[file.pid, file.fd], flags=file.flags, fown=no_owner(), regf_id=lent
        )
        return m.file_entry(type=self.TYPE, id=number, tty=entry)

    def write(self, new: NewCheckpoint) -> None:
        """What the terminals are, and what waits in them."""
        if not self._infos:
            return
        new.write("tty-info.img", list(self._infos.values()))
        data = [m.tty_data_entry(tty_id=number, data=output) for number, output in self._outputs.items() if output]
        for index, pair in self._pairs.items():
            if unread := b"".join(pair.line) + pair.typed + pair.behind:
                data.append(m.tty_data_entry(tty_id=_id(index, master=False), data=unread))
        if data:
            new.write("tty-data.img", data)
        new.write_any("pycriu-tty.img", list(self._pairs.values()))

    # --------------------------------------------------------------------------------------------------------- restore

    def read(self, images: ImagesDir, entries: list[Any]) -> None:
        """What the terminals were. UserError where the number of one is taken, or the user's is missing."""
        if not entries:
            return
        infos: list[Any] = images.read("tty-info.img")
        self._infos = {info.id: info for info in infos}
        for entry in entries:
            if entry.tty.tty_info_id not in self._infos:
                raise ImageError(
                    f"file {entry.id} is a terminal {entry.tty.tty_info_id} that tty-info.img does not have"
                )
            ttyinfo.check(self._infos[entry.tty.tty_info_id])
            self.lent.add(entry.tty.regf_id)
        data: list[Any] = images.read("tty-data.img") if images.exists("tty-data.img") else []
        own: list[Any] = images.read_if_there("pycriu-tty.img")
        self._pairs = {pair.index: pair for pair in own}
        self._outputs = {one.tty_id: one.data for one in data}
        self._plan(entries)

    def _plan(self, entries: list[Any]) -> None:
        """Sort the entries by where their terminal comes from."""
        masters = {self._info(one).pty.index for one in entries if terminal.is_master(self._info(one).rdev)}
        for entry in entries:
            info = self._info(entry)
            if not info.HasField("pty"):
                self._singles.append(entry)
            elif info.pty.index in masters or not info.HasField("termios"):
                self._groups.setdefault(info.pty.index, []).append(entry)
            else:
                self._users.append(entry)
        for index in self._groups:
            with About():
                if os.path.exists(f"{_PTS}/{index}"):
                    raise terminal.taken(index)
        if self._users:
            self._user = self._find_user_terminal()

    def _info(self, entry: Any) -> Any:
        return self._infos[entry.tty.tty_info_id]

    def _find_user_terminal(self) -> int:
        name = f"the terminal /dev/pts/{self._info(self._users[0]).pty.index} of the tree is the user's"
        if not self.options.shell_job:
            raise UserError(
                f"{name}: its other end was not dumped", "add --shell-job to give it the one of this command"
            )
        for fd in (*_STANDARD, self.options.terminal):
            if os.isatty(fd):
                return int(fd)
        raise UserError(
            f"{name}, and this command has none to take its place", "run it on a terminal, e.g. in script(1)"
        )

    def rehearse(self, entry: Any) -> None:
        """What has no master must be where it was; the rest has been looked at."""
        if entry in self._singles and self._info(entry).type != CTTY:
            device = self._info(entry).rdev
            link = f"/sys/dev/char/{os.major(device)}:{os.minor(device)}"
            if os.path.isdir("/sys/dev/char") and not os.path.exists(link):
                numbers = f"{os.major(device)}:{os.minor(device)}"
                raise UserError(f"the terminal {numbers} of the tree is not there", "put the device back")

    def open(self, entry: Any, opening: Opening) -> int:
        """Our descriptor. The first of a pair makes all of that pair."""
        if entry in self._users:
            return self._open_users("/dev/tty" if self._info(entry).type == CTTY else "", _flags(entry))
        if entry in self._singles:
            return open_by_path(self._path(entry, opening), self._info(entry), _flags(entry))
        index = self._info(entry).pty.index
        if index in self._groups:
            self._make(index, self._groups.pop(index), opening)
        return self._fds.pop(entry.id)

    def _open_users(self, alias: str, flags: int) -> int:
        """The terminal of this command, anew."""
        path = alias or f"/proc/self/fd/{self._user}"
        try:
            return os.open(path, flags)
        except OSError as error:
            name = alias or os.ttyname(self._user)
            raise UserError(
                f"the terminal of this command, {name}, cannot be opened: {error.strerror}",
                "one that is of this user, as after a login or in script(1), is needed",
            ) from None

    def _path(self, entry: Any, opening: Opening) -> str:
        lent = opening.entries.get(entry.tty.regf_id)
        name = lent.reg.name if lent is not None else "/dev/ptmx"
        if not name.startswith("/") or "\0" in name:
            raise ImageError(f"the path {name!r} of terminal {entry.id} is not absolute")
        return str(name)

    def _make(self, index: int, entries: list[Any], opening: Opening) -> None:
        """A pseudo terminal with all that was open of it."""
        masters = [one for one in entries if terminal.is_master(self._info(one).rdev)]
        slaves = [one for one in entries if not terminal.is_master(self._info(one).rdev)]
        if len(masters) > 1:
            raise ImageError(f"pseudo terminal {index} has {len(masters)} masters")
        path, flags = "/dev/ptmx", os.O_RDWR
        if masters:
            path, flags = self._path(masters[0], opening), _flags(masters[0])
        master = terminal.open_master(path, flags, index)
        try:
            terminal.tell(master, terminal.TIOCSPTLCK, 0)
            live = self._open_slaves(master, slaves, opening)
            if masters:
                self._furnish(index, master, self._info(masters[0]), opened=bool(live))
                self._fds[masters[0].id] = os.dup(master)
        finally:
            os.close(master)
        for one in live:
            if self._info(one).exclusive:
                terminal.control(self._fds[one.id], terminal.TIOCEXCL)

    def _open_slaves(self, master: int, entries: list[Any], opening: Opening) -> list[Any]:
        """Descriptors for all of them; first those that are to be hung up. The others."""
        hung = [one for one in entries if not self._info(one).HasField("termios")]
        for one in hung:
            self._fds[one.id] = terminal.open_slave(master, self._path(one, opening), _flags(one))
        if hung:
            terminal.control(self._fds[hung[0].id], terminal.TIOCVHANGUP)
        live = [one for one in entries if self._info(one).HasField("termios")]
        for one in live:
            if self._info(one).type == CTTY:
                self._fds[one.id] = terminal.open_alias(master, _flags(one))
            else:
                self._fds[one.id] = terminal.open_slave(master, self._path(one, opening), _flags(one))
        return live

    def _furnish(self, index: int, master: int, info: Any, *, opened: bool) -> None:
        """Node, settings, modes, and what waited. A slave is opened only if one had been."""
        pair = self._pairs.get(index)
        node = f"{_PTS}/{index}"
        os.chown(node, info.uid, info.gid)
        if pair is not None:
            os.chmod(node, pair.mode & 0o777)
        terminal.set_settings(master, ttyinfo.to_settings(info.termios))
        terminal.lock_settings(master, ttyinfo.to_settings(info.termios_locked))
        size = info.winsize
        terminal.set_window(master, (size.ws_row, size.ws_col, size.ws_xpixel, size.ws_ypixel))
        terminal.tell(master, terminal.TIOCPKT, info.packet_mode)
        if opened or (pair is not None and pair.closed):
            slave = terminal.open_peer(master, os.O_RDWR | os.O_NONBLOCK)
            try:
                typeahead.put(master, slave, self._waiting(index, info))
            finally:
                os.close(slave)
        if info.exclusive:
            terminal.control(master, terminal.TIOCEXCL)
        terminal.tell(master, terminal.TIOCSPTLCK, info.locked)

    def _waiting(self, index: int, info: Any) -> typeahead.Waiting:
        output = self._outputs.get(_id(index, master=True), b"")
        unread = self._outputs.get(_id(index, master=False), b"")
        pair = self._pairs.get(index)
        if pair is not None:
            found = typeahead.Waiting(tuple(pair.line), pair.typed, pair.behind, output, pair.stopped, pair.status)
        elif typeahead.is_lined(ttyinfo.to_settings(info.termios)):
            *lines, typed = unread.split(b"\n")
            found = typeahead.Waiting(tuple(line + b"\n" for line in lines), typed, output=output)
        else:
            found = typeahead.Waiting(typed=unread, output=output)
        if found.size > _MAX_WAITING or len(found.lines) > _MAX_WAITING or found.status > 0x7F:
            raise ImageError(f"more waits in pseudo terminal {index} than one can hold")
        return found

    def controlling(self, opening: Opening) -> dict[int, tuple[int, int]]:
        """Session → our descriptor for its controlling terminal, and its foreground group."""
        found = {}
        for entry in opening.entries.values():
            if entry.type == self.TYPE and entry not in self._users:
                info = self._info(entry)
                if terminal.is_master(info.rdev) or not info.HasField("termios"):
                    continue
                if not info.sid and info.HasField("pty"):  # CRIU may have been told by the master only
                    info = self._infos.get(_id(info.pty.index, master=True), info)
                if info.sid:
                    found[info.sid] = opening.fd(entry.id), info.pgrp
        return found

    def finish(self, opening: Opening) -> None:
        """The user's terminal gets the settings that the tree had made, if the tree is in its foreground."""
        for entry in self._users[:1]:
            if terminal.is_ours_to_set(self._user):
                terminal.set_settings(self._user, ttyinfo.to_settings(self._info(entry).termios))

    def tell_size(self, pids: list[int]) -> None:
        """Let programs on the user's terminal look at its size, and draw anew: it is another than they knew.

        They get the signal when they are back in the calls they were in: a call that has not begun yet would not end.
        """
        if not self._users or not terminal.is_ours_to_set(self._user):
            return
        deadline = time.monotonic() + _BACK_IN_CALLS
        while time.monotonic() < deadline and any(_is_running(pid) for pid in pids):
            time.sleep(_BACK_IN_CALLS / 100)
        os.killpg(0, SIGWINCH)

    def close(self) -> None:
        """Whatever nobody has asked for."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds = {}


def _refuse_other_sessions(master: Borrowed, slaves: list[Borrowed], sessions: Sessions) -> None:
    """Unsupported for a terminal that others than the tree have as theirs, or that lives in another devpts."""
    file, session = master[0], terminal.session(master[1])[0]
    if session and (session not in sessions.leaders or not slaves):
        raise Unsupported(
            f"{file.name} belongs to the terminal of session {session}, which is outside the tree of the dump",
            "dump a tree that holds them both",
        )
    if any(slave.status.st_dev != os.stat(_PTS).st_dev for slave, _ in slaves):
        raise Unsupported(f"{slaves[0][0].name} is a terminal of another devpts than the one at {_PTS}")


def _is_running(pid: int) -> bool:
    try:
        return procfs.stat(pid).state == "R"
    except TraceeGone:
        return False


def _flags(entry: Any) -> int:
    return int(entry.tty.flags) & _KEEP | os.O_NOCTTY | os.O_CLOEXEC


def open_by_path(path: str, info: Any, flags: int) -> int:
    """A serial line or console, with its settings; UserError where another device is in its place."""
    try:
        status = os.stat(path)
        if not stat.S_ISCHR(status.st_mode) or status.st_rdev != info.rdev:
            raise UserError(f"{path} is not the terminal that it was", "put the device back in its place")
        # A serial line would wait for a carrier.
        fd = os.open(path, flags | os.O_NONBLOCK)
    except OSError as error:
        raise UserError(f"the terminal {path} cannot be opened: {error.strerror}", "put it back as it was") from None
    os.set_blocking(fd, not flags & os.O_NONBLOCK)
    if info.HasField("termios") and terminal.is_ours_to_set(fd):
        terminal.set_settings(fd, ttyinfo.to_settings(info.termios))
    return fd
