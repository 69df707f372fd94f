# SPDX-License-Identifier: GPL-2.0-only
"""The program's side: it hears of a checkpoint by a signal, calls its hooks, and stands still until it is told more.

The handler runs in the main thread, between two steps of the interpreter, as all handlers of Python do: in the middle
of whatever the main thread does, or, where an event loop runs in it, as a task of that loop. There is no thread of our
own, which fork(2) would have to be warned of. The signal is SIGURG, which does nothing to whoever does not know it: a
process that calls execve(2) between being looked at and being told stays as it is. PYCRIU_HOOKS_SIGNAL names another
by number. Python's own calls go on after a signal (PEP 475); C libraries may see EINTR.

What handlers of the program raise meanwhile, KeyboardInterrupt first of all, is raised when the conversation is over:
what hooks have put away is never left so.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import weakref

from pycriu.hooks import channel, fresh
from pycriu.hooks.moment import Moment
from pycriu.hooks.page import Page
from pycriu.hooks.registry import (
    AFTER_CHECKPOINT,
    AFTER_RESTORE,
    BEFORE,
    Refusal,
    Registry,
    call_all,
    described,
    interruption,
    is_interruption,
)
from pycriu.hooks.sections import Sections
from pycriu.hooks.standing import is_alive, stand

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import FrameType
    from typing import Any, TypeVar

    from pycriu.hooks.registry import Errors

    T = TypeVar("T")

_PAUSE = 0.001  # seconds between two looks whether tasks have left their sections


class Listener:
    """A program that can be told of checkpoints. There is one: `here`."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.moment: Moment | None = None
        self.arrivals: list[Callable[[Moment], None]] = []  # called first of all in a restored process
        self.served = 0  # conversations that are over
        self.asker = 0  # the PID of whoever began the last of them
        self.asking_in_loop = False  # the main thread waits for the end of a conversation, in a callback of its loop
        self.page: Page | None = None
        self._serving = False
        self._task: Any = None  # of the loop, while it serves: loops forget those that nobody holds
        self._turn: weakref.ref[_Turn] | None = None  # what the loop has not begun yet
        self._sections = Sections()
        self._request = 0  # the number of the one that is being served
        self._main = 0  # the kernel's id of the main thread: that of `threading` may be a greenlet's
        self._signal = int(os.environ.get("PYCRIU_HOOKS_SIGNAL") or signal.SIGURG)
        self._before: Any = None  # the handler that was there

    # ---------------------------------------------------------------------------------------------------- being there

    def listen(self) -> None:
        """Be found by the engine from now on. RuntimeError outside of the main thread, where handlers cannot be set."""
        if self.page is not None:
            return
        try:
            before = signal.signal(self._signal, self._on_signal)
        except ValueError:
            raise RuntimeError(
                "hooks are first registered in the main thread of the main interpreter: only there can handlers be set"
            ) from None
        try:
            self.page = Page(os.getpid(), self._signal)
        except OSError:
            signal.signal(self._signal, before)
            raise
        self._before = before
        self._main = threading.get_native_id()
        os.register_at_fork(after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        """A child has its parent's hooks, and a memory of its own to be told through."""
        if self.page is None or self.page.pid == os.getpid():
            return
        self._main = threading.get_native_id()
        self._sections.forked()
        self._serving, self._turn = False, None
        self.page.renew(os.getpid())

    def is_main(self) -> bool:
        """Whether this is the thread in which handlers run."""
        return threading.get_native_id() == self._main

    # --------------------------------------------------------------------------------------------------- being asked

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.page is None or not self.page.asked:
            if callable(self._before):  # it was somebody else's
                self._before(number, frame)
            return
        turn = self._turn() if self._turn is not None else None
        if turn is not None and turn.loop is not running_loop() and turn.comes():  # it may never run again
            self.over()
        if not self._serving:
            self._serve()

    def _serve(self) -> None:
        """Answer the request that is there, at once or as soon as can be."""
        assert self.page is not None
        if not self.page.asked:  # somebody else has been quicker
            return
        if not self._sections.take():
            self.page.put(channel.STATE, channel.IN_SECTION)
            return
        self._serving = True
        loop = None if self.asking_in_loop else running_loop()
        if loop is not None:
            turn = _Turn(self, loop)
            self._turn = weakref.ref(turn)
            loop.call_soon_threadsafe(turn.begin, self)
        else:
            finished(self.converse())

    def over(self) -> None:
        """A conversation has come to its end, or to nothing. Who sees that may ask again at once, and is heard."""
        assert self.page is not None
        self._turn = self._task = None
        self._sections.give_back()
        self._serving = False
        self.page.put(channel.STATE, channel.IDLE)

    def again(self) -> None:
        """It has come to nothing, because its loop is no more."""
        self.over()
        os.kill(os.getpid(), self._signal)

    async def converse(self, turn: _Turn | None = None) -> None:
        """Do what is asked; raise in the end what is meant for the program."""
        page, in_loop = self.page, turn is not None
        assert page is not None
        if turn is not None:
            if not turn.comes():
                return
            self._task = sys.modules["asyncio"].current_task()
        raised: BaseException | None = None
        self._request = request = page.request  # first: whoever asks now writes it last
        try:
            what, self.asker = page.get(channel.WHAT), page.get(channel.ASKER)
            if what == channel.PREPARE and is_alive(self.asker):
                raised = await self._prepare(page, in_loop=in_loop)
            elif what == channel.RESTORED:
                self.moment = Moment()
                raised = await self._finish(page, channel.RESTORED, "", in_loop=in_loop)
            else:  # of a conversation that is over
                page.reply(request, channel.DONE)
        finally:
            self.served += 1
            self.over()
            if self._is_asked_anew(page):
                os.kill(os.getpid(), self._signal)
        if raised is not None:
            raise raised

    def _is_asked_anew(self, page: Page) -> bool:
        """Whether somebody has asked for the next conversation while one was had that nobody waited for any more.

        Its signal has come in vain then.
        """
        return page.asked and page.request != self._request and page.get(channel.WHAT) == channel.PREPARE

    async def _prepare(self, page: Page, *, in_loop: bool) -> BaseException | None:
        page.put(channel.STATE, channel.BUSY)
        request, born, pid = self._request, channel.born(), page.pid
        self.moment = moment = Moment()
        _, moment.errors = await call_all(self.registry.ordered(BEFORE), page.doing, in_loop=in_loop)
        if page.pid != pid:  # `_after_fork` was here
            return await self._finish(page, channel.FAILED, "a hook has made this process", in_loop=in_loop)
        await self._leave_sections()
        if moment.errors:
            refusal = Refusal(moment.errors)
            return await self._finish(page, channel.FAILED, str(refusal), in_loop=in_loop, refusal=refusal)
        page.put(channel.STATE, channel.STANDING)
        page.reply(request, channel.DONE)
        what, raised = stand(page, born, self.asker)
        page.put(channel.STATE, channel.BUSY)
        why = ""
        if what == channel.FAILED:
            why = page.message().decode(errors="replace") if page.asked else "whoever asked for it is gone"
        after = await self._finish(page, what, why, in_loop=in_loop)
        return raised or after

    async def _leave_sections(self) -> None:
        """Tasks of the loop may have entered some while hooks were awaited. (Threads wait for us.)"""
        while self._sections:
            import asyncio

            await asyncio.sleep(_PAUSE)

    async def _finish(
        self, page: Page, what: int, why: str, *, in_loop: bool, refusal: Refusal | None = None
    ) -> BaseException | None:
        """Call those that want to know how it ended, and answer; what is to be raised in the program."""
        moment = self.moment
        assert moment is not None
        message = page.message() if what == channel.RESTORED and page.asked else b""
        if what == channel.RESTORED:
            page.put(channel.PID, os.getpid())
            page.pid, self._main = os.getpid(), threading.get_native_id()
            for arrival in self.arrivals:
                moment.message = message
                arrival(moment)
        moment.ended(what, why, message)
        failed: Errors = []
        if what == channel.RESTORED:
            _, failed = fresh.reseed()
            fresh.forget(moment.changed)
        kind = AFTER_RESTORE if what == channel.RESTORED else AFTER_CHECKPOINT
        _, errors = await call_all(self.registry.ordered(kind), page.doing, in_loop=in_loop)
        errors = failed + errors
        moment.errors += errors
        if refusal is not None:
            page.reply(page.request, channel.NOT_NOW if refusal.later else channel.REFUSED, why)
        elif page.asked and not self._is_asked_anew(page):
            page.reply(page.request, channel.REFUSED if errors else channel.DONE, str(Refusal(errors)))
        for name, error in errors:
            if not is_interruption(error):
                tell(name, error)
        return interruption(moment.errors)

    # --------------------------------------------------------------------------------------------- critical sections

    @property
    def in_section(self) -> bool:
        """Whether this thread is in a critical section."""
        return threading.get_ident() in self._sections

    def enter(self) -> None:
        """This thread must not be dumped from here on; waits while a checkpoint is under way, or is about to be.

        The main thread need not: it is the one that calls the hooks, and stands still.
        """
        self._sections.enter(may_wait=not self.is_main(), wanted=self._is_wanted)

    def _is_wanted(self) -> bool:
        """Whether whoever has asked for a checkpoint still waits for it."""
        page = self.page
        if page is None or not page.asked:
            return False
        return page.get(channel.WHAT) == channel.PREPARE and is_alive(page.get(channel.ASKER))

    def leave(self) -> None:
        """The other way round; a checkpoint that has waited begins."""
        if not self._sections.leave():
            return
        if self.is_main():
            self._serve()
        else:
            os.kill(os.getpid(), self._signal)  # the kernel prefers the main thread


class _Turn:
    """A conversation that waits for an event loop to begin it. One that is forgotten, as the loop ends, begins anew."""

    def __init__(self, listener: Listener, loop: Any) -> None:
        self.loop = loop
        self._listener, self._waits = listener, True

    def begin(self, listener: Listener) -> None:
        """The loop has got round to it."""
        self.loop.create_task(listener.converse(self))  # which the loop holds until it begins

    def comes(self) -> bool:
        """Whether it is to be had; not a second time."""
        waited, self._waits = self._waits, False
        return waited

    def __del__(self) -> None:
        if self.comes():
            self._listener.again()


here = Listener()


def tell(name: str, error: BaseException) -> None:
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


def running_loop() -> Any:
    """The event loop of asyncio that runs in this thread, None where there is none."""
    asyncio = sys.modules.get("asyncio.events") or sys.modules.get("asyncio")
    return asyncio._get_running_loop() if asyncio is not None else None
