# SPDX-License-Identifier: GPL-2.0-only
"""epoll(7): what is watched, for which events, with which data; watches that are disarmed; busy polling.

A watch is known to the kernel by the open file and by the number that it had when it was added. The number may be
closed by now, or lead to another file: as long as the file is open anywhere the watch lives. CRIU's message has room
for one number and no file, so such watches are in an image of ours.

A restore adds the watches from here: for as long as that takes, a file gets the number that it was added under. Only a
signalfd must be watched by the task itself, since it wakes up whoever's signals are handled where it was added.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import marshal
import os
import stat

from pycriu import arch
from pycriu.errors import About, ImageError, KernelError, Unsupported
from pycriu.fds.kind import Kind
from pycriu.fds.openfile import OpenFile, no_owner
from pycriu.images import messages as m
from pycriu.kernel import libc, procfs
from pycriu.record import record
from pycriu.tracing.tracee import Remote, Row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pycriu.fds.opening import Opening
    from pycriu.fds.saving import Saving
    from pycriu.images.store import ImagesDir, NewCheckpoint
    from pycriu.log import Log

EPOLL_CTL_ADD, EPOLL_CTL_MOD = 1, 3
EPOLLONESHOT = 1 << 30
PRIVATE_BITS = 0xF << 28  # EXCLUSIVE, WAKEUP, ONESHOT, ET: what a disarmed watch still has, fs/eventpoll.c
ANYTHING = 0x27FF  # every event that a file can have
EPIOCSPARAMS, EPIOCGPARAMS = 0x40088A01, 0x80088A02
SIGNALFD = 9  # fd_types.SIGNALFD
MAX_NUMBER = 1 << 20
NOWHERE = (1 << 31) - 1  # for CRIU, which must fail rather than watch another file
_PARAMS_SIZE = 8  # struct epoll_params
_IMAGE = "pycriu-epoll.img"
_ROOM = 1 << 12  # bytes, for an error

Added = tuple[int, int, int, int, int]
"""A watch in the making: our descriptors of the epoll file and of what it watches, the number, events, data."""


@record
class Watch:
    """One watch, as fdinfo has it."""

    number: int  # the descriptor when it was added
    events: int
    data: int
    position: int
    inode: int
    device: int


def parse(fdinfo: str) -> list[Watch]:
    """The `tfd:` lines, in the kernel's order: fs/eventpoll.c, ep_show_fdinfo. Descriptor and position are decimal."""
    watches = []
    for line in fdinfo.splitlines():
        if line.startswith("tfd:"):
            # "tfd:        3 events: 80000019 data:                3  pos:0 ino:1a sdev:10"
            f = line.replace(":", " ").split()
            watches.append(Watch(int(f[1]), int(f[3], 16), int(f[5], 16), int(f[7]), int(f[9], 16), int(f[11], 16)))
    return watches


