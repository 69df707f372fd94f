# SPDX-License-Identifier: GPL-2.0-only
"""What pipes and FIFOs have in common: the data in flight, its packets (O_DIRECT, pipe(2)), the capacity, and who else
has an end open.

The data is duplicated by tee(2) and stays where it is. Packets keep their ends in the duplicate; CRIU's images have no
place for them, so they are in an image of our own.
"""

from __future__ import annotations

import fcntl
import os

from pycriu.errors import ImageError, KernelError, TraceeGone
from pycriu.fds.kind import Kind
from pycriu.images import messages as m
from pycriu.kernel import libc, procfs
from pycriu.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pycriu.fds.openfile import OpenFile
    from pycriu.fds.saving import Saving
    from pycriu.images.store import ImagesDir, NewCheckpoint
    from pycriu.log import Log

F_SETPIPE_SZ, F_GETPIPE_SZ = 1031, 1032
SPLICE_F_NONBLOCK = 2
ACCESS = os.O_RDONLY | os.O_WRONLY | os.O_RDWR


@record
class Content:
    """A pipe: its capacity in bytes, what is in it, and in packet mode the sizes of the packets."""

    capacity: int
    data: bytes
    packets: tuple[int, ...] = ()


class Ends(Kind):
    """What the kinds of both do alike."""

    DATA = PACKETS = ""  # images: of CRIU's format, and ours

    def __init__(self, options: Any, log: Log) -> None:
        super().__init__(options, log)
        self._ends: dict[int, list[OpenFile]] = {}  # pipe id → the tree's descriptors
        self._contents: dict[int, Content] = {}

    def gather(self, files: list[OpenFile], saving: Saving) -> None:
        """Collect the ends."""
        for file in files:
            self._ends.setdefault(self.pipe_of(file), []).append(file)

    def pipe_of(self, file: OpenFile) -> int:
        """The pipe id."""
        return identity(file)

    def write(self, new: NewCheckpoint) -> None:
        """What was in flight."""
        if not self._contents:
            return
        pairs = [
            (m.pipe_data_entry(pipe_id=number, bytes=len(content.data), size=content.capacity), content.data)
            for number, content in self._contents.items()
        ]
        new.write(self.DATA, pairs)
        some = {number: content.packets for number, content in self._contents.items() if content.packets}
        new.write_any(self.PACKETS, [m.pycriu_packets_entry(pipe_id=number, bytes=some[number]) for number in some])

    def read(self, images: ImagesDir, entries: list[Any]) -> None:
        """The same; ImageError for packets that do not make up the data."""
        self._contents = read(images, self.DATA, self.PACKETS)


def identity(file: OpenFile) -> int:
    """pipe_id, as CRIU makes it."""
    return file.status.st_ino & 0xFFFFFFFF


def readable(file: OpenFile) -> bool:
    """Whether the descriptor is a reading end."""
    return file.flags & ACCESS in (os.O_RDONLY, os.O_RDWR)


def writable(file: OpenFile) -> bool:
    """Whether the descriptor is a writing end."""
    return file.flags & ACCESS in (os.O_WRONLY, os.O_RDWR)


def look(ends: list[OpenFile]) -> Content:
    """What is in the pipe to which all of `ends`, the tree's descriptors for it, lead; it stays there."""
    packets = any(end.flags & os.O_DIRECT and writable(end) for end in ends)
    fd = reader(ends)
    try:
        return peek(fd, ends[0].name, packets=packets)
    finally:
        os.close(fd)


def reader(files: list[OpenFile]) -> int:
    """A reading end of our own. Where the tree has none, opening the magic link of another end makes one."""
    for file in files:
        if readable(file):
            return file.borrow()
    return os.open(f"/proc/{files[0].pid}/fd/{files[0].fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def peek(fd: int, name: str, *, packets: bool) -> Content:
    """What is in the pipe of which `fd` is a reading end; `packets`: its writers are in packet mode."""
    capacity = fcntl.fcntl(fd, F_GETPIPE_SZ)
    waiting = libc.unread(fd)
    if not waiting:
        return Content(capacity, b"")
    side_in, side_out = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.fcntl(side_out, F_SETPIPE_SZ, capacity)
        got = libc.call("tee", fd, side_out, waiting, SPLICE_F_NONBLOCK, what=name)
        if got != waiting:
            raise KernelError("tee", 11, f"{got} of {waiting} bytes of {name}")
        parts = _drain(side_in, got)
    finally:
        os.close(side_in)
        os.close(side_out)
    # read(2) stops at the end of a packet and nowhere else, so more than one part means packets in any case.
    sizes = tuple(len(part) for part in parts) if packets or len(parts) > 1 else ()
    return Content(capacity, b"".join(parts), sizes)


def _drain(fd: int, size: int) -> list[bytes]:
    parts: list[bytes] = []
    while size:
        parts.append(os.read(fd, size))
        size -= len(parts[-1])
    return parts


def fill(fd: int, content: Content, name: str) -> None:
    """Capacity and data, through a writing end that does not block; ImageError for more than it can hold."""
    if content.capacity:
        try:
            fcntl.fcntl(fd, F_SETPIPE_SZ, content.capacity)
        except (OSError, OverflowError) as error:
            raise ImageError(f"{name} cannot have a capacity of {content.capacity} bytes: {error}") from None
    if not content.packets:
        _write(fd, content.data, name)
        return
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_DIRECT)
    at = 0
    for size in content.packets:
        _write(fd, content.data[at : at + size], name)
        at += size
    fcntl.fcntl(fd, fcntl.F_SETFL, flags)


def _write(fd: int, data: bytes, name: str) -> None:
    try:
        done = os.write(fd, data) if data else 0
    except BlockingIOError:
        done = 0
    if done != len(data):
        raise ImageError(f"{name} has {len(data)} bytes in flight, more than it can hold")


def read(images: ImagesDir, name: str, packets: str) -> dict[int, Content]:
    """The contents of all pipes of an image, by pipe id."""
    if not images.exists(name):
        return {}
    own: list[Any] = images.read_if_there(packets)
    sizes = {one.pipe_id: tuple(one.bytes) for one in own}
    found: dict[int, Content] = {}
    pairs: list[Any] = images.read_with_payloads(name)
    for entry, data in pairs:
        mine = sizes.get(entry.pipe_id, ())
        if mine and (sum(mine) != len(data) or 0 in mine):
            raise ImageError(f"{packets}: the packets of pipe {entry.pipe_id} do not make up its {len(data)} bytes")
        found[entry.pipe_id] = Content(entry.size, data, mine)
    return found


def holders(wanted: str) -> dict[str, set[int]]:
    """Who has open what shows in /proc as a link that begins with `wanted`: link → PIDs. Looks at every process."""
    found: dict[str, set[int]] = {}
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        folder = f"/proc/{name}/fd"
        try:
            numbers = os.listdir(folder)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        for number in numbers:
            try:
                link = os.readlink(f"{folder}/{number}")
            except OSError:  # closed meanwhile
                continue
            if link.startswith(wanted):
                found.setdefault(link, set()).add(int(name))
    return found


def outsiders(holders: dict[str, set[int]] | None, link: str, saving: Saving) -> list[int]:
    """Those of `holders` outside the tree who have it still."""
    pids = (holders or {}).get(link, set()) - saving.insiders
    return sorted(pid for pid in pids if _has(pid, link))


def _has(pid: int, link: str) -> bool:
    try:
        return any(os.readlink(f"/proc/{pid}/fd/{fd}") == link for fd in procfs.descriptors(pid))
    except (OSError, TraceeGone):
        return False
