# SPDX-License-Identifier: GPL-2.0-only
"""Who talks to the CUDA driver: a process of its own, which undoes what was begun when we end, however we do.

A process whose CUDA is locked or checkpointed waits for ever at its next call of CUDA. So whoever locks it must not
go away: when the connection to us ends without a word, the guard brings back what was checkpointed, and unlocks what
it has locked. A call of the driver that does not come back is ended with its guard, and another one does the undoing.
"""

from __future__ import annotations

import _socket
import contextlib
import marshal
import os
import select
import time

from pycriu.errors import PycriuError, TraceeGone
from pycriu.kernel import libc, procfs, ptrace
from pycriu.plugins.cuda import driver
from pycriu.plugins.cuda.driver import CHECKPOINTED, LOCKED, RUNNING, STATE, SUCCESS

HOLD, ALONE, FORGET = "hold", "alone", "forget"  # beside what the driver is asked
GRACE = 5.0  # seconds for coming back from a call, once nobody waits for it any more
PATIENCE = 300.0  # seconds for all of a GPU's memory to be copied
_ATTEMPTS, _PAUSE = 40, 0.1  # of undoing, and seconds between two: who ended may not have been cleared away yet
_SIGKILL = 9
_ROOM = 1 << 12


class NoAnswer(PycriuError):
    """The driver has not come back from a call, or has ended the process that called."""


class Guard:
    """Our side. To be made before anything is stopped; UserError where there is no driver that can do it."""

    def __init__(self) -> None:
        self._held: dict[int, int] = {}  # PID → state in which it is to be left
        self._pid = 0
        self._start()
        try:
            code, _ = self.ask("load", 0, 0, GRACE)
        except BaseException:
            self._reap()
            raise
        if code:
            self._reap()
            driver.Driver()  # says what is wrong
            raise PycriuError("the CUDA driver could be loaded only at the second attempt")

    def _start(self) -> None:
        self._ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        self._pid = libc.fork_deaf()
        if not self._pid:
            _live(theirs)
        theirs.close()

    def ask(self, what: str, pid: int, value: int, limit: float) -> tuple[int, int]:
        """One call of the driver: CUresult and what it tells. NoAnswer after `limit` seconds."""
        try:
            self._ours.send(marshal.dumps((what, pid, value)))
        except OSError:
            raise NoAnswer("the process that calls the CUDA driver has ended") from None
        answer = self._receive(time.monotonic() + limit)
        if not answer:
            did = "ended the process that asked" if answer is not None else f"not answered within {limit:g} s"
            raise NoAnswer(
                f"the CUDA driver has {did} ({what} of process {pid})",
                "the kernel log (dmesg) may have more from the driver",
            )
        return int(answer[0]), int(answer[1])

    def _receive(self, end: float) -> tuple[int, ...] | None:
        """The next message; nothing in it at the end of the connection, None at the end of the time."""
        poll = select.poll()
        poll.register(self._ours.fileno(), select.POLLIN)
        if not poll.poll(max(0.0, end - time.monotonic()) * 1e3):
            return None
        try:
            got = self._ours.recv(_ROOM)
        except ConnectionResetError:
            return ()
        message: tuple[int, ...] = marshal.loads(got) if got else ()
        return message

    def hold(self, pid: int, state: int) -> None:
        """From now on this process is left in `state` whenever we end."""
        self._held[pid] = state
        self.ask(HOLD, pid, state, GRACE)

    def note(self, tid: int, mask: int) -> None:
        """A thread that has to get this signal mask back if we end; 0: none."""
        try:
            self._ours.send(marshal.dumps((ALONE, tid, mask)))
        except OSError:
            if tid:
                raise NoAnswer("the process that calls the CUDA driver has ended") from None

    def forget(self) -> None:
        """Nothing is to be undone any more; the guard ends. Safe to call twice."""
        if self._pid:
            self._held = {}
            with contextlib.suppress(OSError):  # it has ended already
                self._ours.send(marshal.dumps((FORGET, 0, 0)))
            self.undo()

    def begin_undo(self) -> None:
        """Tell the guard to undo what was begun, and do not wait for it."""
        if self._pid:
            with contextlib.suppress(OSError):  # it has ended; `undo` finds out
                self._ours.shutdown(_socket.SHUT_WR)

    def undo(self) -> None:
        """Undo what was begun; PycriuError names the processes that stay as they are. Safe to call twice."""
        if not self._pid:
            return
        left = self._undo_once()
        if left is None and self._held:
            held, self._held = self._held, {}
            self._start()
            for pid, state in held.items():
                self.hold(pid, state)
            left = self._undo_once()
            if left is None:
                left = [(pid, -1) for pid in held]
        if left:
            names = ", ".join(f"{pid} ({driver.sentence(code)[0] if code >= 0 else 'no answer'})" for pid, code in left)
            raise PycriuError(
                f"CUDA of process {names} could not be brought back: it is to wait at its next call of CUDA",
                "cuda-checkpoint --pid PID --action restore, and then --action unlock, may do it",
            )

    def _undo_once(self) -> list[tuple[int, int]] | None:
        """Who could not be brought back, and why; None where the guard has not come to its end."""
        self.begin_undo()
        end, left = time.monotonic() + GRACE, []
        while message := self._receive(end):
            if len(message) == 1:  # it is at it
                end = time.monotonic() + PATIENCE
            elif len(message) == 3:
                left.append((message[0], message[1]))
        status = self._reap()
        return left if status == 0 else None

    def _reap(self) -> int:
        """Its wait status; it is ended if it has not done so by itself."""
        end = time.monotonic() + 1
        while not (found := os.waitpid(self._pid, os.WNOHANG))[0]:
            if time.monotonic() > end:
                os.kill(self._pid, _SIGKILL)
                found = os.waitpid(self._pid, 0)
                break
            time.sleep(0.001)
        self._pid = 0
        self._ours.close()
        return found[1]