class Epoll(Kind):
    """A set of watches."""

    TYPE = 7  # fd_types.EVENTPOLL
    NAME = "epoll"

    def __init__(self, options: Any, log: Log) -> None:
        super().__init__(options, log)
        self._found: dict[int, list[tuple[Watch, int]]] = {}  # id → watches, numbers for CRIU
        self.ended: set[int] | None = None  # of a process that ends, descriptors that will be there, but over
        self._slots: dict[tuple[int, int], tuple[int, int]] = {}  # (id, index of the watch) → number, id of the target
        self._params: dict[int, bytes] = {}
        self._epolls: list[Any] = []
        self._added = False
        self._by_task: dict[
            tuple[int, int], list[tuple[int, int, int]]
        ] = {}  # (PID, descriptor) → number, events, data

    # ------------------------------------------------------------------------------------------------------------ dump

    def matches(self, file: OpenFile) -> bool:
        """By the name of its anonymous inode."""
        return file.link == "anon_inode:[eventpoll]"

    def gather(self, files: list[OpenFile], saving: Saving) -> None:
        """The watches; Unsupported for one whose file no task of the tree has."""
        for number, file in saving.unseen(files, self._found):
            self._found[number] = []
            look = _Look(file, saving.descriptors_of(number), saving)
            for index, watch in enumerate(parse(procfs.text(file.pid, f"fdinfo/{file.fd}"))):
                with About(file):
                    target = look.target(watch)
                    if target is None:
                        self._outside(file, watch, number)
                        continue
                    at, whole = look.place(watch, target)
                    if not whole:
                        self._slots[number, index] = watch.number, target
                    self._found[number].append((watch, at))
            if params := _params(file):
                self._params[number] = params

    def _outside(self, file: OpenFile, watch: Watch, number: int) -> None:
        """A watch of what the tree does not have; where that is over, of what is in its place."""
        if self.ended is None:
            raise Unsupported(
                f"{file.name} watches what was its descriptor {watch.number} and is open outside the tree only",
                "let the task end that watch, or close that file everywhere",
            )
        if watch.number in self.ended and all(at != watch.number for _, at in self._found[number]):
            self._found[number].append((watch, watch.number))

    def dump(self, file: OpenFile, number: int, saving: Saving) -> Any:
        """Its message."""
        watches = [
            m.eventpoll_tfd_entry(
                id=number, tfd=at, events=watch.events, data=watch.data, dev=watch.device & 0xFFFFFFFF,
                inode=watch.inode, pos=watch.position,
            )
            for watch, at in self._found[number]
        ]  # fmt: skip
        entry = m.eventpoll_file_entry(id=number, flags=file.flags, fown=no_owner(), tfd=watches)
        return m.file_entry(type=self.TYPE, id=number, epfd=entry)

    def write(self, new: NewCheckpoint) -> None:
        """The watches that CRIU's message cannot tell, and busy polling."""
        own = {
            number: m.pycriu_epoll_entry(id=number) for number in sorted({n for n, _ in self._slots} | {*self._params})
        }
        for (number, index), (at, target) in sorted(self._slots.items()):
            own[number].slot.append(m.pycriu_epoll_slot(index=index, number=at, target=target))
        for number, params in self._params.items():
            own[number].params = params
        new.write_any(_IMAGE, list(own.values()))

    # --------------------------------------------------------------------------------------------------------- restore

    def read(self, images: ImagesDir, entries: list[Any]) -> None:
        """The same; ImageError for what belongs to no epoll, or has a number that no descriptor can have."""
        self._epolls = entries
        counts = {entry.id: len(entry.epfd.tfd) for entry in entries}
        own: list[Any] = images.read_if_there(_IMAGE)
        for one in own:
            for slot in one.slot:
                if slot.index >= counts.get(one.id, 0):
                    raise ImageError(f"{_IMAGE}: epoll {one.id} has no watch {slot.index}")
                self._slots[one.id, slot.index] = slot.number, slot.target
            if one.params:
                self._params[one.id] = one.params
            if len(one.params) not in (0, _PARAMS_SIZE):
                raise ImageError(f"{_IMAGE}: the parameters of epoll {one.id} are {len(one.params)} bytes")
        for entry in entries:
            for index, watch in enumerate(entry.epfd.tfd):
                at, _ = self._slots.get((entry.id, index), (watch.tfd, 0))
                if at >= MAX_NUMBER:
                    raise ImageError(f"epoll {entry.id} watches descriptor {at}, which is out of bounds")

    def open(self, entry: Any, opening: Opening) -> int:
        """A new one, empty: the files that it watches need not be there yet."""
        fd = libc.call("epoll_create1", os.O_CLOEXEC)
        try:
            fcntl.fcntl(fd, fcntl.F_SETFL, entry.epfd.flags & os.O_NONBLOCK)
            if entry.id in self._params:
                _set_params(fd, self._params[entry.id])
        except BaseException:
            os.close(fd)
            raise
        return fd

    def task_rows(self, entry: Any, descriptor: Any, pid: int, remote: Remote, opening: Opening) -> list[Row]:
        """The signalfds among the targets; everything else is watched when the first task comes here."""
        self._add_all(opening)
        rows = []
        for number, events, data in self._by_task.get((pid, descriptor.fd), []):
            event = remote.data(remote.task.arch.epoll_event.pack(events, data))
            what = f"watch of descriptor {number} by descriptor {descriptor.fd}"
            rows.append(Row("epoll_ctl", descriptor.fd, EPOLL_CTL_ADD, number, event, what=what))
        return rows

    def finish(self, opening: Opening) -> None:
        """Those that no task has a descriptor for: they are in flight."""
        self._add_all(opening)

    def _add_all(self, opening: Opening) -> None:
        if self._added:
            return
        self._added = True
        every: list[Added] = []
        for entry in self._epolls:
            holders = [
                (pid, fd) for pid, table in opening.tables.items() for fd, number in table.items() if number == entry.id
            ]
            ours = []
            for index, watch in enumerate(entry.epfd.tfd):
                slot = self._slots.get((entry.id, index))
                at, target = slot or (watch.tfd, _known(entry.id, watch.tfd, holders, opening))
                fd = opening.fd(target)
                place = next((one for one in holders if opening.tables[one[0]].get(at) == target), None)
                if opening.entries[target].type == SIGNALFD and place is not None:
                    self._by_task.setdefault(place, []).append((at, watch.events, watch.data))
                else:
                    ours.append((bool(watch.events & ~PRIVATE_BITS), fd, at, watch.events, watch.data))
            # the disarmed ones first: see _add_disarmed
            every += [(opening.fd(entry.id), *watch) for _, *watch in sorted(ours)]
        add(every)


