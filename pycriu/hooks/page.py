# SPDX-License-Identifier: GPL-2.0-only
"""The program's end of the channel: a memfd, mapped and nothing else."""

from __future__ import annotations

import mmap
import os
import sys

from pycriu.hooks import channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Page:
    """The mapping of one process. It is never unmapped: the engine may look at it at any time."""

    def __init__(self, pid: int, signal: int) -> None:
        self.pid, self._signal = pid, signal
        self._kept: list[object] = []  # of parents: their addresses mean nothing here, and must not be unmapped
        self._map: mmap.mmap | bytearray = _mapped()
        self._begin()

    def _begin(self) -> None:
        for at, value in ((channel.PID, self.pid), (channel.SIGNAL, self._signal)):
            self.put(at, value)
        self._map[: len(channel.MAGIC)] = channel.MAGIC  # last: from here on it is one

    def renew(self, pid: int) -> None:
        """Another mapping, in a child that has not got its parent's. OSError: it can be used, and nobody finds it."""
        self._kept.append(self._map)
        self.pid, self._map = pid, bytearray(channel.SIZE)
        self._map = _mapped()
        self._begin()

    def get(self, at: int) -> int:
        """A number."""
        return channel.number(self._map, at)

    def put(self, at: int, value: int) -> None:
        """Write a number."""
        self._map[at : at + 4] = channel.packed(value)

    @property
    def request(self) -> int:
        """The number of the last request."""
        return self.get(channel.REQUEST)

    @property
    def asked(self) -> bool:
        """Whether there is a request that has not been answered."""
        return self.request != self.get(channel.ANSWER)

    def message(self) -> bytes:
        """What came with the request."""
        size = min(self.get(channel.MESSAGE_SIZE), channel.MESSAGE_ROOM)
        return bytes(self._map[channel.MESSAGE : channel.MESSAGE + size])

    def doing(self, name: str) -> None:
        """Let the engine see which hook runs."""
        data = _cut(name, channel.DOING_ROOM - 1)
        self._map[channel.DOING : channel.DOING + channel.DOING_ROOM] = data.ljust(channel.DOING_ROOM, b"\0")

    def reply(self, request: int, result: int, text: str = "") -> None:
        """Answer the request of that number."""
        data = _cut(text, channel.REPLY_ROOM)
        self._map[channel.REPLY : channel.REPLY + len(data)] = data
        self.put(channel.REPLY_SIZE, len(data))
        self.put(channel.RESULT, result)
        self.put(channel.ANSWER, request)


def _cut(text: str, room: int) -> bytes:
    """As UTF-8, no longer than there is room, and still UTF-8."""
    return text.encode(errors="replace")[:room].decode(errors="ignore").encode()


def _mapped() -> mmap.mmap:
    fd = os.memfd_create(channel.NAME, os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, channel.SIZE)
        if sys.version_info >= (3, 13):
            untracked: Any = {"trackfd": False}
            area = mmap.mmap(fd, channel.SIZE, **untracked)
        else:
            area = mmap.mmap(fd, channel.SIZE)
            _close_copy(fd)
            _last(area)
    finally:
        os.close(fd)
    area.madvise(mmap.MADV_DONTFORK)
    return area


def _last(area: mmap.mmap) -> None:
    """Beyond the interpreter's end: that of the object would close the number once more, another file's by then."""
    from _ctypes import Py_INCREF

    Py_INCREF(area)


def _close_copy(fd: int) -> None:
    """Close the copy of the descriptor that a mapping keeps for its resizing: it would be left open in every child."""
    ours = os.fstat(fd)
    for other in range(os.sysconf("SC_OPEN_MAX")):  # the lowest that was free
        if other == fd:
            continue
        try:
            status = os.fstat(other)
        except OSError:
            continue
        if (status.st_dev, status.st_ino) == (ours.st_dev, ours.st_ino):
            os.close(other)
            return
