# SPDX-License-Identifier: GPL-2.0-only
"""What a restored program must not have a second time, and what it must not believe any more.

A checkpoint can be restored more than once, and each copy would draw the same random numbers as the others. So after a
restore generators are seeded anew: those of `random` and of numpy that everybody shares, OpenSSL's, what `uuid`
remembers, and the names of `tempfile`. Only what is imported already is touched. Generators that a program has made
for itself (`random.Random()`, `numpy.random.default_rng()`) cannot be found: a hook has to do that. `secrets`,
`os.urandom` and `random.SystemRandom` ask the kernel. The hash seed of str stays what it was.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pycriu.hooks.registry import Errors

_BOOT = "/proc/sys/kernel/random/boot_id"


def _random(module: Any) -> None:
    module.seed()


def _numpy(module: Any) -> None:
    module.seed()


def _ssl(module: Any) -> None:
    module.RAND_add(os.urandom(64), 64.0)  # the next bytes are drawn from a state that has taken these in


def _uuid(module: Any) -> None:
    for name in ("_node", "_last_timestamp", "_last_timestamp_v6", "_last_timestamp_v7", "_last_counter_v7"):
        if hasattr(module, name):
            setattr(module, name, 0 if "counter" in name else None)


def _tempfile(module: Any) -> None:
    module._name_sequence = None


# Name → the module that must have been imported, and what is done to it.
SOURCES: dict[str, tuple[str, Callable[[Any], None]]] = {
    "random": ("random", _random),
    "numpy": ("numpy.random", _numpy),
    "ssl": ("ssl", _ssl),
    "uuid": ("uuid", _uuid),
    "tempfile": ("tempfile", _tempfile),
}

kept: set[str] = set()  # names of SOURCES that are to stay as they were dumped


def keep(*names: str) -> None:
    """Leave these sources of randomness as they were dumped; without names: all. ValueError for one that is unknown."""
    unknown = set(names) - set(SOURCES)
    if unknown:
        raise ValueError(f"{', '.join(sorted(unknown))}: there are {', '.join(SOURCES)}")
    kept.update(names or SOURCES)


def reseed() -> tuple[list[str], Errors]:
    """Seed everything anew that is imported and not kept; the names of what was, and the errors of what was not.

    Such as of another module of that name, or of numpy's generator where a program has set one that has no seed().
    """
    done: list[str] = []
    errors: Errors = []
    for name, (module, action) in SOURCES.items():
        if name not in kept and module in sys.modules:
            try:
                action(sys.modules[module])
            except Exception as error:
                errors.append((f"seeding {name} anew", error))
            else:
                done.append(name)
    return done, errors


class Facts:
    """What a program may have remembered of where it runs."""

    __slots__ = ("boot", "environment", "hostname", "pid")

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.hostname = os.uname().nodename
        self.boot = _boot()
        self.environment = dict(os.environ)

    def changed(self, before: Facts) -> frozenset[str]:
        """The names of those that are others now."""
        return frozenset(name for name in self.__slots__ if getattr(self, name) != getattr(before, name))


def _boot() -> str:
    try:
        with open(_BOOT) as file:
            return file.read().strip()
    except OSError:
        return ""


def forget(changed: frozenset[str]) -> None:
    """What the standard library remembers of what is another now."""
    if platform := sys.modules.get("platform"):
        for name in ("_uname_cache", "_platform_cache"):
            _empty(platform, name)
    if "pid" in changed and (threading := sys.modules.get("threading")):
        threading.current_thread()._set_native_id()


def _empty(module: Any, name: str) -> None:
    """A cache that is a dictionary, or one value."""
    cache = getattr(module, name, None)
    if isinstance(cache, dict):
        cache.clear()
    elif cache is not None:
        setattr(module, name, None)