def _known(epoll: int, number: int, holders: list[tuple[int, int]], opening: Opening) -> int:
    """The id of what a task that has the epoll file has open at this number."""
    for pid, _ in holders:
        if number in opening.tables[pid]:
            target: int = opening.tables[pid][number]
            return target
    raise ImageError(f"epoll {epoll} watches descriptor {number}, which no task that has it has open")


class _Look:
    """The watches of one epoll file, against what the tree has open; `holders` are the descriptors that lead to it."""

    def __init__(self, file: OpenFile, holders: list[tuple[int, int]], saving: Saving) -> None:
        self._file, self._holders, self._saving = file, holders, saving
        self._pids = sorted({pid for pid, _ in holders})
        self._seen: dict[int, int] = {}  # number → watches of that number so far
        self._numbers: dict[int, int] = {}  # id → descriptor of the owner

    def target(self, watch: Watch) -> int | None:
        """The id of the file that is watched; None where no task of the tree has it."""
        file, saving = self._file, self._saving
        which = self._seen[watch.number] = self._seen.get(watch.number, -1) + 1
        here = saving.number_of(file.pid, watch.number)
        if here is not None:
            status = saving.files[here][0].status
            # A socket is one open file for ever, so its inode tells; many watches of sockets would be slow to ask for.
            if stat.S_ISSOCK(status.st_mode) and status.st_ino == watch.inode:
                return here
            if not libc.kcmp_epoll(file.pid, watch.number, file.pid, file.fd, watch.number, which):
                return here
        return saving.find(
            watch.inode,
            lambda other: libc.kcmp_epoll(other.pid, other.fd, file.pid, file.fd, watch.number, which),
        )

    def place(self, watch: Watch, target: int) -> tuple[int, bool]:
        """The number for CRIU's message, and whether that says it all."""
        saving, number = self._saving, watch.number
        there = {pid: saving.number_of(pid, number) for pid in self._pids}
        if saving.files[target][1].TYPE == SIGNALFD and target not in [there[p] for p in there if p != os.getpid()]:
            raise Unsupported(
                f"{self._file.name} watches a signalfd as descriptor {number}, which is closed by now",
                "only the task that has both can be given them back; let it watch the signalfd under a number it has",
            )
        if set(there.values()) - {None} == {target}:
            return number, True
        if there[self._file.pid] == target:
            return number, False
        return self._number_of_owner(target), False

    def _number_of_owner(self, target: int) -> int:
        if not self._numbers:
            for fd in procfs.descriptors(self._file.pid):
                found = self._saving.number_of(self._file.pid, fd)
                if found is not None:
                    self._numbers.setdefault(found, fd)
        return self._numbers.get(target, NOWHERE)


