# SPDX-License-Identifier: GPL-2.0-only
"""The program stands still, its hooks called, until it knows what has become of the checkpoint."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import resource
import time

from pycriu.hooks import channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pycriu.hooks.page import Page

_FIRST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.01  # seconds between two looks for news
_BETWEEN_LOOKS = 0.1  # and between two looks whether whoever asked is there, and whether this is the same life
_SOME_TIME = 10.0  # and between two that open a file, which must not be open at the moment of the dump


def stand(page: Page, born: int, asker: int) -> tuple[int, BaseException | None]:
    """Wait for the end of the checkpoint: how it ended, as WHAT has it, and what a handler has raised meanwhile.

    `born` is when this process was, `asker` the PID of whoever makes the checkpoint.
    """
    pause, raised, life = _FIRST_PAUSE, None, _Life(born)
    looked = time.monotonic()
    while True:
        try:
            if page.asked:
                what = page.get(channel.WHAT)
                return what if what in channel.OUTCOMES else channel.FAILED, raised
            if time.monotonic() - looked > _BETWEEN_LOOKS:
                if life.is_another():
                    return channel.RESTORED, raised
                if not is_alive(asker):
                    return channel.RESTORED if life.began_anew() else channel.FAILED, raised
                looked = time.monotonic()
            _signal.sigtimedwait((), pause)  # time.sleep may be that of greenlets, and let others run
            pause = min(pause * 1.2, _LONGEST_PAUSE)
        except BaseException as error:  # of a handler of the program's: we must not go on before we know
            raised = raised or error


class _Life:
    """Whether this process is still the one that it was: a restored one has another time of birth, which is in a file.

    Its counters, which only grow, are asked first: to the kernel a restored process has hardly done anything.
    """

    def __init__(self, born: int) -> None:
        self._born, self._counted, self._looked = born, _counters(), time.monotonic()

    def is_another(self) -> bool:
        """Mostly without opening anything."""
        before, self._counted = self._counted, _counters()
        if all(map(float.__ge__, self._counted, before)) and time.monotonic() - self._looked < _SOME_TIME:
            return False
        self._looked = time.monotonic()
        return self.began_anew()

    def began_anew(self) -> bool:
        """By the file."""
        return self._born != 0 and channel.born() != self._born


def _counters() -> list[float]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return [used.ru_utime, used.ru_stime, *map(float, (used.ru_minflt, used.ru_majflt, used.ru_nvcsw, used.ru_nivcsw))]


def is_alive(pid: int) -> bool:
    """Whether it runs: a zombie whose parent takes its time does not. Nothing is opened: we are about to be dumped."""
    try:
        os.readlink(f"/proc/{pid}/exe")
    except FileNotFoundError:  # a zombie, or nobody; or somebody whom /proc does not show to us (hidepid=)
        return not os.path.exists(f"/proc/{pid}") and _exists(pid)
    except OSError:  # of another user, who alone can see more
        return _exists(pid)
    return True


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