def _live(theirs: _socket.socket) -> None:
    """The guard's life: what it inherits is not for it to keep open, nor are signals for it."""
    status = 1
    try:
        os.setsid()
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 2 and int(name) != theirs.fileno():
                try:
                    os.close(int(name))
                except OSError:
                    continue  # it was that of the list itself
        _Server(theirs).serve()
        status = 0
    finally:
        os._exit(status)


class _Server:
    """What the guard knows: whom to leave in which state, and the thread that needs its signal mask back."""

    def __init__(self, theirs: _socket.socket) -> None:
        self._theirs = theirs
        self._driver: driver.Driver
        self._held: dict[int, tuple[int, int]] = {}  # PID → when it began, the state
        self._alone = (0, 0)

    def serve(self) -> None:
        """Until there is nobody any more; then undo."""
        while message := self._next():
            what, pid, value = marshal.loads(message)
            if what == ALONE:
                self._alone = pid, value
            elif what == FORGET:
                self._held = {}
            else:
                self._tell(*self._do(what, pid, value))
        self._tell(0)
        if self._alone[0]:
            _give_mask(*self._alone)
        for pid, (began, state) in self._held.items():
            if code := self._bring_back(pid, began, state):
                self._tell(pid, code, 0)

    def _next(self) -> bytes:
        """The next message; empty at the end."""
        try:
            return self._theirs.recv(_ROOM)
        except ConnectionResetError:  # said once, where an answer was not heard: there may be messages before the end
            return self._theirs.recv(_ROOM)

    def _tell(self, *words: int) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more: it is the end of the connection that counts
            self._theirs.send(marshal.dumps(words))

    def _do(self, what: str, pid: int, value: int) -> tuple[int, int]:
        if what == "load":
            try:
                self._driver = driver.Driver()
            except PycriuError:
                return 1, 0
            return SUCCESS, 0
        if what == HOLD:
            if not hasattr(self, "_driver"):
                self._driver = driver.Driver()
            self._held[pid] = _began(pid), value
            return SUCCESS, 0
        return self._driver.call(what, pid, value)

    def _bring_back(self, pid: int, began: int, wanted: int) -> int:
        """Until the state is the wanted one, or the process is gone; the last error."""
        code = SUCCESS
        for _ in range(_ATTEMPTS):
            if not began or _began(pid) != began:
                return SUCCESS
            code, state = self._driver.call(STATE, pid)
            if code == SUCCESS and state == wanted:
                return SUCCESS
            if code == SUCCESS:
                code = self._step(pid, state, wanted)
            if code:
                time.sleep(_PAUSE)
        return code or driver.ILLEGAL_STATE

    def _step(self, pid: int, state: int, wanted: int) -> int:
        if state == CHECKPOINTED:
            return self._driver.call(driver.RESTORE, pid)[0]
        if state == LOCKED and wanted == RUNNING:
            return self._driver.call(driver.UNLOCK, pid)[0]
        return driver.ILLEGAL_STATE


def _began(pid: int) -> int:
    """When a process began, in ticks; 0 where it has ended."""
    try:
        stat = procfs.stat(pid)
    except TraceeGone:
        return 0
    return 0 if stat.state in "ZX" else stat.starttime


def _give_mask(tid: int, mask: int) -> None:
    """Give a thread that somebody has let go of its signal mask."""
    end = time.monotonic() + GRACE
    while True:
        try:
            ptrace.seize(tid)
            break
        except TraceeGone:
            return
        except PycriuError:
            if time.monotonic() > end:
                raise
            time.sleep(0.005)  # who has traced it has not quite ended
    try:
        ptrace.interrupt(tid)
        while (status := ptrace.wait(tid)) >> 16 != ptrace.EVENT_STOP:
            ptrace.cont(tid, os.WSTOPSIG(status))
        ptrace.set_sigmask(tid, mask)
        ptrace.detach(tid)
    except TraceeGone:
        return