def _params(file: OpenFile) -> bytes:
    """struct epoll_params (Linux 6.9), empty where nothing is set or the kernel lacks it."""
    fd = file.borrow()
    try:
        params = fcntl.ioctl(fd, EPIOCGPARAMS, bytes(8))
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EINVAL, errno.EOPNOTSUPP):
            raise
        return b""
    finally:
        os.close(fd)
    return params if any(params) else b""


def _set_params(fd: int, params: bytes) -> None:
    try:
        fcntl.ioctl(fd, EPIOCSPARAMS, params)
    except OSError as error:
        hint = "busy polling by epoll needs Linux 6.9 and CONFIG_NET_RX_BUSY_POLL"
        raise KernelError("ioctl", error.errno or 0, "EPIOCSPARAMS", hint) from None


def add(watches: list[Added]) -> None:
    """Add watches to epoll files of ours. Where we have threads a child does it: they use the numbers meanwhile."""
    if not watches or len(os.listdir("/proc/self/task")) == 1:
        for one in watches:
            _add(*one)
        return
    heard, said = os.pipe2(os.O_CLOEXEC)
    child = libc.fork_deaf()
    if not child:
        _add_in_child(watches, said)
    os.close(said)
    try:
        answer = os.read(heard, _ROOM)
    finally:
        os.close(heard)
        os.waitpid(child, 0)
    call, code, message, hint = marshal.loads(answer) if answer else ("epoll_ctl", errno.EINTR, "it was killed", None)
    if code:
        error = KernelError(call, code, "", hint)
        error.message = message
        raise error


def _add_in_child(watches: list[Added], said: int) -> None:
    answer: tuple[str, int, str, str | None] = ("", 0, "", None)
    try:
        try:
            for one in watches:
                _add(*one)
        except KernelError as error:
            answer = (error.call, error.errno, error.message, error.hint)
        os.write(said, marshal.dumps(answer))
    finally:
        os._exit(0)


def _add(epoll: int, fd: int, number: int, events: int, data: int) -> None:
    """Watch our `fd` as if it were descriptor `number`, which is ours for something else, or free."""
    try:
        kept, inheritable = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 3), os.get_inheritable(number)
    except OSError:
        kept, inheritable = -1, False
    if fd != number:
        _lend(fd, number)
    try:
        if events & ~PRIVATE_BITS:
            _control(kept if epoll == number else epoll, EPOLL_CTL_ADD, number, events, data)
        else:
            _add_disarmed(kept if epoll == number else epoll, number, events, data)
    finally:
        if kept >= 0:
            os.dup2(kept, number, inheritable=inheritable)
            os.close(kept)
        else:
            os.close(number)


def _lend(fd: int, number: int) -> None:
    try:
        os.dup2(fd, number, inheritable=False)
    except OSError as error:
        hint = "the limit of descriptors of pycriu is lower: ulimit -n"
        raise KernelError("dup2", error.errno or 0, f"descriptor {number}, which is watched", hint) from None


def _add_disarmed(epoll: int, number: int, events: int, data: int) -> None:
    """A watch with EPOLLONESHOT that has told once and waits for its task to arm it again.

    Adding it arms it. It is disarmed again by an event that we take: most files have one, if only that they can be
    written. No armed watch is there yet, so we take nobody else's. For a file without any, what remains armed are
    EPOLLERR and EPOLLHUP, which no call can leave out.
    """
    _control(epoll, EPOLL_CTL_ADD, number, events | ANYTHING, data)
    room = ctypes.create_string_buffer(16)
    if libc.call("epoll_pwait", epoll, ctypes.addressof(room), 1, 0, 0, 8) == 0:
        _control(epoll, EPOLL_CTL_MOD, number, events, data)


def _control(epoll: int, action: int, number: int, events: int, data: int) -> None:
    event = ctypes.create_string_buffer(arch.native().epoll_event.pack(events, data))
    try:
        libc.call("epoll_ctl", epoll, action, number, ctypes.addressof(event), what=f"descriptor {number}")
    except KernelError as error:
        if error.errno == errno.ENOSPC:
            error.hint = "raise the limit of watches: sysctl fs.epoll.max_user_watches"
        raise
