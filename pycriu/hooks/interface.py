# SPDX-License-Identifier: GPL-2.0-only
"""What a program calls when it starts: `pycriu.before_checkpoint` and its like. docs/python.md shows it in use."""

from __future__ import annotations

from pycriu.hooks import fresh
from pycriu.hooks.listener import here
from pycriu.hooks.moment import Moment
from pycriu.hooks.registry import AFTER_CHECKPOINT, AFTER_RESTORE, BEFORE, Hook, NotNow, Refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    F = TypeVar("F", bound=Callable[[], Any])

__all__ = [
    "Moment",
    "NotNow",
    "Refusal",
    "after_checkpoint",
    "after_restore",
    "before_checkpoint",
    "critical_section",
    "forget_hook",
    "keep_randomness",
    "listen",
    "moment",
]


def _registered(kind: str, function: F | None, priority: int, timeout: float | None) -> Any:
    def register(one: F) -> F:
        here.listen()
        here.registry.add(kind, Hook(one, priority, timeout))
        return one

    return register if function is None else register(function)


def before_checkpoint(function: F | None = None, *, priority: int = 0, timeout: float | None = None) -> Any:
    """Call this function, or coroutine, before a dump: the last registered first, a higher priority earlier.

    What it raises forbids the dump: `NotNow` for the moment, anything else altogether. `timeout` is in seconds.
    """
    return _registered(BEFORE, function, priority, timeout)


def after_checkpoint(function: F | None = None, *, priority: int = 0, timeout: float | None = None) -> Any:
    """Call this when the program goes on after a dump, or after one that has failed: the first registered first."""
    return _registered(AFTER_CHECKPOINT, function, priority, timeout)


def after_restore(function: F | None = None, *, priority: int = 0, timeout: float | None = None) -> Any:
    """Call this in a restored program: the first registered first, a higher priority later."""
    return _registered(AFTER_RESTORE, function, priority, timeout)


def forget_hook(function: Callable[[], Any]) -> None:
    """Do not call this function any more."""
    here.registry.remove(function)


def listen() -> None:
    """Be told of restores even without hooks: for what is done to randomness then."""
    here.listen()


def keep_randomness(*names: str) -> None:
    """Do not seed these anew after a restore: random, numpy, ssl, uuid, tempfile; without names: none of them."""
    fresh.keep(*names)


def moment() -> Moment | None:
    """The checkpoint under way, or else the last one; None before the first."""
    return here.moment


class critical_section:  # noqa: N801  # used as a function is
    """A block in which this thread is not dumped: whoever wants to waits until it ends, as long as its time lasts."""

    def __enter__(self) -> None:
        here.enter()

    def __exit__(self, *_: object) -> None:
        here.leave()
