# SPDX-License-Identifier: GPL-2.0-only
"""One program with hooks, seen from the engine: what it shows in its channel, and what is written there.

What is read is not believed: sizes are cut, text is cleaned, and the signal goes to nobody but the owner, if that
handles it.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import fcntl
import os

from pycriu.errors import HookFailed, TraceeGone
from pycriu.hooks import channel
from pycriu.kernel import procfs

STATUS_NOT_NOW, STATUS_REFUSED = 75, 77  # EX_TEMPFAIL and EX_NOPERM of sysexits.h: come again; do not
_SIGKILL, _SIGSTOP, _NSIG = 9, 19, 64


class Program:
    """One process that wants to be told."""

    def __init__(self, pid: int, comm: str, fds: tuple[int, int], address: int, head: bytes) -> None:
        self.pid, self.name = pid, f"process {pid} ({comm})"
        (self._pidfd, self._mem), self._at = fds, address
        self.signal = channel.number(head, channel.SIGNAL)
        self.request = channel.number(head, channel.REQUEST)
        self.told = False  # was told how it ended, and calls hooks for that
        self.looks = False  # stood in a hook when it was restored, and needs no signal

    def close(self) -> None:
        """Close what was opened for it."""
        os.close(self._mem)
        os.close(self._pidfd)

    def take(self) -> None:
        """Keep it for us until `close`; HookFailed where another dump has it. Only who may trace it can lock this."""
        try:
            fcntl.flock(self._mem, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HookFailed(f"{self.name} is being dumped by somebody else", STATUS_NOT_NOW) from None
        if (head := self.head()) is not None:
            self.request = channel.number(head, channel.REQUEST)

    @property
    def _bit(self) -> int:
        """Its signal in a set; 0: there is no such signal."""
        return 1 << self.signal - 1 if 0 < self.signal <= _NSIG else 0

    def deaf(self) -> str | None:
        """Why it would not hear of a request, if so: it has lost its handler. Its signal goes to nobody then."""
        try:
            status = procfs.parse_status(procfs.text(self.pid, "status"))
        except TraceeGone:
            return None  # whoever looks at it next says so
        if self.signal not in (_SIGKILL, _SIGSTOP) and int(status.get("SigCgt", "0"), 16) & self._bit:
            return None
        return (
            f"{self.name} has registered hooks, but no longer handles signal {self.signal}, by which it would hear of "
            "the checkpoint"
        )

    def head(self) -> bytes | None:
        """What it shows; None when it has ended."""
        try:
            data = os.pread(self._mem, channel.HEAD, self._at)
        except OSError:
            return None
        return data if len(data) == channel.HEAD and data.startswith(channel.MAGIC) else None

    def put(self, at: int, data: bytes) -> None:
        """Write into its memory; it may have ended."""
        try:
            os.pwrite(self._mem, data, self._at + at)
        except OSError:
            return

    def ask(self, what: int, limit: float, message: bytes = b"") -> None:
        """Tell it something; it may look only when the signal comes."""
        message = message[: channel.MESSAGE_ROOM]
        self.put(channel.MESSAGE, message)
        for at, value in (
            (channel.MESSAGE_SIZE, len(message)),
            (channel.WHAT, what),
            (channel.ASKER, os.getpid()),
            (channel.LIMIT, round(limit * 1000)),
            (channel.FINAL, 0),
        ):
            self.put(at, channel.packed(value))
        self.request = (self.request + 1) & 0xFFFFFFFF
        self.put(channel.REQUEST, channel.packed(self.request))

    def wake(self) -> None:
        """Send it its signal; a process that has called execve(2) meanwhile does not mind SIGURG."""
        try:
            _signal.pidfd_send_signal(self._pidfd, self.signal)
        except ProcessLookupError:
            return
        except PermissionError:
            said = (
                f"{self.name} is another user's, and signal {self.signal}, by which it would hear of the checkpoint, "
            )
            error = HookFailed(said + "cannot be sent", STATUS_REFUSED)
            error.hint = "it takes CAP_KILL; --hooks=skip asks nobody"
            raise error from None

    def reply(self) -> str:
        """The text that came with the answer, fit to be shown."""
        if (head := self.head()) is None:
            return ""
        size = min(channel.number(head, channel.REPLY_SIZE), channel.REPLY_ROOM)
        try:
            return clean(os.pread(self._mem, size, self._at + channel.REPLY))
        except OSError:
            return ""

    @property
    def stands(self) -> bool:
        """Whether it looks for news by itself."""
        head = self.head()
        return head is not None and channel.number(head, channel.STATE) == channel.STANDING

    def why_late(self) -> str:
        """What keeps it from an answer."""
        head = self.head() or bytes(channel.HEAD)
        doing = clean(head[channel.DOING : channel.DOING + channel.DOING_ROOM].partition(b"\0")[0])
        if channel.number(head, channel.STATE) == channel.IN_SECTION:
            return "it is in a critical section"
        if _is_stopped(self.pid):
            return "it is stopped"
        if doing:
            return f"its hook {doing} is not done"
        if self._blocks():
            return f"it blocks signal {self.signal}, by which it would hear of it"
        return "it is in a call that it does not return from"

    def _blocks(self) -> bool:
        """Whether all of its threads block its signal."""
        try:
            masks = [procfs.text(self.pid, f"task/{tid}/status") for tid in procfs.threads(self.pid)]
        except TraceeGone:
            return False
        return all(int(procfs.parse_status(text).get("SigBlk", "0"), 16) & self._bit for text in masks)


def found(pid: int, comm: str, address: int, known_as: int = 0) -> Program | None:
    """The program that has such a mapping; None where it is another's (vfork), or none at all.

    `known_as` is the PID that it had, where it does not know of a new one yet.
    """
    fds: list[int] = []
    program = None
    try:
        fds.append(os.pidfd_open(pid))  # first: what is read through the other is of this very process
        fds.append(mem := os.open(f"/proc/{pid}/mem", os.O_RDWR | os.O_CLOEXEC))
        head = os.pread(mem, channel.HEAD, address)
        if (
            len(head) == channel.HEAD
            and head.startswith(channel.MAGIC)
            and channel.number(head, channel.PID) == (known_as or pid)
        ):
            program = Program(pid, comm, (fds[0], mem), address, head)
    except OSError:
        return None  # if there is a process of this PID, the survey says what is wrong with it
    finally:
        for fd in fds if program is None else ():
            os.close(fd)
    return program


def marked(pid: int) -> int:
    """The address at which a process has the mapping, 0 where it has none."""
    try:
        for line in procfs.read(pid, "maps").split(b"\n"):
            if line.endswith(channel.MARK.encode()):
                return int(line.partition(b"-")[0], 16)
    except (TraceeGone, PermissionError):  # nobody whom we could ask
        return 0
    return 0


def _is_stopped(pid: int) -> bool:
    try:
        return procfs.stat(pid).state == "T"
    except TraceeGone:
        return False


def clean(data: bytes) -> str:
    """Text of somebody else's, without anything that a terminal would obey."""
    text = data.decode(errors="replace")
    return "".join(character if character.isprintable() else " " for character in text)
