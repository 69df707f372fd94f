# SPDX-License-Identifier: GPL-2.0-only
"""The program's side: it hears of a checkpoint by a signal, calls its hooks, and stands still until it is told more.

The handler runs in the main thread, between two steps of the interpreter, as all handlers of Python do: in the middle
of whatever the main thread does, or, where an event loop runs in it, as a task of that loop. There is no thread of our
own, which fork(2) would have to be warned of. The signal is SIGURG, which does nothing to whoever does not know it: a
process that calls execve(2) between being looked at and being told stays as it is. PYCRIU_HOOKS_SIGNAL names another
by number. Python's own calls go on after a signal (PEP 475); C libraries may see EINTR.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

from pycriu.hooks import channel, fresh
from pycriu.hooks.page import Page
from pycriu.hooks.registry import AFTER_CHECKPOINT, AFTER_RESTORE, BEFORE, Refusal, Registry, call_all, described

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import FrameType
    from typing import Any, TypeVar

    T = TypeVar("T")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.01  # seconds between two looks for news
_BETWEEN_LOOKS = 0.1  # and between two looks whether we have been restored, which opens a file


class Moment:
    """The checkpoint that hooks are called for.

    `outcome` is None before it is known, then continued, restored or failed; `why` says why it failed. `changed` names
    what is another after a restore: pid, hostname, environment, boot. `away` is how many seconds have passed meanwhile
    on the clock of the wall. `message` is what whoever restored it has to say (see `pycriu.warm_start`).
    """

    def __init__(self) -> None:
        self.outcome: str | None = None
        self.why = ""
        self.changed: frozenset[str] = frozenset()
        self.message = b""
        self.errors: list[tuple[str, Exception]] = []
        self._facts = fresh.Facts()
        self._begin = time.time()
        self.away = 0.0

    def ended(self, what: int, why: str, message: bytes) -> None:
        """It is known how it ended."""
        self.outcome, self.why, self.message = channel.OUTCOMES[what], why, message
        if what == channel.RESTORED:
            self.away = max(0.0, time.time() - self._begin)
            self.changed = fresh.Facts().changed(self._facts)


class Listener:
    """A program that can be told of checkpoints. There is one: `here`."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.moment: Moment | None = None
        self.arrivals: list[Callable[[Moment], None]] = []  # called first of all in a restored process
        self.served = 0  # conversations that are over
        self.asking_in_loop = False  # the main thread waits for the end of a conversation, in a callback of its loop
        self.page: Page | None = None
        self._old_pages: list[Page] = []  # of parents: their addresses mean nothing here, and must not be unmapped
        self._serving = False
        self._pending = False  # a request waits for the end of critical sections
        self._sections: dict[int, int] = {}  # thread → how many it is in
        self._gate = threading.Condition()  # with a lock that a thread, and a handler in it, can take again
        self._signal = int(os.environ.get("PYCRIU_HOOKS_SIGNAL") or signal.SIGURG)
        self._before: Any = None  # the handler that was there

    # ---------------------------------------------------------------------------------------------------- being there

    def listen(self) -> None:
        """Be found by the engine from now on. RuntimeError outside of the main thread, where handlers cannot be set."""
        if self.page is not None:
            return
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("hooks are first registered in the main thread: only there can handlers be set")
        self._before = signal.signal(self._signal, self._on_signal)
        self.page = Page(os.getpid(), self._signal)
        os.register_at_fork(after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        """A child has its parent's hooks, and a memory of its own to be told through."""
        if self.page is None or self.page.pid == os.getpid():
            return
        self._old_pages.append(self.page)
        me = threading.get_ident()
        self._gate = threading.Condition()
        self._sections = {thread: count for thread, count in self._sections.items() if thread == me}
        self._serving = self._pending = False
        self.page = Page(os.getpid(), self._signal)

    # --------------------------------------------------------------------------------------------------- being asked

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.page is None or not self.page.asked:
            if callable(self._before):  # it was somebody else's
                self._before(number, frame)
            return
        if not self._serving:
            self._serve()

    def _serve(self) -> None:
        """Answer the request that is there, at once or as soon as can be."""
        assert self.page is not None
        with self._gate:
            if self._sections:
                self._pending = True
                self.page.put(channel.STATE, channel.IN_SECTION)
                return
            self._pending = False
            self._serving = True
        loop = None if self.asking_in_loop else _running_loop()
        if loop is not None:
            loop.call_soon_threadsafe(self._serve_in_loop, loop)
        else:
            finished(self._converse(in_loop=False))

    def _serve_in_loop(self, loop: Any) -> None:
        self._task = loop.create_task(self._converse(in_loop=True))

    async def _converse(self, *, in_loop: bool) -> None:
        page = self.page
        assert page is not None
        try:
            what = page.get(channel.WHAT)
            if what == channel.PREPARE and _is_alive(page.get(channel.ASKER)):
                await self._prepare(page, in_loop=in_loop)
            elif what == channel.RESTORED:
                self.moment = Moment()
                await self._finish(page, channel.RESTORED, "", in_loop=in_loop)
            else:  # of a conversation that is over
                page.reply(page.request, channel.DONE)
        finally:
            self.served += 1
            page.put(channel.STATE, channel.IDLE)
            with self._gate:
                self._serving = False
                self._gate.notify_all()

    async def _prepare(self, page: Page, *, in_loop: bool) -> None:
        page.put(channel.STATE, channel.BUSY)
        request, born, asker = page.request, channel.born(), page.get(channel.ASKER)
        self.moment = moment = Moment()
        try:
            _, moment.errors = await call_all(self.registry.ordered(BEFORE), page.doing, in_loop=in_loop)
            await self._leave_sections()
        except BaseException:  # KeyboardInterrupt, or the end of the loop
            page.reply(request, channel.NOT_NOW, "it was interrupted")
            raise
        if moment.errors:
            refusal = Refusal(moment.errors)
            await self._finish(page, channel.FAILED, str(refusal), in_loop=in_loop, refusal=refusal)
            return
        page.put(channel.STATE, channel.STANDING)
        page.reply(request, channel.DONE)
        what = _stand(page, born, asker)
        page.put(channel.STATE, channel.BUSY)
        why = ""
        if what == channel.FAILED:
            why = page.message().decode(errors="replace") if page.asked else "whoever asked for it is gone"
        await self._finish(page, what, why, in_loop=in_loop)

    async def _leave_sections(self) -> None:
        """Tasks of the loop may have entered some while hooks were awaited. (Threads wait for us.)"""
        while self._sections:
            import asyncio

            await asyncio.sleep(0)

    async def _finish(self, page: Page, what: int, why: str, *, in_loop: bool, refusal: Refusal | None = None) -> None:
        """Call those that want to know how it ended, and answer."""
        moment = self.moment
        assert moment is not None
        message = page.message() if what == channel.RESTORED and page.asked else b""
        if what == channel.RESTORED:
            page.put(channel.PID, os.getpid())
            page.pid = os.getpid()
            for arrival in self.arrivals:
                moment.message = message
                arrival(moment)
        moment.ended(what, why, message)
        if what == channel.RESTORED:
            fresh.reseed()
            fresh.forget(moment.changed)
        kind = AFTER_RESTORE if what == channel.RESTORED else AFTER_CHECKPOINT
        _, errors = await call_all(self.registry.ordered(kind), page.doing, in_loop=in_loop)
        moment.errors += errors
        if refusal is not None:
            page.reply(page.request, channel.NOT_NOW if refusal.later else channel.REFUSED, why)
        elif page.asked:
            page.reply(page.request, channel.REFUSED if errors else channel.DONE, str(Refusal(errors)))
        for name, error in errors:
            tell(name, error)

    # --------------------------------------------------------------------------------------------- critical sections

    def enter(self) -> None:
        """This thread must not be dumped from here on; waits while a checkpoint is under way, or is about to be.

        The main thread need not: it is the one that calls the hooks, and stands still.
        """
        me = threading.get_ident()
        with self._gate:
            while (self._serving or self._pending) and me not in self._sections and not _is_main():
                self._gate.wait()
            self._sections[me] = self._sections.get(me, 0) + 1

    def leave(self) -> None:
        """The other way round; a checkpoint that has waited begins."""
        me = threading.get_ident()
        with self._gate:
            self._sections[me] -= 1
            if not self._sections[me]:
                del self._sections[me]
            waited = self._pending and not self._sections
        if waited and _is_main():
            self._serve()
        elif waited:
            signal.pthread_kill(threading.main_thread().ident or 0, self._signal)


here = Listener()


def tell(name: str, error: Exception) -> None:
    """An error that no caller can be given: into the log of the program, which is standard error by default."""
    import logging

    logging.getLogger("pycriu").error("%s", described(name, error), exc_info=error)


def finished(work: Coroutine[Any, Any, T]) -> T:
    """Run to its end a coroutine that never waits."""
    try:
        work.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    raise RuntimeError("this coroutine has waited for something, with no loop to wait in")


def _running_loop() -> Any:
    asyncio = sys.modules.get("asyncio.events") or sys.modules.get("asyncio")
    return asyncio._get_running_loop() if asyncio is not None else None


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()


def _stand(page: Page, born: int, asker: int) -> int:
    """Wait for the end of the checkpoint; how it ended, as WHAT has it."""
    pause, looked = _FIRST_PAUSE, time.monotonic()
    while True:
        if page.asked:
            what = page.get(channel.WHAT)
            return what if what in channel.OUTCOMES else channel.FAILED
        if time.monotonic() - looked > _BETWEEN_LOOKS:
            if born and channel.born() != born:
                return channel.RESTORED
            if not _is_alive(asker):
                return channel.FAILED
            looked = time.monotonic()
        time.sleep(pause)
        pause = min(pause * 1.2, _LONGEST_PAUSE)


def _is_alive(pid: int) -> bool:
    """Nothing is opened for that: it might be open when we are dumped."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
