# SPDX-License-Identifier: GPL-2.0-only
"""Hooks: who wants to be called when, in which order, for how long; and what is to be said of those that fail.

Before a checkpoint the last registered is called first, afterwards the first registered: what was made last is taken
apart first. A higher priority is called earlier before, and later afterwards.
"""

from __future__ import annotations

import time
from contextvars import ContextVar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Function = Callable[[], Any]
    Errors = list[tuple[str, BaseException]]

BEFORE, AFTER_CHECKPOINT, AFTER_RESTORE = "before_checkpoint", "after_checkpoint", "after_restore"

in_hook: ContextVar[bool] = ContextVar("pycriu_in_hook", default=False)


class NotNow(Exception):
    """Raised by a hook: no checkpoint at this moment; later will do. The dump ends with exit status 75."""


class Refusal(Exception):
    """Why a checkpoint does not take place: `errors` has what each hook raised, in the order of the hooks."""

    def __init__(self, errors: Errors) -> None:
        super().__init__("; ".join(described(name, error) for name, error in errors))
        self.errors = errors

    @property
    def later(self) -> bool:
        """Whether all of them ask to come again, or were interrupted."""
        return all(isinstance(error, NotNow) or is_interruption(error) for _, error in self.errors)


class TookTooLong(Exception):
    """A hook has not kept its time limit."""


class Hook:
    """One function that wants to be called; `limit` is in seconds, None: as long as whoever asks waits."""

    __slots__ = ("function", "limit", "name", "priority")

    def __init__(self, function: Function, priority: int, limit: float | None) -> None:
        self.function, self.priority, self.limit = function, priority, limit
        self.name: str = getattr(function, "__qualname__", None) or repr(function)


class Registry:
    """The hooks of a program."""

    def __init__(self) -> None:
        self._hooks: dict[str, list[Hook]] = {BEFORE: [], AFTER_CHECKPOINT: [], AFTER_RESTORE: []}

    def add(self, kind: str, hook: Hook) -> None:
        """One more."""
        self._hooks[kind].append(hook)

    def remove(self, function: Function) -> None:
        """Forget a function, wherever it is; ValueError where it is nowhere."""
        found = False
        for hooks in self._hooks.values():
            kept = [hook for hook in hooks if hook.function != function]
            found = found or len(kept) < len(hooks)
            hooks[:] = kept
        if not found:
            raise ValueError(f"{function!r} is not registered")

    def ordered(self, kind: str) -> list[Hook]:
        """In the order in which they are to be called."""
        hooks = sorted(self._hooks[kind], key=lambda hook: hook.priority)  # which keeps the order of equals
        return hooks[::-1] if kind == BEFORE else hooks


async def call_all(hooks: list[Hook], told: Callable[[str], None], *, in_loop: bool) -> tuple[list[str], Errors]:
    """Call them one after the other, each whatever became of those before; who was called, and the errors.

    `told` hears the name of each. Coroutines are awaited in the loop that runs; where none does, each gets its own.
    Whatever ends programs (KeyboardInterrupt, SystemExit) is among the errors, too: the caller raises it in the end.
    """
    called: list[str] = []
    errors: Errors = []
    for hook in hooks:
        told(hook.name)
        called.append(hook.name)
        try:
            await _call(hook, in_loop=in_loop)
        except GeneratorExit:  # the loop is no more: nothing can be awaited
            raise
        except BaseException as error:
            errors.append((hook.name, error))
    told("")
    return called, errors


async def _call(hook: Hook, *, in_loop: bool) -> None:
    begin, token = time.monotonic(), in_hook.set(True)
    try:
        result = hook.function()
        if hasattr(result, "__await__"):
            await _finish(result, hook.limit, in_loop=in_loop)
    finally:
        in_hook.reset(token)
    took = time.monotonic() - begin
    if hook.limit is not None and took > hook.limit:
        raise TookTooLong(f"took {took:.1f} s, {hook.limit:g} s are allowed")


async def _finish(result: Any, limit: float | None, *, in_loop: bool) -> None:
    import asyncio

    async def within() -> None:
        try:
            await asyncio.wait_for(result, limit)
        except TimeoutError:
            if limit is None:
                raise
            raise TookTooLong(f"is not done after {limit:g} s") from None

    if in_loop:
        await within()
        return
    # Not asyncio.run: that leaves this thread without the event loop that it has set.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(within())


def is_interruption(error: BaseException) -> bool:
    """Whether it is meant for the program, not for us: KeyboardInterrupt, SystemExit, CancelledError."""
    return not isinstance(error, Exception)


def interruption(errors: Errors) -> BaseException | None:
    """The first of those."""
    return next((error for _, error in errors if is_interruption(error)), None)


def described(name: str, error: BaseException) -> str:
    """An error in a few words: `close_pool: ValueError: 3 transactions are open`."""
    kind = "" if isinstance(error, NotNow | TookTooLong) else f"{type(error).__name__}: "
    return f"{name}: {kind}{error}".removesuffix(": ")
